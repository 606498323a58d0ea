"""Files that are no recipe are refused in one line; YAML is read as 1.2; overrides are laid over it in order."""

from __future__ import annotations

import time

import pytest

from medalign.config import load, loads
from medalign.errors import RecipeError, StorageError

TEXT = """\
run:
  seed: 1
  tags: [a, b]
objective:
  type: matching
  k: 5
  solver: {rho: 1}
nothing:
"""

UNREADABLE = [  # number in the list of bad input, content, line, cause
    ("64 tab as indentation", "a:\n\tb: 1\n", 2, "a tab where YAML wants spaces"),
    ("64 tab after a colon", "a:\t1\n", 1, "a tab where YAML wants spaces"),
    ("64 tab in a later line", "a:\n  b: 1\n\tc: 2\n", 3, "a tab where YAML wants spaces"),
    ("65 duplicate", "a: 1\nb: 2\na: 3\n", 3, "a: given twice, first in line 1"),
    ("65 duplicate deep", "a:\n  b: 1\n  'b': 1\n", 3, "a.b: given twice, first in line 2"),
    ("65 duplicate in flow", "a: {b: 1, b: 2}\n", 1, "a.b: given twice"),
    ("66 anchor", "a: &x 1\n", 1, "anchors (&) and aliases (*) are not read"),
    ("66 alias", "a: 1\nb: *x\n", 2, "anchors (&) and aliases (*) are not read"),
    ("66 merge key", "a: &x {b: 1}\nc: {<<: *x}\n", 1, "anchors (&) and aliases (*) are not read"),
    ("66 nested", "[" * 200_000, 1, "nested too deeply"),
    ("67 object", "a: !!python/object/apply:os.system [echo]\n", 1, "the tag !!python/object/apply:os.system is not"),
    ("67 name", "a: !!python/name:os.system\n", 1, "the tag !!python/name:os.system is not read"),
    ("67 on a key", "!!python/name:os.system : 1\n", 1, "the tag !!python/name:os.system is not read"),
    ("67 standard tag", "a: !!str 1\n", 1, "the tag !!str is not read"),
    ("68 NUL", "a: 1\nb: \0\n", 2, "character U+0000 is not text"),
    ("68 escape", "a: \x1b[31m\n", 1, "character U+001B is not text"),
    ("68 latin-1", b"a: 1\nb: \xe9\n", 2, "not UTF-8 text"),
    ("68 JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF\0", 1, "not UTF-8 text"),
    ("69 UTF-16", "a: 1\n".encode("utf-16"), 1, "not UTF-8 text"),
    ("69 UTF-16 without a mark", "a: 1\n".encode("utf-16-le"), 1, "character U+0000 is not text"),
    ("69 byte-order mark", "a: 1\n".encode("utf-8-sig"), 1, "byte-order mark"),
    ("70 empty", "", 1, "empty"),
    ("70 only comments", "# a\n\n", 1, "empty"),
    ("70 a list", "- a\n", 1, "not a mapping"),
    ("70 a word", "a\n", 1, "not a mapping"),
    ("71 include", "a: !include r.yaml\n", 1, "the tag !include is not read"),
    ("two documents", "a: 1\n---\nb: 1\n", 2, "a second document"),
    ("unclosed", "a: [1, 2\nb: 1\n", 2, "not YAML"),
    ("unclosed quote", "a: 'b\n", 2, "not YAML"),
    ("colon in text", "a: b: c\n", 1, "not YAML: mapping values are not allowed here"),
    ("number as key", "a:\n  1: x\n", 2, "a: the key '1' is not text"),
    ("null as key", "~: x\n", 1, "the key '~' is not text"),
    ("list as key", "? [a]\n: x\n", 1, "a key made of several values is not text"),
    ("surrogate", 'a: "\\ud800"\n', 1, "a lone surrogate"),
    ("long integer", f"a: {'9' * 5000}\n", 1, "an integer of 5000 digits"),
    ("environment", "a: ${HOME}\n", 1, "references like ${HOME} are not read"),
]


@pytest.mark.parametrize("case", UNREADABLE, ids=lambda case: case[0].replace(" ", "_"))
def test_a_file_that_is_no_recipe_is_refused_with_its_line(case, tmp_path):
    _, content, line, cause = case
    file = tmp_path / "r.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load(file)
    assert time.process_time() - began < 2
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: ")
    assert cause in message
    assert message.isprintable()
    assert caught.value.exit_code == 2


def test_a_file_larger_than_a_mebibyte_is_refused_without_reading_it_whole(tmp_path):  # 66
    file = tmp_path / "r.yaml"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # a sparse tebibyte
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        load(file)


@pytest.mark.parametrize(
    ("name", "cause"), [("absent.yaml", "no such recipe"), (".", "Is a directory"), ("a\0b", "null")]
)
def test_a_place_without_a_file_is_refused(name, cause, tmp_path):
    with pytest.raises(RecipeError, match=cause) as caught:
        load(f"{tmp_path}/{name}")
    assert str(caught.value).isprintable()


