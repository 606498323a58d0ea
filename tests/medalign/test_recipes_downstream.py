"""Every downstream recipe, as its head says: prepared from the published layout, trained for two steps, evaluated."""

import shlex
from pathlib import Path

import pytest
from prepared_here import run_here
from published_layouts import LAYOUTS

from medalign import train
from medalign.cli.app import main
from medalign.data import job
from medalign.recipe import find, shipped

NAMES = [name for name in shipped() if name.startswith("lvm_med/downstream/")]
TINY_RESNET = ["model.embedding_size=8", "model.hidden_sizes=[8,16]", "model.depths=[1,1]", "model.layer_type=basic"]
TINY_VIT = [f"model.{key}" for key in ("image_size=64", "hidden_size=16", "layers=1", "heads=2", "mlp_size=16")]
HEADS = {
    "segmentation": ["objective.widths=[8]", "objective.stem_width=4"],
    "box_prompts": [f"objective.{key}" for key in ("width=16", "layers=1", "heads=2", "mlp_size=16")],
    "detection": ["objective.width=8", "objective.depth=1"],
    "classification": [],
}


def head_of(name: str) -> dict[str, list[str]]:
    """Return the words of the commands in a recipe's head, by what they do."""
    lines = [line[2:] for line in find(name).read_text().splitlines() if line.startswith("# medalign ")]
    return {words[1]: words[1:] for words in map(shlex.split, lines)}


def run_command(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpora")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("_prompt") else []) for name in NAMES]
)
def test_a_recipe_runs_as_its_head_says(
    name: str, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run", run_here)
    commands = head_of(name)
    prepare, evaluate = commands["data"], commands["evaluate"]
    place = prepare[prepare.index("--out") + 1]
    out = str(corpora / place.replace("/", "-"))
    if not (Path(out) / "manifest.json").exists():
        (corpora / f"{Path(place).name}-source").mkdir()
        source = LAYOUTS[Path(place).name](corpora / f"{Path(place).name}-source")
        run_command([str(source) if w == "SOURCE" else out if w == place else w for w in prepare])
    kind = next(
        line.split()[-1]
        for line in find(name).read_text().splitlines()
        if line.startswith("  type: ") and line.split()[-1] in HEADS
    )
    small = [f"data.corpus={out}", f"run.uri={tmp_path}/run", "model.source=null", "data.image_size=64"]
    small += ["train.workers=0", "train.gpus_per_worker=0", "train.micro_batch=4", "train.global_batch=4"]
    small += ["train.epochs=null", "train.steps=2", "train.validate_every=2", "train.validation_batches=1"]
    small += ["tracking.tensorboard=false", "train.threads=1"]
    model = TINY_VIT if "_prompt" in name else TINY_RESNET
    result = train(name, [*small, *model, *HEADS[kind]])
    assert result.step == 2
    assert result.best is not None
    run, corpus = evaluate[1], evaluate[evaluate.index("--corpus") + 1]
    assert corpus == place  # what is evaluated is what was prepared
    run_command([f"{tmp_path}/run" if w == run else out if w == corpus else w for w in evaluate])


def test_every_task_of_the_paper_has_its_recipe() -> None:
    assert {Path(name).name.removesuffix("_prompt").removesuffix("_linear") for name in NAMES} == set(LAYOUTS)
    assert sum(name.endswith("_prompt") for name in NAMES) == 9
