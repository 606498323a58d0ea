"""The search space: the `search` section of a recipe, checked, and the overrides that a point of it stands for.

search:
  objective.type: {choice: [lvm_med, simclr]}
  objective.noise_scale: {uniform: [0, 1], when: {objective.type: lvm_med}}
  optimizer.learning_rate: {loguniform: [1e-4, 1e-2]}
  objective.graph_size: {int: [8, 32], step: 8}
  run.seed: {grid: [0, 1, 2]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medalign.config import Document

Point = dict[str, Any]  # dotted key -> value
KINDS = ("uniform", "loguniform", "int", "choice", "grid")
FINITE = ("choice", "grid")
SECTION = "search"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One key and the values it may take.

    Attributes:
        key: dotted, as in an override.
        kind: of KINDS.
        low: of a range.
        high: of a range; an int may take it, too.
        step: of an int.
        log: an int drawn by its logarithm.
        values: of choice and grid.
        when: other keys and the values under which this one exists; () means always.
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: int = 1
    log: bool = False
    values: tuple[Any, ...] = ()
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def exists(self, point: Mapping[str, Any], base: Callable[[str], Any]) -> bool:
        """Tell whether the key is asked for, given those before it; `base` says what the recipe has."""
        return all((point[key] if key in point else base(key)) in values for key, values in self.when)

    def draw(self, draws: np.random.Generator) -> Any:
        """Return a value."""
        if self.kind in FINITE:
            return self.values[int(draws.integers(len(self.values)))]
        if self.kind == "uniform":
            return float(draws.uniform(self.low, self.high))
        if self.kind == "loguniform":
            return float(math.exp(draws.uniform(math.log(self.low), math.log(self.high))))
        if self.log:
            return int(math.exp(draws.uniform(math.log(self.low), math.log(self.high + 1))))
        return int(self.low) + self.step * int(draws.integers((int(self.high) - int(self.low)) // self.step + 1))

    @property
    def edges(self) -> tuple[Any, ...]:
        """The values that show whether the recipe takes this key: all of a list, both ends of a range."""
        if self.kind in FINITE:
            return self.values
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All axes, those that a condition names before those that it holds for.

    Attributes:
        axes: in the order of the recipe.
        base: what the recipe has for a key without an override.
    """

    axes: tuple[Axis, ...]
    base: Callable[[str], Any]

    def draw(self, draws: np.random.Generator, fixed: Mapping[str, Any] | None = None) -> Point:
        """Return a random point; `fixed` gives the keys of the grid."""
        point: Point = {}
        for axis in self.axes:
            if axis.exists(point, self.base):
                point[axis.key] = fixed[axis.key] if fixed and axis.key in fixed else axis.draw(draws)
        return point

    def walk(self, kinds: tuple[str, ...] = FINITE) -> Iterator[Point]:
        """Yield every point of the axes of these kinds, the last varying fastest, each once."""
        yield from self._below(tuple(a for a in self.axes if a.kind in kinds), {})

    def _below(self, axes: tuple[Axis, ...], point: Point) -> Iterator[Point]:
        if not axes:
            yield point
            return
        first, rest = axes[0], axes[1:]
        if not first.exists(point, self.base):
            yield from self._below(rest, point)
            return
        for value in first.values:
            yield from self._below(rest, {**point, first.key: value})

    def edges(self) -> Iterator[Point]:
        """Yield points that together try every end and every choice once, each with what its condition asks."""
        for axis in self.axes:
            for value in axis.edges:
                yield {**self._asked(axis), axis.key: value}

    def _asked(self, axis: Axis) -> Point:
        found: Point = {}
        for key, values in axis.when:
            above = next((other for other in self.axes if other.key == key), None)
            if above is not None:
                found |= {**self._asked(above), key: values[0]}
        return found


