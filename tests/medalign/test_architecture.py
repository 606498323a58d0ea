"""The house: its doors, what its folders may hold, what every module may need, and the functions at its front."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from medalign import pretraining
from medalign.few_shot import open_comparison
from medalign.pretraining.cells import Cell, run_keys
from medalign.recipe import open_recipe, shipped

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
    for base, package in ((ROOT / "platform", "medalign"), (ROOT, "medalign_core"))
    for path in (base / package).rglob("*.py")
    if path.name != "__main__.py"
)
OPTIONAL = ("mlflow", "wandb", "pydicom", "nibabel", "nilearn", "skimage", "boto3", "deepspeed", "peft", "gguf")
IMPORT_ALL = f"""
import importlib, sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None  # absent for an import, and for who asks find_spec, as transformers does, as well
for name in {MODULES!r}:
    importlib.import_module(name)
from medalign import *
import medalign
for name in medalign.__all__:
    kind = type(getattr(medalign, name)).__name__
    assert kind == "function", f"medalign.{{name}} is a {{kind}}"
print(len({MODULES!r}))
"""


@pytest.fixture(scope="module")
def doors():
    """The script of `make check`, as a module."""
    spec = importlib.util.spec_from_file_location("doors", ROOT / "scripts" / "doors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_third_party_comes_in_by_its_door(doors, capsys):
    assert doors.main() == 0, capsys.readouterr().out


def test_the_door_test_sees_every_way_to_import(doors, tmp_path):
    for text in ("import ray.train as t", "from ray import train", "def f():\n    from ray.train import Result"):
        (tmp_path / "sly.py").write_text(text)
        assert any(name.startswith("ray.train") for name, _ in doors.imports(tmp_path / "sly.py")), text


def test_the_door_test_names_file_line_and_door(doors, tmp_path, monkeypatch):
    platform = tmp_path / "platform" / "medalign"
    platform.mkdir(parents=True)
    (tmp_path / "jobs").mkdir()
    (platform / "sly.py").write_text("import os\nimport ray.data\n")
    (platform.parent / "__init__.py").touch()
    (tmp_path / "jobs" / "sly.py").write_text("import torch\n" * 41)
    monkeypatch.setattr(doors, "ROOT", tmp_path)
    monkeypatch.setattr(doors, "PLATFORM", platform)
    monkeypatch.setattr(doors, "DOORS", {"ray.data": (platform / "data",)})
    faults = [*doors._wrong_doors(), *doors._wrong_jobs(), *doors._packages_that_shadow()]
    assert faults[0] == "platform/medalign/sly.py:2: imports ray.data; the door is platform/medalign/data"
    assert faults[1] == "jobs/sly.py: more than 40 lines"
    assert faults[2].startswith("jobs/sly.py:1: a job imports torch")
    assert faults[-1].startswith("platform/__init__.py: shadows the standard library's module")


@pytest.mark.parametrize("path", [[], ["."], ["platform", "."]])
def test_the_standard_library_keeps_its_platform_module_at_the_root(path):
    code = "import platform, uuid; print(platform.system(), platform.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": ":".join(path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()[-1].startswith(str(ROOT / "platform"))


def test_every_module_imports_without_the_extras_and_the_front_holds_functions():
    assert "medalign.training.engine" in MODULES
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(MODULES) > 80


SWEEPS = ["dude/sweep_uot", "logra_med/sweep_alignment", "lvm_med/sweep_matching"]  # test_tune_recipes.py opens them


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("lvm_med/") and name.count("/") == 1])
def test_every_shipped_recipe_builds(name):
    recipe, _ = open_recipe(name, ["data.corpus=corpora/any"])
    assert recipe.train.global_batch % recipe.train.micro_batch == 0
    assert recipe.objective.graph_size == 16


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("few_shot/")])
def test_every_shipped_comparison_builds(name):
    assert open_comparison(name).primary.shots in open_comparison(name).shots


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("pretraining/")])
def test_every_shipped_comparison_of_pretraining_builds_with_all_its_arms(name):
    comparison = pretraining.open_comparison(name)
    for task in comparison.tasks:
        for arm in comparison.arms:
            keys = run_keys(comparison, Cell(task=task, method=arm, seed=0))
            assert open_recipe(comparison.base, keys)[0].train.steps == comparison.tasks[task].steps


def test_the_shipped_recipes_are_these():
    stages = [f"stage{stage}_{language}7b" for stage in (1, 2) for language in ("llama", "mistral")]
    of_logra_med = [f"logra_med/{name}" for name in (*stages, "tiny", "vqa_llama7b")]
    of_lvm_med = ["lvm_med/resnet50", "lvm_med/tiny_cpu", "lvm_med/vit_b16"]
    tasks = [name for name in shipped() if name.startswith("lvm_med/downstream/")]
    assert len(tasks) == 24  # test_recipes_downstream.py runs each of them
    of_pretraining = ["pretraining/lvm_med_ablations", "pretraining/small_sets"]
    own = ("ablations", "biomedical_11", "natural_11", "small_sets", "stress", "tuned")
    few_shot = [f"few_shot/{name}" for name in own]
    assert shipped() == sorted([*few_shot, *of_logra_med, *tasks, *of_lvm_med, *of_pretraining, *SWEEPS])
