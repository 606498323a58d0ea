"""The page of a run: self-contained, escaped, honest about what it lacks, and the same for the same run."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from medalign.errors import RunError
from medalign.evaluation.compare import compare, score
from medalign.evaluation.result import EvaluationResult, Predictions, Samples
from medalign.reports.page import report

ENVIRONMENT = {
    "started": "2026-11-24T05:40:09+00:00",
    "python": "3.11.7",
    "packages": {"medalign": "0.1.0", "torch": "2.13.0"},
}
EVIL = '<script>alert("x")</script>'


def a_run(at: Path, *, steps: int = 40, allow_splits: tuple[str, ...] = (), name: str = "first light") -> Path:
    recipe = {
        "run": {"uri": str(at), "name": name, "seed": 3},
        "data": {"corpus": f"/corpora/{name}", "allow_splits": list(allow_splits)},
        "model": {"type": "resnet"},
        "objective": {"type": "lvm_med", "graph_size": 16},
        "train": {"workers": 2, "micro_batch": 32, "global_batch": 64},
    }
    (at / "figures").mkdir(parents=True)
    (at / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (at / "environment.json").write_text(json.dumps(ENVIRONMENT))
    lines = []
    for step in range(1, steps + 1):
        numbers = {"loss": 1 / step, "hamming": 30 / step, "matching_accuracy": 1 - 1 / step, "embedding_std": 0.1}
        speed = {"images_per_second": 90.0 + step, "data_wait": 0.1}
        lines.append({"step": step, "kind": "train", **numbers, **speed})
        if step % 10 == 0:
            lines.append({"step": step, "kind": "validation", **numbers})
    (at / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return at


def a_matching(at: Path, matching: list[int]) -> None:
    nodes, draw = len(matching), np.random.default_rng(0)
    views = draw.integers(0, 256, (2, nodes, 24, 32, 3), dtype=np.uint8)
    affinity = draw.normal(size=(nodes, nodes)).astype(np.float32)
    np.savez(at / "figures/matching.npz", first=views[0], second=views[1], matching=matching, affinity=affinity)


def an_evaluation(at: Path, *, seeds: int, classes: tuple[str, ...] = ("normal", "pneumonia")) -> EvaluationResult:
    labels, draw = np.arange(80) % 2, np.random.default_rng(1)
    samples = Samples(ids=np.arange(80).astype(str), groups=np.arange(80).astype(str), labels=labels)
    entries = []
    for method, skill in (("pretrained", 1.5), ("random", 0.2), ("pixels", 0.2)):
        for seed in range(1 if method == "pixels" else seeds):
            positive = 1 / (1 + np.exp(-(2 * labels - 1) * skill - draw.normal(size=80)))
            both = np.stack([1 - positive, positive], axis=1)
            entries += [
                Predictions(method=method, head=head, seed=seed, chosen=1, probabilities=both)
                for head in ("logistic", "knn")
            ]
    options = {"replicates": 200, "level": 0.95, "seed": 0}
    result = EvaluationResult(
        run=str(at),
        corpus="/corpora/xray",
        fingerprint="abc",
        task="probe",
        checkpoint="best",
        classes=classes,
        rows={"train": 160, "test": 80},
        groups={"train": 90, "test": 80},
        selection="balanced accuracy on the val split",
        level=0.95,
        replicates=200,
        scores=score(entries, samples, **options),
        comparisons=compare(entries, samples, **options),
        notes=(f"a note {EVIL}",),
        uri=str(at / "evaluations/xray-probe"),
    )
    folder = at / "evaluations/xray-probe"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(result.dumps())
    return result


class Page(HTMLParser):
    """The page's elements, its ids, what it refers to, and what is left open."""

    VOID = {"meta", "br", "image", "use", "path", "rect", "line", "circle"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(run: Path) -> tuple[Page, str]:
    where = report(str(run))
    assert where == str(run / "report.html")
    text = Path(where).read_text()
    page = Page(text)
    assert page.open == []
    return page, text


def test_a_page_holds_everything_it_shows(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    a_matching(run, [1, 0, *range(2, 16)])
    an_evaluation(run, seeds=3)
    page, text = page_of(run)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.ids) == len(set(page.ids))
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert referred <= set(page.ids)


def test_every_curve_is_there_with_its_chance_line(tmp_path: Path) -> None:
    page, text = page_of(a_run(tmp_path / "run"))
    for title in (
        "Loss",
        "Matching accuracy",
        "Hamming distance",
        "Embedding spread",
        "Throughput",
        "Waiting for data",
    ):
        assert title in page.text
    assert page.tags.count("svg") == 6
    assert "chance, 1/16" in page.text
    assert "Matching accuracy: train from 0 at step 1 to 0.975 at step 40; validation from 0.9" in text


def test_the_head_says_when_with_what_and_on_what(tmp_path: Path) -> None:
    page, _ = page_of(a_run(tmp_path / "run"))
    for value in ("2026-11-24 05:40 UTC", "/corpora/first light", "lvm_med", "torch", "2.13.0", "3.11.7"):
        assert value in page.text


def test_whatever_comes_from_the_run_is_escaped(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", name=EVIL, allow_splits=(EVIL,))
    (run / "environment.json").write_text(json.dumps({"started": EVIL, "packages": {EVIL: EVIL}}))
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"kind": "event", "event": EVIL, "step": 3}) + "\n")
    a_matching(run, list(range(16)))
    an_evaluation(run, seeds=1, classes=(EVIL, "normal"))
    (run / "evaluations/xray-probe").rename(run / "evaluations" / 'a"><img src=x>')
    page, text = page_of(run)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "<script" not in text
    assert page.text.count(EVIL) >= 8


