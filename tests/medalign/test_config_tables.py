"""A section's `type` names a class in a table, or a user's own: only that one is imported, and it is built strictly."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medalign.config import build, load, loads
from medalign.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Matching:
    neighbours: int = 5


@dataclass(frozen=True, kw_only=True)
class Contrast:
    temperature: float = 0.1


TABLE = {"matching": f"{__name__}:Matching", "contrast": f"{__name__}:Contrast", "absent": "no_such_package.here:X"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    objective: Any = field(metadata={"table": TABLE})


GOOD = "# a recipe\nobjective:\n  type: matching\n"


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        build(Recipe, load(path))
    assert str(caught.value).isprintable()
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("matchin", "unknown type; did you mean matching?"),
        ("zzz", "unknown type; known: matching, contrast, absent."),
        ("[matching]", "unknown type"),
        ("3", "unknown type"),
        ("no_such_package:X", "no_such_package cannot be imported (No module named 'no_such_package'); install"),
        ("absent", "no_such_package.here cannot be imported"),
        ("json:Nothing", "json has no Nothing"),
        ("json:decoder.JSONDecoder", "decoder.JSONDecoder is not a dataclass"),
        ("os:system", "system is not a dataclass"),
        ("'a b:c'", "not the name of a class"),
        ("'../x:y'", "not the name of a class"),
    ],
)
def test_an_unknown_or_unfit_type_is_refused(name, cause, tmp_path):
    message = refusal(tmp_path / "r", GOOD.replace("type: matching", f"type: {name}"))
    assert message.startswith("FILE:3: objective.type = ")
    assert cause in message


def test_a_type_without_its_section_is_refused(tmp_path):
    message = refusal(tmp_path / "r", GOOD.replace("objective:\n  type: matching", "objective: matching"))
    assert 'FILE:2: objective = "matching": must be a section with a `type`' in message


USER_CLASS = """
from dataclasses import dataclass
import sys

@dataclass
class Loose:
    scale: float = 1.0
    hard: bool = False

@dataclass
class Wrong:
    scale: "Missing" = 1.0
"""


def test_a_users_class_is_built_strictly_although_it_asks_for_nothing(tmp_path, monkeypatch):
    (tmp_path / "my_objectives.py").write_text(USER_CLASS)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = GOOD.replace("type: matching", "type: my_objectives:Loose\n  scale: 2")
    objective = build(Recipe, loads(text)).objective
    assert (type(objective).__name__, objective.scale, objective.hard) == ("Loose", 2.0, False)
    assert "true or false" in refusal(tmp_path / "r", text.replace("scale: 2", "hard: yes"))
    assert "a number" in refusal(tmp_path / "r", text.replace("scale: 2", "scale: '2'"))
    assert "did you mean objective.scale?" in refusal(tmp_path / "r", text.replace("scale: 2", "scales: 2"))
    assert "did you mean Loose?" in refusal(tmp_path / "r", text.replace(":Loose", ":Lose"))
    assert "'Missing' is not defined" in refusal(tmp_path / "r", text.replace(":Loose", ":Wrong"))


def test_a_broken_module_of_a_user_is_named(tmp_path, monkeypatch):
    (tmp_path / "my_broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refusal(tmp_path / "r", GOOD.replace("type: matching", "type: my_broken:X"))
    assert "my_broken cannot be imported (invalid syntax" in message


def test_only_the_chosen_class_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_counted.py").write_text(USER_CLASS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(TABLE, "counted", "my_counted:Loose")
    build(Recipe, loads(GOOD))
    assert "my_counted" not in sys.modules
    build(Recipe, loads(GOOD.replace("type: matching", "type: counted")))
    assert "my_counted" in sys.modules
