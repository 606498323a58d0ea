"""Scores and paired comparisons from stored predictions: one primary, the rest corrected, no claim below detection."""

import json

import numpy as np
import pytest

from medalign.errors import RunError
from medalign.evaluation.compare import PRIMARY, compare, score
from medalign.evaluation.result import EvaluationResult, Predictions, Samples, from_parquet, loads, to_parquet
from medalign_core.metrics.classification import classification_scores

OPTIONS = {"replicates": 400, "level": 0.95, "seed": 0}
SAMPLES = Samples(
    ids=np.array([f"image-{i}" for i in range(120)], dtype=object),
    groups=np.array([f"patient-{i // 3}" for i in range(120)], dtype=object),
    labels=np.arange(120) // 3 % 2,
)


def predictions(method: str, head: str = "logistic", *, seed: int = 0, skill: float) -> Predictions:
    draw = np.random.default_rng([seed, len(method), len(head)])
    logit = (2 * SAMPLES.labels - 1) * skill + draw.normal(size=120)
    positive = 1 / (1 + np.exp(-logit))
    probabilities = np.stack([1 - positive, positive], axis=1)
    return Predictions(method=method, head=head, seed=seed, chosen=0.1, probabilities=probabilities)


def table(skills: dict[str, float], seeds: int = 1) -> list[Predictions]:
    return [
        predictions(method, head, seed=seed, skill=skill)
        for method, skill in skills.items()
        for seed in range(1 if method == "pixels" else seeds)
        for head in ("logistic", "knn")
    ]


def result(entries: list[Predictions]) -> EvaluationResult:
    return EvaluationResult(
        run="/runs/one",
        corpus="/corpora/xray",
        fingerprint="abc",
        task="probe",
        checkpoint="best",
        classes=("benign", "<malignant>"),
        rows={"train": 10, "test": 120},
        groups={"train": 5, "test": 40},
        selection="5-fold cross-validation by group",
        level=0.95,
        replicates=400,
        scores=score(entries, SAMPLES, **OPTIONS),
        comparisons=compare(entries, SAMPLES, **OPTIONS),
        notes=("a note",),
        uri="/runs/one/evaluations/xray-probe",
    )


def test_exactly_one_comparison_is_primary_and_it_is_the_declared_one() -> None:
    found = compare(table({"pretrained": 1.0, "random": 0.5, "pixels": 0.5}), SAMPLES, **OPTIONS)
    primary = [c for c in found if c.role == "primary"]
    assert len(found) == 4
    assert [{name: getattr(c, name) for name in PRIMARY} for c in primary] == [PRIMARY]
    assert primary[0].adjusted == primary[0].difference.p_value


def test_a_large_difference_is_found_and_none_is_claimed_between_equals() -> None:
    found = compare(table({"pretrained": 2.5, "random": 0.0, "pixels": 2.5}), SAMPLES, **OPTIONS)
    verdicts = {(c.against, c.head): c.verdict for c in found}
    assert verdicts["random", "logistic"] == verdicts["random", "knn"] == "higher"
    assert verdicts["pixels", "logistic"] == verdicts["pixels", "knn"] == "not distinguishable"
    worse = compare(table({"pretrained": 0.0, "random": 2.5}), SAMPLES, **OPTIONS)
    assert {c.verdict for c in worse} == {"lower"}


def test_a_difference_below_the_minimum_detectable_one_is_not_distinguishable() -> None:
    for skill in np.linspace(0.4, 1.6, 7):
        for c in compare(table({"pretrained": skill, "random": 0.4}), SAMPLES, **OPTIONS):
            if abs(c.difference.estimate) < c.difference.minimum_detectable:
                assert c.verdict == "not distinguishable"


def test_secondary_p_values_are_corrected_among_themselves() -> None:
    found = [
        c
        for c in compare(table({"pretrained": 0.9, "random": 0.4, "pixels": 0.5}), SAMPLES, **OPTIONS)
        if c.role == "secondary"
    ]
    raw = sorted((c.difference.p_value, c.adjusted) for c in found)
    assert raw[0][1] == pytest.approx(min(1, 3 * raw[0][0]))
    assert all(adjusted >= p for p, adjusted in raw)


def test_methods_are_paired_by_seed_and_a_single_one_meets_every_seed() -> None:
    found = compare(table({"pretrained": 1.0, "random": 0.2, "pixels": 0.5}, seeds=3), SAMPLES, **OPTIONS)
    first = next(c for c in found if c.role == "primary")
    values = []
    for seed in range(3):
        pair = [predictions(m, seed=seed, skill=s) for m, s in (("pretrained", 1.0), ("random", 0.2))]
        a, b = (classification_scores(SAMPLES.labels, p.probabilities)["balanced_accuracy"] for p in pair)
        values.append(float(a - b))
    assert first.difference.per_seed == pytest.approx(values)
    assert first.difference.has_few_seeds
    assert [len(c.difference.per_seed) for c in found] == [3, 3, 3, 3]


def test_scores_can_be_computed_again_from_the_stored_predictions() -> None:
    entries = table({"pretrained": 1.0, "random": 0.5, "pixels": 0.2}, seeds=2)
    stored, samples, classes = from_parquet(to_parquet(entries, SAMPLES, ("benign", "<malignant>")))
    assert classes == ("benign", "<malignant>")
    np.testing.assert_array_equal(samples.groups, SAMPLES.groups)
    assert score(stored, samples, **OPTIONS) == score(entries, SAMPLES, **OPTIONS)
    assert compare(stored, samples, **OPTIONS) == compare(entries, SAMPLES, **OPTIONS)


def test_a_result_survives_json_and_says_which_file_cannot_be_read() -> None:
    written = result(table({"pretrained": 1.0, "random": 0.5}))
    assert loads(written.dumps(), where="scores.json") == written
    with pytest.raises(RunError, match=r"x/scores\.json: schema 'older/0'"):
        loads(json.dumps({**json.loads(written.dumps()), "schema": "older/0"}), where="x/scores.json")
    with pytest.raises(RunError, match=r"x/scores\.json: no evaluation to read"):
        loads("{}", where="x/scores.json")


def test_intervals_that_do_not_exist_are_null_in_json() -> None:
    lonely = Samples(ids=SAMPLES.ids, groups=np.array(["one"] * 120, dtype=object), labels=SAMPLES.labels)
    entries = table({"pretrained": 1.0, "random": 0.5})
    found = compare(entries, lonely, **OPTIONS)
    written = json.loads(result(entries).dumps())
    assert {c.verdict for c in found} == {"not distinguishable"}
    assert written["scores"][0]["metrics"]["accuracy"]["undefined"] == 0
    blank = EvaluationResult(**{**vars(result(entries)), "comparisons": found})
    assert json.loads(blank.dumps())["comparisons"][0]["difference"]["low"] is None
    assert np.isnan(loads(blank.dumps(), where="x").comparisons[0].difference.low)


def test_lines_for_a_terminal_hold_every_row_and_the_primary_comparison() -> None:
    found = result(table({"pretrained": 2.5, "random": 0.0, "pixels": 0.5}))
    lines = found.lines()
    assert len(lines) == 7
    first = found.scores[0].metrics["balanced_accuracy"]
    assert lines[0].endswith(f"balanced_accuracy {first.estimate:.3f} [{first.low:.3f}, {first.high:.3f}]")
    assert lines[-1].startswith("primary comparison (pretrained - random, logistic, balanced_accuracy): +")
    assert lines[-1].endswith(": higher")
