"""Recipes of sweeps: shipped ones, both kinds of subjects, what is refused before any trial, and the sweep's page."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from drawn_images import write_folder
from few_shot_recipe import write_recipe

from medalign import config, prepare
from medalign.errors import RecipeError
from medalign.few_shot import open_comparison
from medalign.recipe import find, open_recipe
from medalign.reports.sweep import cost, render
from medalign.tune.importance import importance
from medalign.tune.result import Report, TrialRecord
from medalign.tune.settings import ASHA, Tune
from medalign.tune.space import overrides_of, read_space
from medalign.tune.sweep import opened


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    dude = {"settings": {"type": "dude", "shared_n": 1, "shared_len": 2, "class_k": 1}, "epochs": 6}
    recipe = write_recipe(folder, shots=[6], seeds=[0, 1], primary={"method": "dude", "against": "zero", "shots": 6})
    recipe["methods"] = {"dude": dude, "zero": {"settings": {"type": "zero_shot"}}}
    chosen = {"task": "colours", "method": "dude", "shots": 6, "folds": 2, "every": 2}
    tune = {"uri": str(folder / "sweep"), "metric": "balanced_accuracy", "trials": 3, "few_shot": chosen}
    search = {"methods.dude.settings.coupling.epsilon": {"loguniform": [0.005, 0.1]}}
    return {**recipe, "tune": tune, "search": search}


def loaded(values, *overrides):
    return config.loads(json.dumps(values), source="few.yaml", overrides=overrides)


def run_alone(document, point):
    """Return the reports of a trial that runs in this process."""
    _, _, subject, _ = opened(document)
    reports = []

    def talk(step, values, *, total, worked):
        reports.append((step, dict(values), total))
        return True

    subject.work().run(0, point, talk)
    return reports


def test_the_shipped_sweep_of_few_shot_opens_and_is_a_comparison_beside_it():
    settings, space, _, _ = opened(config.load(str(find("dude/sweep_uot"))))
    assert settings.trials == 24
    assert len(space.axes) == 6
    assert open_comparison("dude/sweep_uot").primary.method == "dude"


@pytest.mark.parametrize(("name", "axes"), [("lvm_med/sweep_matching", 5), ("logra_med/sweep_alignment", 6)])
def test_a_shipped_sweep_of_training_takes_every_end_of_its_space(name, axes):
    space = read_space(config.load(str(find(name))))
    assert len(space.axes) == axes
    for point in space.edges():
        _, document = open_recipe(name, ["data.corpus=any", *overrides_of(point)])
        assert any("left to `medalign tune`" in note for note in document.notes)


def test_a_few_shot_trial_is_the_same_alone_and_beside_others(few):
    point = {"methods.dude.settings.coupling.epsilon": 0.02}
    first, again = run_alone(loaded(few), point), run_alone(loaded(few), point)
    assert first == again
    assert [step for step, _, _ in first] == [2, 4, 6]
    assert all(total == 6 and 0 <= values["balanced_accuracy"] <= 1 for _, values, total in first)


def test_a_few_shot_trial_stops_where_it_is_told_to(few):
    _, _, subject, _ = opened(loaded(few))
    seen = []

    def talk(step, values, *, total, worked):
        seen.append(step)
        return False

    subject.work().run(0, {}, talk)
    assert seen == [2]


def test_folds_cut_a_support_by_group_with_every_class_in_every_part(few):
    work = opened(loaded(few))[2].work()
    for case in work.cases:
        left = sorted(place for _, out in case.folds for place in out.tolist())
        assert left == sorted(case.support.tolist())
        for kept, out in case.folds:
            groups = case.train.rows.groups
            assert not set(groups[kept]) & set(groups[out])
            assert set(case.train.rows.labels[kept]) == set(range(4))


def test_the_best_recipe_of_a_few_shot_sweep_is_a_comparison_of_its_own(few, tmp_path):
    subject = opened(loaded(few))[2]
    values = subject.best_recipe({"methods.dude.settings.coupling.epsilon": 0.05})
    (tmp_path / "best.yaml").write_text(config.dump_yaml(values))
    again = open_comparison(str(tmp_path / "best.yaml"))
    assert again.methods["dude"].settings.coupling.epsilon == 0.05


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tune.metric=f1", "no trial reports it; there is: accuracy"),
        ("tune.mode=maximise", "tune.mode"),
        ("tune.trials=0", "trials must be >= 1"),
        ("tune.sampler={type: bohb}", "unknown type"),
        ("tune.scheduler={type: asha, grace: 9}", "must be < 6, the steps of a trial"),
        ("tune.few_shot.method=coop", "not in the recipe, which has dude, zero"),
        ("tune.few_shot=null", "missing; name task, method and shots"),
        ("search={methods.dude.settings.epsilom: {uniform: [0, 1]}}", "unknown key"),
        ("search={methods.dude.settings.coupling.epsilon: {uniform: [-1, 1]}}", "epsilon must be finite and > 0"),
        ("search={seeds: {choice: [[0], [1]]}}", "must begin with methods.dude."),
        ("search={}", "no search space"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_one_line_before_any_trial(few, override, said):
    with pytest.raises(RecipeError, match=re.escape(said)) as caught:
        opened(loaded(few, override))[2].check_metrics()
    assert "\n" not in str(caught.value)


TRAINING = {
    "run": {"uri": "unset", "seed": 0},
    "data": {"image_size": 16},
    "model": {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "objective": {"type": "info_nce", "projection_size": 8},
    "optimizer": {"type": "adam", "learning_rate": 1e-3},
    "train": {"workers": 0, "micro_batch": 8, "global_batch": 8, "steps": 4, "zero_stage": 0}
    | {"validate_every": 2, "validation_batches": 1},
    "tracking": {"tensorboard": False},
    "search": {"optimizer.learning_rate": {"loguniform": [1e-4, 1e-1]}},
}


def test_a_training_trial_is_a_run_that_its_best_recipe_repeats_to_the_bit(tmp_path, ray_local):
    write_folder(tmp_path / "images", per_class=40, patients=20)
    prepare(str(tmp_path / "images"), format="image-folder", out=str(tmp_path / "corpus"))
    tune = {"uri": str(tmp_path / "sweep"), "metric": "loss", "mode": "min", "trials": 1}
    values = {**TRAINING, "data": {**TRAINING["data"], "corpus": str(tmp_path / "corpus")}, "tune": tune}
    document, point = loaded(values), {"optimizer.learning_rate": 0.0123456789}
    reports = run_alone(document, point)
    assert [(step, total) for step, _, total in reports] == [(2, 4), (4, 4)]
    assert (tmp_path / "sweep" / "trials" / "00000" / "recipe.yaml").exists()
    subject = opened(document)[2]
    (tmp_path / "best.yaml").write_text(config.dump_yaml(subject.best_recipe(point)))
    from medalign import train

    alone = train(str(tmp_path / "best.yaml"))
    assert alone.last["validation"] == reports[-1][1]
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["train"]["best"] == "-loss"


def test_a_training_sweep_needs_a_validation_and_keeps_its_own_keys(tmp_path):
    tune = {"uri": str(tmp_path), "metric": "loss", "trials": 1}
    values = {**TRAINING, "data": {"image_size": 16, "corpus": "any"}, "tune": tune}
    with pytest.raises(RecipeError, match="trials are compared by a figure of the validation"):
        opened(loaded(values, "train.validate_every=0"))
    with pytest.raises(RecipeError, match="search.run.uri: is the sweep's own"):
        opened(loaded(values, "search={run.uri: {choice: [a, b]}}"))


def swept():
    document = config.loads("search: {a.rate: {loguniform: [1e-4, 1]}, b.kind: {choice: [x, '<b>']}}", source="r")
    trials = []
    for number in range(12):
        rate = 10 ** (-4 + number / 3)
        point = {"a.rate": rate, "b.kind": ["x", "<b>"][number % 2]}
        steps = 4 if number % 3 else 2
        reports = tuple(
            Report(step=s, values={"score": s * (1 - abs(math.log10(rate) + 2) / 4)}) for s in range(1, steps + 1)
        )
        state = "completed" if steps == 4 else "stopped"
        known = {"reports": reports, "values": reports[-1].values, "steps": steps, "total_steps": 4, "seconds": 10.0}
        trials.append(TrialRecord(number=number, point=point, state=state, attempts=1, **known))
    trials.append(TrialRecord(number=12, point=trials[0].point, state="failed", reason="<script>", attempts=2))
    return Tune(uri="u", metric="score", trials=13, scheduler=ASHA(grace=2)), read_space(document), trials


def test_the_page_of_a_sweep_holds_figures_best_recipe_costs_and_failures_and_escapes_what_it_shows():
    settings, space, trials = swept()
    page = render(settings, space, trials, recipe="a: 1\n", name="runs/sweeps/mine")
    assert "<h1>mine</h1>" in page
    assert page.count("<svg") == 5  # parallel coordinates, importance, curves, two slices
    assert "a.rate=" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "17 % of the steps" in page  # 4 of 12 trials took 2 of 4 steps
    assert "https://" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_page_of_a_sweep_that_has_hardly_begun_says_so():
    settings, space, trials = swept()
    assert "No trial has completed." in render(settings, space, [])
    assert "No trial has completed." in render(settings, space, trials[12:])


def test_the_key_that_makes_the_difference_is_the_important_one():
    _, space, trials = swept()
    found = importance(trials, space, metric="score")
    assert next(iter(found.shares)) == "a.rate"
    assert found.shares["a.rate"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)
    assert importance(trials[:3], space, metric="score") is None


def test_what_a_scheduler_saved_is_counted_against_all_to_the_end():
    settings, _, trials = swept()
    spent = cost(trials, settings)
    assert (spent["steps"], spent["to_the_end"]) == (8 * 4 + 4 * 2, 48)
    assert spent["saved"] == pytest.approx(1 - 40 / 48)
    assert spent["cpu_hours"] == pytest.approx(120 / 3600)


def test_the_page_about_sweeps_names_commands_that_exist():
    text = Path(__file__).parents[2].joinpath("docs", "sweeps.md").read_text()
    for name in re.findall(r"medalign tune ([a-z_]+/[a-z_]+)", text):
        assert find(name)
