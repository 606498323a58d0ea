"""The container image: its linter is content, it runs as nobody special, and its steps work without a container."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
BIN = Path(sys.executable).parent


def test_the_linter_finds_nothing_not_even_a_matter_of_style():
    done = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_the_linter_finds_what_is_wrong(tmp_path):
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python:latest\nRUN sudo pip install torch\n")
    done = subprocess.run([BIN / "hadolint", wrong], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert {"DL3007", "DL3004"} <= set(re.findall(r"DL\d+", done.stdout))


def test_the_image_is_pinned_staged_and_runs_as_the_pods_expect():
    from medalign.cluster_files.pods import USER_ID

    text = DOCKERFILE.read_text()
    base = re.search(r"^ARG PYTHON=(.*)$", text, re.M)[1]
    assert re.fullmatch(r"3\.11\.\d+-slim-\w+", base)  # what pyproject.toml and make setup ask for
    assert text.count("FROM python:${PYTHON}") == 2
    assert re.findall(r"^USER (.*)$", text, re.M) == [str(USER_ID)]
    assert text.index("USER 1000") < text.index("CMD")
    assert "--mount=type=secret" not in text
    assert not re.search(r"(?i)(token|secret|password|access_key)=", text)


def test_what_the_build_copies_is_let_through_and_nothing_else():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names == let
    assert all((ROOT / name).exists() for name in names)


def test_the_extras_of_the_image_exist():
    extras = re.search(r'^extras="(.*)"$', (ROOT / "scripts" / "image.sh").read_text(), re.M)[1]
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= known.keys()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_of_the_image_work_in_a_clean_environment(tmp_path):
    source, prefix = tmp_path / "src", tmp_path / "opt"
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.M)
    for name in {name for line in copied for name in line.split()}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        take(ROOT / name, source / name)
    script = source / "scripts" / "image.sh"
    for step in ("install", "check"):
        done = subprocess.run([script, step, prefix], cwd=tmp_path, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr[-3000:]
    assert f"the environment at {prefix} works" in done.stdout
    print(done.stdout)  # noqa: T201
