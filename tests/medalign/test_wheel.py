"""The wheel: installed alone, it has the program, recipes, templates and banks, and works in an empty folder."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from striped_corpus import write_corpus

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("medalign_core", "platform", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(source / "dist")]
    subprocess.run(build, cwd=source, check=True, timeout=120, capture_output=True)
    return next((source / "dist").glob("medalign-*.whl"))


@pytest.fixture(scope="module")
def medalign(wheel, tmp_path_factory):
    """The program in an environment that holds the wheel, and sees this one's packages but not its checkout."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    packages = next(home.glob("lib/python*/site-packages"))
    install = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--python", str(python)]
    subprocess.run([*install, str(wheel)], check=True, timeout=120, capture_output=True)
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "medalign"


def test_the_wheel_holds_code_recipes_templates_and_licence_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "medalign/recipes/lvm_med/tiny_cpu.yaml" in names
    assert "medalign/reports/templates/run.html.j2" in names
    assert "medalign/banks/ready/bccd_cells.json" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"medalign", "medalign_core"}
    assert not [name for name in names if name.startswith("platform") or name.endswith(".pyc")]


def test_an_installed_wheel_lists_and_plans_in_an_empty_folder(medalign, tmp_path):
    corpus = write_corpus(tmp_path / "stripes", {"train": 128, "val": 64})
    empty = tmp_path / "empty"
    empty.mkdir()

    def call(*words):
        done = subprocess.run([medalign, *words], cwd=empty, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shipped = (ROOT / "jobs" / "recipes").rglob("*.yaml")
    assert call("recipes").split() == sorted(str(p.relative_to(ROOT / "jobs/recipes").with_suffix("")) for p in shipped)
    out = call("train", "lvm_med/tiny_cpu", "--dry-run", f"data.corpus={corpus}")
    assert "graphs per step               8" in out
    code = "import medalign, medalign_core; print(medalign.__file__, medalign_core.__file__)"
    where = subprocess.check_output([medalign.parent / "python", "-c", code], cwd=empty, text=True)
    assert str(ROOT) not in where
    assert not list(empty.iterdir())
