"""The search section: what it may say, what is refused, and the overrides that a point becomes."""

import numpy as np
import pytest

from medalign import config
from medalign.errors import RecipeError
from medalign.tune.space import identity, overrides_of, read_space


def space_of(search: str, base: str = "kind: a\n"):
    return read_space(config.loads(f"{base}search:\n{search}", source="r.yaml"))


def draws(seed=0):
    return np.random.default_rng(seed)


def test_a_range_is_drawn_within_its_ends_and_a_logarithm_evenly_by_magnitude():
    space = space_of("  a: {uniform: [2, 3]}\n  b: {loguniform: [1e-4, 1]}\n  c: {int: [2, 6], step: 2}\n")
    points = [space.draw(draws(seed)) for seed in range(400)]
    assert all(2 <= p["a"] < 3 and 1e-4 <= p["b"] < 1 for p in points)
    assert {p["c"] for p in points} == {2, 4, 6}
    assert abs(np.mean([p["b"] < 1e-2 for p in points]) - 0.5) < 0.1


def test_an_integer_by_its_logarithm_takes_both_ends():
    space = space_of("  n: {int: [1, 8], log: true}\n")
    assert {space.draw(draws(seed))["n"] for seed in range(300)} == set(range(1, 9))


def test_a_key_under_a_condition_is_drawn_only_where_it_holds():
    space = space_of("  kind: {choice: [a, b]}\n  rate: {uniform: [0, 1], when: {kind: b}}\n")
    for seed in range(30):
        point = space.draw(draws(seed))
        assert ("rate" in point) == (point["kind"] == "b")


def test_a_condition_may_be_on_a_key_of_the_recipe_that_is_not_searched():
    assert "x" in space_of("  x: {uniform: [0, 1], when: {kind: [a, c]}}\n").draw(draws())
    assert "x" not in space_of("  x: {uniform: [0, 1], when: {kind: b}}\n").draw(draws())


def test_the_grid_is_walked_once_with_the_last_key_fastest_and_no_point_for_a_key_that_does_not_exist():
    space = space_of("  kind: {grid: [a, b]}\n  n: {grid: [1, 2], when: {kind: b}}\n  m: {choice: [0, 9]}\n")
    walked = list(space.walk())
    assert [(p["kind"], p.get("n"), p["m"]) for p in walked] == [
        ("a", None, 0),
        ("a", None, 9),
        ("b", 1, 0),
        ("b", 1, 9),
        ("b", 2, 0),
        ("b", 2, 9),
    ]
    assert [p["kind"] for p in space.walk(("grid",))] == ["a", "b", "b"]


def test_every_end_and_every_choice_is_tried_with_what_its_condition_asks():
    space = space_of("  kind: {choice: [a, b]}\n  x: {uniform: [1, 2], when: {kind: b}}\n")
    assert list(space.edges()) == [{"kind": "a"}, {"kind": "b"}, {"kind": "b", "x": 1.0}, {"kind": "b", "x": 2.0}]


def test_a_point_is_an_override_of_the_command_line_and_comes_back_to_the_bit():
    point = {"a.rate": 0.1 + 0.2, "a.tiny": 1.2345678901234567e-05, "b": "yes", "c": [1, 2], "d": True, "e": None}
    document = config.loads("a: {rate: 1.0, tiny: 1.0}\nb: no\nc: [3]\nd: false\ne: 1\n", overrides=overrides_of(point))
    assert document.values["a"] == {"rate": 0.1 + 0.2, "tiny": 1.2345678901234567e-05}
    assert (document.values["b"], document.values["c"], document.values["d"]) == ("yes", [1, 2], True)
    assert document.values["e"] is None


def test_equal_points_are_equal_in_any_order():
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1}) != identity({"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("  x: {uniform: [1, 0]}\n", r"r.yaml:3: search.x.uniform = \[1, 0\]: low must be < high"),
        ("  x: {uniform: [1, 1]}\n", "low must be < high"),
        ("  x: {loguniform: [0, 1]}\n", "low must be > 0 for a logarithm"),
        ("  x: {uniform: [0, .inf]}\n", "must be two numbers"),
        ("  x: {int: [0.5, 2]}\n", "must be two whole numbers"),
        ("  x: {int: [1, 5], step: 0}\n", "must be a whole number >= 1"),
        ("  x: {choice: []}\n", "a list of at least one value"),
        ("  x: {choice: [1, 1]}\n", "names a value twice"),
        ("  x: {normal: [0, 1]}\n", "must be one of uniform, loguniform, int, choice, grid"),
        ("  x: 3\n", "must be one of uniform"),
        ("  x: {uniform: [0, 1], step: 2}\n", "search.x.step: unknown"),
        ("  x: {uniform: [0, 1], when: 3}\n", "must be keys and their values"),
        ("  x: {uniform: [0, 1], when: {y: 1}}\n  y: {choice: [1, 2]}\n", "is searched below this key; move it above"),
        ("  a..b: {uniform: [0, 1]}\n", "an empty part in the key"),
        ("  {}\n", "no search space"),
    ],
)
def test_a_space_that_cannot_be_is_one_line_with_key_value_and_way_out(search, said):
    with pytest.raises(RecipeError, match=said) as caught:
        space_of(search)
    assert "\n" not in str(caught.value)
