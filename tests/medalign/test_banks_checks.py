"""What a check finds: each fault has a bank of its own that is right but for it."""

from dataclasses import replace

import pytest

from medalign import banks
from medalign.banks import Bank, Provenance, TokenLimit
from medalign.errors import BankError

PEOPLE = Provenance(author="A. Reader", kind="people", date="2026-01-31", reviewer="B. Clinician")
GOOD = Bank(
    name="lungs",
    template="an X-ray of {}.",
    classes={"left_lung": ("It lies left.", "It has two lobes."), "right lung": ("It lies right.", "Three lobes.")},
    display_names={"left_lung": "left lung"},
    provenance=PEOPLE,
)
WORDS = TokenLimit(count=lambda text: len(text.split()), most=5)


def test_a_good_bank_has_neither_problems_nor_notes():
    assert banks.check(GOOD, classes=["Left-Lung", "right_lung"], limit=WORDS) == banks.Findings(problems=(), notes=())
    banks.require(GOOD, classes=["Left-Lung"], limit=WORDS)


def with_classes(**classes):
    """Return the bank with other classes."""
    return replace(GOOD, classes=classes, display_names={})


@pytest.mark.parametrize(
    ("bank", "expected"),
    [
        (replace(GOOD, name=" "), "name is empty"),
        (replace(GOOD, template="an X-ray."), "template must hold one {} for the class's name, got 'an X-ray.'"),
        (replace(GOOD, template="{} or {}"), "template must hold one {} for the class's name, got '{} or {}'"),
        (replace(GOOD, template="{} of {place}"), "template must hold one {} for the class's name"),
        (replace(GOOD, classes={}, display_names={}), "classes is empty"),
        (with_classes(left_lung=("A.",), **{"Left lung": ("B.",)}), "class 'Left lung' is the same as 'left_lung'"),
        (with_classes(left=("A.",), **{"_": ("B.",)}), "class '_' has an empty name"),
        (
            replace(GOOD, display_names={"left_lung": "Right  lung"}),
            "class 'right lung' is shown as 'right lung', as 'left_lung' is",
        ),
        (replace(GOOD, display_names={"liver": "the liver"}), "display_names has 'liver', which is no class"),
        (with_classes(left=(), right=("A.",)), "class 'left' has no sentences"),
        (with_classes(left=("A.", "  ")), "class 'left', sentence 2: empty"),
        (with_classes(left=("A\nB.",)), "class 'left', sentence 1: holds a line break or another control character"),
        (with_classes(left=("A dark lung.", "a dark  lung")), "class 'left', sentence 2: there twice (a dark  lung)"),
        (replace(GOOD, provenance=replace(PEOPLE, date="31.1.2026")), "provenance.date must be an ISO date"),
        (replace(GOOD, provenance=replace(PEOPLE, kind="robot")), "provenance.kind must be people or model"),
        (replace(GOOD, provenance=replace(PEOPLE, kind="model")), "provenance.prompt_sha256 must be the SHA-256"),
        (replace(GOOD, provenance=replace(PEOPLE, author="")), "provenance.author is empty"),
    ],
)
def test_each_fault_is_one_problem_and_refuses_the_bank(bank, expected):
    (problem,) = banks.check(bank).problems
    assert problem.startswith(expected)
    with pytest.raises(BankError) as refused:
        banks.require(bank)
    assert str(refused.value).startswith(f"bank {bank.name!r}: {expected}")
    assert "\n" not in str(refused.value)


def test_classes_that_a_corpus_has_and_the_bank_lacks_are_named():
    (problem,) = banks.check(GOOD, classes=["left lung", "liver", "spleen"]).problems
    assert problem == ("the corpus's class 'liver', 'spleen' is missing; the bank has 'left_lung', 'right lung'")
    with pytest.raises(BankError, match="'liver', 'spleen' is missing"):
        banks.match(GOOD, ["left lung", "liver", "spleen"])


def test_two_classes_of_a_corpus_that_are_spelled_alike_are_a_problem():
    (problem,) = banks.check(GOOD, classes=["left lung", "left_lung"]).problems
    assert problem == "the corpus's classes 'left lung' and 'left_lung' are the same: case, _, - and / do not count"


def test_a_sentence_or_a_filled_template_beyond_the_tower_is_a_problem():
    problems = banks.check(GOOD, limit=replace(WORDS, most=3)).problems
    assert problems == (
        "class 'left_lung': its template has 5 tokens, the text tower reads 3",
        "class 'left_lung', sentence 2: 4 tokens, the text tower reads 3",
        "class 'right lung': its template has 5 tokens, the text tower reads 3",
    )
    with pytest.raises(BankError, match=r"reads 3 \(2 more; `medalign bank validate` lists them\)\.$"):
        banks.require(GOOD, limit=replace(WORDS, most=3))


def test_notes_stop_nothing():
    bank = with_classes(left=("It lies left.", "Unlike the right one."), right=("It lies left.",), spare=("A.", "B."))
    bank = replace(bank, provenance=replace(PEOPLE, reviewer=None))
    findings = banks.check(bank, classes=["left", "right"])
    assert findings.problems == ()
    assert findings.notes == (
        "ragged: from 1 sentences ('right') to 2 ('left') a class",
        "not in the corpus: 'spare'",
        "class 'left', sentence 2: names the class 'right' (Unlike the right one.)",
        "class 'right', sentence 1: word for word one of 'left' (It lies left.)",
        "class 'right', sentence 1: names the class 'left' (It lies left.)",
        "no clinician has reviewed it (provenance.reviewer is null)",
    )
    banks.require(bank)


def test_a_class_s_own_name_may_hold_another_one():
    bank = with_classes(**{"left lung": ("The left lung lies left.",), "lung": ("It breathes.",)})
    assert banks.check(bank).notes == ()