def test_a_recipe_is_read_from_a_uri(tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT)
    assert load(f"file://{tmp_path}/r.yaml").values == loads(TEXT).values
    with pytest.raises(StorageError, match="http:// is not supported"):
        load("http://169.254.169.254/r.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e+3", -1500.0),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("12", 12),
        ("-0", 0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        *((word, word) for word in ["yes", "No", "on", "OFF", "y", "n", "1_000", "inf", "nan", "1e", "e5", "=", "<<"]),
        *((word, word) for word in ["2020-01-01", "12:30:45", "0b11", "1.2.3", "tRue", "nUll", "s3://b/k#f", "+", "."]),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1e3}}", {"a": {"b": 1000.0}}),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_yaml_is_read_by_the_core_schema_of_1_2(text, value):
    found = loads(f"key: {text}\n").values["key"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_and_item_knows_its_line():
    document = loads(TEXT, source="f")
    assert document.place(("run", "seed")) == "f:2"
    assert document.place(("run", "tags", 1)) == "f:3"
    assert document.place(("objective", "solver", "rho")) == "f:7"
    assert document.place(("objective", "absent", "deeper")) == "f:4"
    assert document.place(()) == "f:1"
    message = str(document.error(("run", "seed"), "is odd; write an even one.", value=1))
    assert message == "f:2: run.seed = 1: is odd; write an even one."


def test_overrides_are_laid_over_in_order_and_know_their_place():
    overrides = ["run.seed=2", "run.seed=3", "run.tags=[c]", "new.deep.key=x y", "nothing.at.all=", "run.name=a=b"]
    document = loads(TEXT, source="f", overrides=overrides)
    assert document.values["run"] == {"seed": 3, "tags": ["c"], "name": "a=b"}
    assert document.values["new"] == {"deep": {"key": "x y"}}
    assert document.values["nothing"] == {"at": {"all": None}}
    assert document.place(("run", "seed")) == "override run.seed=3"
    assert document.place(("run", "tags", 0)) == "override run.tags=[c]"
    assert document.place(("new", "deep")) == "override new.deep.key=x y"
    assert document.place(("objective", "k")) == "f:6"
    assert document.notes == ()


def test_an_override_by_a_mapping_replaces_the_section():
    document = loads(TEXT, overrides=["objective={type: contrast}"])
    assert document.values["objective"] == {"type": "contrast"}
    assert loads(TEXT, overrides=["objective=null"]).values["objective"] is None


@pytest.mark.parametrize(
    "overrides", [["objective.type=other", "objective.t=2"], ["objective.t=2", "objective.type=other"]]
)
def test_another_type_starts_its_section_anew_and_says_what_went(overrides):
    document = loads(TEXT, overrides=overrides)
    assert document.values["objective"] == {"type": "other", "t": 2}
    assert document.notes == (
        "override objective.type=other: another type, so the recipe's objective.k, objective.solver went.",
    )


def test_the_same_type_again_keeps_its_section():
    document = loads(TEXT, overrides=["objective.type=matching"])
    assert document.values["objective"] == loads(TEXT).values["objective"]
    assert document.notes == ()


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        ("run.seed", 'no "="; write key.path=VALUE'),  # 73
        ("--steps", 'no "="'),
        ("run..seed=1", "an empty part in the key 'run..seed'"),  # 74
        (".run=1", "an empty part"),
        ("=1", "an empty part"),
        ("run=3", "run is a section; override one of its keys (run.seed, run.tags), or give {...}"),  # 75
        ("run=[1]", "run is a section"),
        ("run.seed.deep=3", "run.seed is a single value (1) and has no keys below it; override run.seed itself"),
        ("run.tags.0=3", "run.tags is a list"),
        ("run.seed=[1", "not YAML"),
        ("run.seed=*.png", "not YAML"),
        ("run.seed=!!python/name:os.system", "the tag !!python/name:os.system is not read"),
        ("run.seed=${HOME}", "references like ${HOME} are not read"),
        ("run.seed={a: 1, a: 2}", "given twice"),
        ("run.seed=\0", "character U+0000 is not text"),
        ("run.\nseed", 'no "="'),
    ],
)
def test_a_bad_override_is_refused_in_one_line(override, cause):
    with pytest.raises(RecipeError) as caught:
        loads(TEXT, overrides=[override])
    message = str(caught.value)
    assert message.startswith("override ")
    assert cause in message
    assert message.isprintable()


def test_a_document_is_not_changed_by_the_overrides_of_another():
    first = loads(TEXT)
    before = {key: dict(value) for key, value in first.values.items() if isinstance(value, dict)}
    loads(TEXT, overrides=["run.seed=9", "objective.type=other"])
    assert {key: value for key, value in first.values.items() if isinstance(value, dict)} == before