def overrides_of(point: Mapping[str, Any]) -> list[str]:
    """Write a point as the words of a command line: key=VALUE, VALUE as YAML."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in point.items()]


def identity(point: Mapping[str, Any]) -> str:
    """Return what two equal points have in common, whatever the order of their keys."""
    return json.dumps(point, sort_keys=True)


def read_space(document: Document) -> Space:
    """Read the `search` section of a recipe.

    Raises:
        RecipeError: it is missing or empty, or an axis cannot be understood; key path, value and way out.
    """
    section = document.values.get(SECTION)
    if not isinstance(section, dict) or not section:
        way_out = "give it keys, for example optimizer.learning_rate: {loguniform: [1e-4, 1e-2]}"
        raise document.error((SECTION,), f"no search space; {way_out}.")
    axes: list[Axis] = []
    for key, said in section.items():
        axes.append(_axis(document, str(key), said, known=[axis.key for axis in axes]))

    def base(key: str) -> Any:
        found: Any = document.values
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    return Space(axes=tuple(axes), base=base)


def _axis(document: Document, key: str, said: Any, *, known: list[str]) -> Axis:
    path = (SECTION, key)
    if not all(part.strip() for part in key.split(".")):
        raise document.error(path, "an empty part in the key; write it as in an override, section.key.", value=said)
    named = [kind for kind in KINDS if isinstance(said, dict) and kind in said]
    if len(named) != 1:
        raise document.error(path, f"must be one of {', '.join(KINDS)}; write e.g. {{uniform: [0, 1]}}.", value=said)
    kind = named[0]
    allowed = {kind, "when", *(("step", "log") if kind == "int" else ())}
    for name in said:
        if name not in allowed:
            raise document.error((*path, name), f"unknown; beside {kind} there may be {', '.join(sorted(allowed))}.")
    when = _when(document, path, said.get("when"), known=known)
    values = said[kind]
    if kind in FINITE:
        return Axis(key=key, kind=kind, values=_listed(document, (*path, kind), values), when=when)
    step, log = said.get("step", 1), said.get("log", False)
    low, high = _range(document, (*path, kind), values, kind=kind, log=log or kind == "loguniform")
    if not isinstance(step, int) or isinstance(step, bool) or step < 1 or (log and step != 1):
        raise document.error((*path, "step"), "must be a whole number >= 1, and 1 with log.", value=step)
    if not isinstance(log, bool):
        raise document.error((*path, "log"), "must be true or false.", value=log)
    return Axis(key=key, kind=kind, low=low, high=high, step=step, log=log, when=when)


def _listed(document: Document, path: tuple, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise document.error(path, "must be a list of at least one value.", value=values)
    if len({json.dumps(value, sort_keys=True) for value in values}) != len(values):
        raise document.error(path, "names a value twice; keep one of them.", value=values)
    return tuple(values)


def _range(document: Document, path: tuple, values: Any, *, kind: str, log: bool) -> tuple[float, float]:
    kinds = (int,) if kind == "int" else (int, float)
    if (
        not isinstance(values, list)
        or len(values) != 2
        or not all(isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    ):
        what = "whole numbers" if kind == "int" else "numbers"
        raise document.error(path, f"must be two {what}, [low, high].", value=values)
    low, high = values
    if not low < high:
        raise document.error(path, "low must be < high; swap them, or fix the key in the recipe.", value=values)
    if log and not low > 0:
        raise document.error(path, "low must be > 0 for a logarithm; raise it, or use uniform.", value=values)
    return (low, high) if kind == "int" else (float(low), float(high))


def _when(document: Document, path: tuple, said: Any, *, known: list[str]) -> tuple:
    if said is None:
        return ()
    if not isinstance(said, dict) or not said:
        raise document.error((*path, "when"), "must be keys and their values, {objective.type: lvm_med}.", value=said)
    own = document.values.get(SECTION, {})
    for key in said:
        if key in own and key not in known:
            raise document.error((*path, "when", key), "is searched below this key; move it above.")
    return tuple((str(key), tuple(v) if isinstance(v, list) else (v,)) for key, v in said.items())
