"""What is resolved and written is read back as an equal instance, whatever the text and numbers are."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from medalign.config import build, dump_yaml, loads, resolve


@dataclass(frozen=True, kw_only=True)
class Leaf:
    rate: float = field(default=1.0, metadata={"allow_inf": True})
    text: str = ""
    note: str | None = None
    sizes: tuple[int, ...] = ()
    on: bool = False
    words: dict[str, str] = field(default_factory=dict)
    derived: int = field(init=False, default=7)


@dataclass(frozen=True, kw_only=True)
class Other:
    inner: Leaf = Leaf()
    pair: int | tuple[int, int] = 3
    rows: tuple[tuple[float, ...], ...] = ()


TABLE = {"leaf": f"{__name__}:Leaf", "not-imported": "no_such_package:Other"}


@dataclass(frozen=True, kw_only=True)
class Root:
    one: Any = field(metadata={"table": TABLE})
    many: tuple[Any, ...] = field(default=(), metadata={"table": TABLE})
    named: dict[str, Any] = field(default_factory=dict, metadata={"table": TABLE})
    plain: Other = Other()
    none: Other | None = None


HARD = [
    "yes",
    "1e-4",
    "1E5",
    "~",
    "null",
    "",
    "0x1F",
    "010",
    "true",
    "a: b",
    "# c",
    "- d",
    "'",
    '"',
    "\\n",
    " e ",
    "*f",
    "&g",
]
HARD += [
    "!h",
    "%i",
    "@j",
    "`k",
    "{l}",
    "[m",
    "? n",
    "| ",
    "> o",
    "2020-01-01",
    "é漢字😀",
    "\x85p",
    "q\u2028r",
    "\ttab",
    "a\nb\n",
]
HARD += [
    "\n",
    "x" * 300,
    "word " * 60,
    "\x7f",
    "\u200b\ufeff",
    "...",
    "---",
    "<<",
    "=",
    ".inf",
    "-.nan",
    "1_000",
    "$HOME",
    "a\r\nb",
]


def random_leaf(rng: random.Random) -> Leaf:
    def text() -> str:
        return "".join(rng.choice(HARD) for _ in range(rng.randrange(3)))

    rate = rng.choice([rng.gauss(0, 1), 10 ** rng.uniform(-300, 300), math.inf, -math.inf, 0.0, -0.0, 1e22, 5e-324])
    return Leaf(
        rate=rate,
        text=text(),
        note=rng.choice([None, text()]),
        sizes=tuple(rng.randrange(-(10**12), 10**12) for _ in range(rng.randrange(4))),
        on=rng.random() < 0.5,
        words={text(): text() for _ in range(rng.randrange(3))},
    )


def random_root(rng: random.Random) -> Root:
    rows = tuple(tuple(rng.gauss(0, 1) for _ in range(rng.randrange(3))) for _ in range(rng.randrange(3)))
    other = Other(inner=random_leaf(rng), pair=rng.choice([rng.randrange(9), (1, 2)]), rows=rows)
    return Root(
        one=rng.choice([random_leaf(rng), other]),
        many=tuple(random_leaf(rng) for _ in range(rng.randrange(3))),
        named={rng.choice(HARD): random_leaf(rng) for _ in range(rng.randrange(3))},
        plain=other,
        none=rng.choice([None, other]),
    )


@pytest.mark.parametrize("seed", range(60))
def test_a_resolved_recipe_builds_an_equal_instance(seed):
    settings = random_root(random.Random(seed))
    text = dump_yaml(resolve(settings))
    assert build(Root, loads(text)) == settings
    assert dump_yaml(resolve(build(Root, loads(text)))) == text


@pytest.mark.parametrize("text", HARD)
def test_every_hard_text_survives_as_a_value_and_as_a_key(text):
    values = {"value": text, "list": [text, [text]], text or "empty": {"deep": text}}
    assert loads(dump_yaml(values)).values == values


def test_a_section_from_a_table_has_its_type_first_and_every_default():
    resolved = resolve(Root(one=Leaf(), many=(Other(),)))
    assert list(resolved["one"]) == ["type", "rate", "text", "note", "sizes", "on", "words"]
    assert resolved["one"]["type"] == "leaf"
    assert resolved["many"][0]["type"] == f"{__name__}:Other"
    assert "type" not in resolved["plain"]
    assert resolved["none"] is None


def test_the_text_is_what_a_person_would_write():
    values = {"run": {"seed": 3, "rate": 1e-05, "name": "yes", "mean": [0.5, 0.25]}, "parts": [{"type": "a"}]}
    assert dump_yaml(values) == (
        "run:\n  seed: 3\n  rate: 1.0e-05\n  name: yes\n  mean: [0.5, 0.25]\nparts:\n- type: a\n"
    )


def test_settings_that_yaml_cannot_hold_are_refused():
    with pytest.raises(TypeError, match="not set"):
        resolve(Leaf(words={"a": {1}}))  # type: ignore[dict-item]
