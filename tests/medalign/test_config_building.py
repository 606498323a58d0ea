"""Bad recipes are refused in one line that names place, key and way out; good ones become typed settings."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from medalign.config import build, load, loads
from medalign.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The settings of a solver, with a limit of its own."""

    epsilon: float = 0.1
    rho: float = field(default=1.0, metadata={"allow_inf": True})
    iterations: int = 100

    def __post_init__(self):
        for name in ("epsilon", "rho", "iterations"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class Matching:
    __pydantic_config__ = {"extra": "forbid", "strict": True}

    neighbours: int = 5
    symmetric: bool = True
    mode: Literal["max", "min"] = "max"
    order: Literal[1, 2] = 2
    temperature: float | None = None
    size: int | tuple[int, int] = 224
    solver: Solver = Solver()


@dataclass(frozen=True, kw_only=True)
class Contrast:
    temperature: float = 0.1
    dropout: float = 0.0

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError("the dropout must be in [0, 1).")


@dataclass(frozen=True, kw_only=True)
class Data:
    corpus: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    views: tuple[int, ...] = (2,)
    weights: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Train:
    steps: int
    learning_rate: float = 1e-3
    micro_batch: int = 16
    zero_stage: Literal[0, 1, 2, 3] = 1
    scheduler: Literal["cosine", "step"] = "cosine"
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.1
    accumulate: int | None = None

    def __post_init__(self):
        for name in ("steps", "learning_rate", "micro_batch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}.")


TABLE = {"matching": f"{__name__}:Matching", "contrast": f"{__name__}:Contrast", "absent": "no_such_package.here:X"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    data: Data
    train: Train
    objective: Any = field(metadata={"table": TABLE})
    extras: tuple[Any, ...] = field(default=(), metadata={"table": TABLE})
    teacher: Any = field(default=None, metadata={"table": TABLE})


GOOD = """\
data:
  corpus: somewhere
train:
  steps: 10
objective:
  type: matching
"""


def with_lines(section: str, text: str) -> str:
    """Put lines under a section of the good recipe."""
    return GOOD.replace(f"{section}:\n", f"{section}:\n{textwrap.indent(text, '  ')}\n")


def refusal(path: Path, text: str | bytes, *overrides: str) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        build(Recipe, load(path, overrides))
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.isprintable(), "one line, without control characters"
    assert len(message) < 400
    assert message.endswith((".", "?"))
    return message.replace(str(path), "FILE")


BAD_VALUES = [  # number in the list of bad input, section, lines, where, cause, way out
    ("1 unknown key", "train", "colour: 1", "FILE:4: train.colour = 1:", "unknown key", "known: steps, learning_rate"),
    (
        "2 typo",
        "train",
        "learning_rat: 1",
        "FILE:4: train.learning_rat = 1:",
        "unknown key",
        "mean train.learning_rate?",
    ),
    (
        "2 typo deep",
        "objective",
        "solver: {rhoo: 1}",
        "FILE:6: objective.solver.rhoo",
        "unknown",
        "objective.solver.rho?",
    ),
    ("3 float", "train", "learning_rate: fast", 'FILE:4: train.learning_rate = "fast":', "a number", "write a number"),
    ("3 quoted", "train", "micro_batch: '3'", 'FILE:4: train.micro_batch = "3":', "an integer", "without quotes"),
    ("3 text", "data", "names: [a, 3]", "FILE:2: data.names[1] = 3:", "must be text", "put it in quotes"),
    ("4 yes", "objective", "symmetric: yes", 'FILE:6: objective.symmetric = "yes":', "true or false", "write true"),
    ("4 one", "objective", "symmetric: 1", "FILE:6: objective.symmetric = 1:", "true or false", "write true"),
    ("4 true for 1", "objective", "neighbours: true", "FILE:6: objective.neighbours = true:", "integer", "a number"),
    ("4 literal", "objective", "order: true", "FILE:6: objective.order = true:", "must be 1", "write 1"),
    ("5 int for list", "data", "views: 3", "FILE:2: data.views = 3:", "must be a list", "[first, second]"),
    ("5 list for int", "train", "micro_batch: [3]", "FILE:4: train.micro_batch = [3]:", "an integer", "write a number"),
    ("5 in a list", "data", "views: [1, two]", 'FILE:2: data.views[1] = "two":', "an integer", "write a number"),
    ("5 scalar for section", "objective", "solver: 3", "FILE:6: objective.solver = 3:", "a section", "give it keys"),
    ("6 null", "train", "learning_rate:", "FILE:4: train.learning_rate = null:", "a number", "delete the key"),
    ("8 lr < 0", "train", "learning_rate: -1e-3", "FILE:4: train.learning_rate = -0.001:", "must be > 0", "got -0.001"),
    ("9 lr = 0", "train", "learning_rate: 0", "FILE:4: train.learning_rate = 0:", "must be > 0", "got 0.0"),
    ("10 lr nan", "train", "learning_rate: .nan", "FILE:4: train.learning_rate = NaN:", "finite", "give one"),
    ("10 lr 'nan'", "train", "learning_rate: nan", 'FILE:4: train.learning_rate = "nan":', "number", "a finite number"),
    ("11 lr inf", "train", "learning_rate: .inf", "FILE:4: train.learning_rate = Infinity:", "finite", "give one"),
    ("11 lr 1e999", "train", "learning_rate: 1e999", "FILE:4: train.learning_rate = Infinity:", "finite", "give one"),
    ("11 inf in a dict", "data", "weights: {a: .inf}", "FILE:2: data.weights.a = Infinity:", "finite", "give one"),
    ("12 batch 0", "train", "micro_batch: 0", "FILE:4: train.micro_batch = 0:", "must be > 0", "got 0"),
    ("13 batch -1", "train", "micro_batch: -1", "FILE:4: train.micro_batch = -1:", "must be > 0", "got -1"),
    ("14 batch 2.5", "train", "micro_batch: 2.5", "FILE:4: train.micro_batch = 2.5:", "an integer", "write a number"),
    ("14 batch 1e2", "train", "micro_batch: 1e2", "FILE:4: train.micro_batch = 100.0:", "an integer", "write 100"),
    ("16 accumulate", "train", "accumulate: many", "FILE:4: train.accumulate", "must be an integer", "write a number"),
    (
        "20 warm-up 1.5",
        "train",
        "warm_up: 1.5",
        "FILE:4: train.warm_up = 1.5:",
        "less than or equal to 1",
        "change the value",
    ),
    ("26 stage 4", "train", "zero_stage: 4", "FILE:4: train.zero_stage = 4:", "one of 0, 1, 2, 3", "choose one"),
    ("35 epsilon 0", "objective", "solver: {epsilon: 0}", "FILE:6: objective.solver.epsilon = 0:", "> 0", "got 0.0"),
    ("36 epsilon < 0", "objective", "solver:\n  epsilon: -1", "FILE:7: objective.solver.epsilon", "> 0", "got -1.0"),
    ("37 rho < 0", "objective", "solver: {rho: -1}", "FILE:6: objective.solver.rho = -1:", "> 0", "got -1.0"),
    ("38 rho nan", "objective", "solver: {rho: .nan}", "FILE:6: objective.solver.rho = NaN:", "finite", "give one"),
    ("38 rho inf", "objective", "solver: {rho: inf}", 'objective.solver.rho = "inf":', "number", "write .inf"),
    ("39 iterations 0", "objective", "solver: {iterations: 0}", "objective.solver.iterations = 0:", "> 0", "got 0"),
    ("45 mean", "data", "mean: [0.5, 0.5]", "FILE:2: data.mean = [0.5, 0.5]:", "must have 3 items", "it has 2"),
    ("45 size", "objective", "size: [3]", "FILE:6: objective.size = [3]:", "must have 2 items", "it has 1"),
    (
        "76 scheduler",
        "train",
        "scheduler: cosin",
        "FILE:4: train.scheduler",
        "one of 'cosine', 'step'",
        "perhaps cosine",
    ),
    ("82 mode", "objective", "mode: maximise", "FILE:6: objective.mode", "one of 'max', 'min'", "choose one of them"),
    ("89 env", "data", "names: ['${HOME}/x']", "FILE:2: data.names[0]:", "${HOME}/x are not read", "write the value"),
]


@pytest.mark.parametrize("case", BAD_VALUES, ids=lambda case: case[0].replace(" ", "_"))
def test_a_bad_value_is_refused_with_place_key_and_way_out(case, tmp_path):
    _, section, lines, where, cause, way_out = case
    message = refusal(tmp_path / "r.yaml", with_lines(section, lines))
    assert where in message
    assert cause in message
    assert way_out in message


def test_a_missing_key_is_named_even_when_its_section_is_not_written(tmp_path):  # 7
    assert "FILE:3: train.steps: missing" in refusal(tmp_path / "r", GOOD.replace("steps: 10", "micro_batch: 1"))
    assert "FILE:1: data.corpus: missing" in refusal(tmp_path / "r", "train: {steps: 1}\nobjective: {type: matching}")
    assert "FILE:1: objective.type: missing" in refusal(tmp_path / "r", "data: {corpus: x}\ntrain: {steps: 1}")
    assert "package.module:Class" in refusal(tmp_path / "r", "data: {corpus: x}\ntrain: {steps: 1}\nobjective: {}")


def test_a_null_section_is_refused(tmp_path):
    message = refusal(tmp_path / "r", GOOD.replace("train:\n  steps: 10", "train:"))
    assert "FILE:3: train = null: must be a section with keys (steps, learning_rate" in message


def test_what_a_class_refuses_without_naming_a_key_is_its_sections_error(tmp_path):  # 34
    text = GOOD.replace("type: matching", "type: contrast\n  dropout: 1.0")
    assert refusal(tmp_path / "r", text) == "FILE:5: objective: the dropout must be in [0, 1)."


def test_an_override_is_its_own_place(tmp_path):
    message = refusal(tmp_path / "r", GOOD, "train.steps=1e3")
    assert message == "override train.steps=1e3: must be an integer; write 1000."
    message = refusal(tmp_path / "r", GOOD, "objective.solver={rho: 1, epsilon: no}")
    assert message.startswith('override objective.solver={rho: 1, epsilon: no}: objective.solver.epsilon = "no":')


def test_hostile_keys_and_values_stay_on_one_line(tmp_path):
    message = refusal(tmp_path / "r", GOOD + '"evil\\n\\e[31m": "a\\nb\\u202e"\n')
    assert "evil\\n\\x1b[31m" in message
    assert "did you" not in refusal(tmp_path / "r", GOOD + f"{'k' * 5000}: {'v' * 5000}\n")


def test_good_recipes_become_typed_settings():
    text = with_lines("objective", "temperature: 1E5\nsize: [3, 4]\nsolver: {rho: .inf, epsilon: 1}")
    text = text.replace("corpus: somewhere", "corpus: x\n  mean: [0, 1, 2.5]\n  weights: {a: 1}\n  views: []")
    recipe = build(Recipe, loads(text, overrides=["train.learning_rate=1e-4", "extras=[{type: contrast}]"]))
    assert recipe.objective == Matching(temperature=1e5, size=(3, 4), solver=Solver(rho=math.inf, epsilon=1.0))
    assert recipe.data == Data(corpus="x", mean=(0.0, 1.0, 2.5), weights={"a": 1.0}, views=())
    assert isinstance(recipe.data.mean[0], float)
    assert recipe.train.learning_rate == 1e-4
    assert recipe.extras == (Contrast(),)
    assert recipe.teacher is None


def test_an_optional_section_may_be_null_and_an_optional_value_too():
    text = with_lines("objective", "temperature: null") + "teacher:\n"
    recipe = build(Recipe, loads(text))
    assert recipe.teacher is None
    assert recipe.objective.temperature is None
    assert build(Recipe, loads(GOOD + "teacher: {type: contrast}")).teacher == Contrast()


def test_a_union_of_classes_is_the_authors_mistake():
    @dataclass(frozen=True)
    class Either:
        part: Solver | Contrast

    with pytest.raises(TypeError, match="table of types"):
        build(Either, loads("part: {rho: 1}", source="r"))


REJECT = """
import sys, time
from dataclasses import dataclass
from medalign.config import build, load
from medalign.errors import RecipeError

@dataclass(frozen=True)
class Run:
    seed: int = 0

try:
    build(Run, load(sys.argv[1]))
except RecipeError as error:
    print(error)
heavy = sorted({"torch", "ray", "transformers", "pyarrow", "deepspeed", "numpy"} & set(sys.modules))
print(heavy)
print(time.process_time())
"""


def test_a_bad_key_is_refused_in_less_than_a_second_of_cpu_without_any_framework(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("seeed: 3\n")
    done = subprocess.run([sys.executable, "-c", REJECT, recipe], capture_output=True, text=True, check=True)
    message, heavy, seconds = done.stdout.splitlines()
    assert message == f"{recipe}:1: seeed = 3: unknown key; did you mean seed?"
    assert heavy == "[]"
    assert float(seconds) < 1.0
