"""`medalign few-shot` at the command line: the table, the page, and one line for what is wrong."""

import json
from pathlib import Path

import pytest
from few_shot_recipe import write_recipe

from medalign.cli import main


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe on disk; its path and its document."""
    folder = tmp_path_factory.mktemp("few")
    document = write_recipe(folder)
    document["methods"]["dude"] = {"settings": {"type": "dude", "shared_n": 2, "shared_len": 2}, "epochs": 1}
    (folder / "small.yaml").write_text(json.dumps(document))
    return str(folder / "small.yaml"), document


def run(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def test_a_recipe_becomes_a_table(recipe, capsys):
    assert run("few-shot", recipe[0], "seeds=[0]") == 0
    out = capsys.readouterr().out
    assert "| linear_probe |" in out
    assert "**linear_probe - zero_shot** (primary)" in out
    assert (Path(recipe[1]["out"]) / "results.md").read_text() in out


def test_a_cell_becomes_a_page(recipe, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["few-shot", "explain", recipe[0], "--task", "colours", "--method", "dude", "--shots", 1, "--seed", 0]
    assert run(*words, "--out", page) == 0
    assert str(page) in capsys.readouterr().out
    assert "dude on colours" in page.read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["methods.zero_shot.settings.type=zero_shott"], "unknown type; did you mean zero_shot?"),
        (["tasks.colours.bank=ready:nothing"], "no such bank"),
        (["primary.method=dudes"], "primary names 'dudes'"),
        (["primary.shots=3"], "primary.shots = 3 is none of"),
        (["shots=[2,20]"], "fewer than the 20 that a support needs"),
        (["methods.dude.views=9"], "methods.dude.views = 9, of view_count = 2"),
        (["base_to_new=true"], "no answer to new classes"),
        (["encoder.source=."], "model.source = ."),
    ],
)
def test_what_is_wrong_is_one_line_and_code_2(recipe, capsys, words, expected):
    assert run("few-shot", recipe[0], *words) == 2
    out, err = capsys.readouterr()
    assert not out
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert expected in line