def test_matched_nodes_are_told_apart_by_more_than_colour(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    a_matching(run, [1, 0, *range(2, 16)])
    page, text = page_of(run)
    drawing = text[text.index('<svg class="matching"') :]
    drawing = drawing[: drawing.index("</svg>")]
    assert drawing.count("<image ") == 32
    assert drawing.count('<line class="right"') == 14
    assert drawing.count('<line class="wrong"') == 2
    assert drawing.count('class="cross"') == 2
    assert "stroke-dasharray" in text[: text.index("</style>")]
    assert "14 of 16 were given their own" in re.sub(r"\s+", " ", page.text)


def test_the_declared_comparison_is_shown_with_its_interval_and_every_seed(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    result = an_evaluation(run, seeds=3)
    page, _ = page_of(run)
    assert result.primary is not None
    difference = result.primary.difference
    shown = page.text[page.text.index("Primary comparison") :]
    for value in (difference.estimate, difference.low, difference.high, *difference.per_seed):
        assert f"{value:+.3f}".replace("-", "−") in shown
    assert f"{difference.minimum_detectable:.3f}" in shown
    assert "Higher" in shown
    assert "Fewer than five seeds" in page.text
    assert "Other comparisons, 3" in page.text


def test_a_run_that_trained_on_held_out_data_is_branded(tmp_path: Path) -> None:
    branded, _ = page_of(a_run(tmp_path / "one", allow_splits=("test",)))
    clean, _ = page_of(a_run(tmp_path / "two"))
    assert "allowed to train on other splits (test)" in branded.text
    assert "allowed to train" not in clean.text


def test_skipped_steps_and_holes_are_said_at_the_head(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    records = [  # lines of two steps of two micro-batches each: 0.25 holes a micro-batch, then 0.5
        {"step": 42, "kind": "train", "loss": None, "skipped": 1, "holes": 0.25},
        {"step": 44, "kind": "train", "loss": 0.1, "skipped": 1, "holes": 0.5},
    ]
    with (run / "metrics.jsonl").open("a") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    page, _ = page_of(run)
    assert "not finite: 1." in page.text
    assert "left out of the loss: 3." in page.text


def test_a_step_that_was_repeated_after_a_resume_counts_once(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", steps=3)
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 3, "kind": "train", "loss": 7.25}) + "\n" + '{"step": 4, "ki')
    page, text = page_of(run)
    assert "to 7.25 at step 3" in text
    assert "1 unreadable lines" in page.text


def test_a_run_that_failed_before_its_first_step_still_has_a_page(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", steps=0)
    (run / "environment.json").unlink()
    page, _ = page_of(run)
    assert "No training step was recorded yet" in page.text
    assert "svg" not in page.tags


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    an_evaluation(run, seeds=1)
    assert page_of(run)[1] == page_of(run)[1]


def test_a_long_run_stays_a_small_page(tmp_path: Path) -> None:
    page, text = page_of(a_run(tmp_path / "run", steps=20_000))
    assert len(text) < 1_000_000
    assert "20,000" in page.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("recipe.yaml", None, "no run here"),
        ("recipe.yaml", "run: [", r"recipe\.yaml: not YAML"),
        ("recipe.yaml", "run: 3", r"recipe\.yaml: not a resolved recipe"),
        ("environment.json", "{", r"environment\.json: cannot be read"),
        ("figures/matching.npz", "nonsense", r"matching\.npz: cannot be read"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    run = a_run(tmp_path / "run", steps=2)
    (run / file).write_text(content) if content is not None else (run / file).unlink()
    with pytest.raises(RunError, match=message):
        report(str(run))


def test_a_matching_that_is_no_permutation_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", steps=2)
    a_matching(run, [0, 0, 2])
    with pytest.raises(RunError, match="no permutation of 3 nodes"):
        report(str(run))
