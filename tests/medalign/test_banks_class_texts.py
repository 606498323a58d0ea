"""From a bank to class texts in a corpus's order, and the controls."""

from dataclasses import replace

import pytest

from medalign import banks
from medalign.banks.class_texts import class_texts, led_by_template, shuffled_between_classes, template_instead
from medalign.errors import BankError
from medalign_core.objectives.few_shot.contract import ClassTexts

BCCD = banks.read("ready:bccd_cells")
CLASSES = ("Platelets", "RBC", "WBC")  # a corpus's classes are sorted
MANY = ClassTexts(
    names=tuple(f"class {number}" for number in range(7)),
    template="a {}.",
    descriptions=tuple(tuple(f"{number}.{k}" for k in range(1 + number % 3)) for number in range(7)),
)


def test_texts_come_in_the_corpus_s_order_whatever_the_bank_s_and_the_spelling():
    turned = replace(BCCD, classes=dict(reversed(BCCD.classes.items())))
    texts = class_texts(turned, ["wbc", "platelets", "Rbc"])
    assert texts.names == ("white blood cell", "platelet", "red blood cell")
    assert texts.sentences[0] == "a microscope photo of a white blood cell in a stained blood smear."
    assert texts.descriptions == tuple(BCCD.classes[name] for name in ("WBC", "Platelets", "RBC"))


def test_a_bank_may_have_more_classes_and_more_sentences_than_are_taken():
    texts = class_texts(BCCD, ["RBC"], most=2)
    assert texts.descriptions == (BCCD.classes["RBC"][:2],)
    with pytest.raises(ValueError, match="most must be >= 1"):
        class_texts(BCCD, ["RBC"], most=0)


def test_a_bank_that_lacks_a_class_or_has_a_problem_gives_no_texts():
    with pytest.raises(BankError, match="'Monocyte' is missing"):
        class_texts(BCCD, [*CLASSES, "Monocyte"])
    with pytest.raises(BankError, match="template must hold"):
        class_texts(replace(BCCD, template="a cell"), CLASSES)


def test_shuffled_texts_leave_no_class_its_own_and_lose_none():
    for seed in range(20):
        shuffled = shuffled_between_classes(MANY, seed=seed)
        pairs = zip(MANY.descriptions, shuffled.descriptions, strict=True)
        assert all(mine != given for mine, given in pairs)
        assert sorted(shuffled.descriptions) == sorted(MANY.descriptions)
        assert (shuffled.names, shuffled.template) == (MANY.names, MANY.template)


def test_a_seed_always_shuffles_alike_and_seeds_differ():
    first = shuffled_between_classes(MANY, seed=3)
    assert first == shuffled_between_classes(MANY, seed=3)
    assert len({shuffled_between_classes(MANY, seed=seed).descriptions for seed in range(20)}) > 10


def test_two_classes_are_always_exchanged():
    two = class_texts(banks.read("ready:chest_xray_pneumonia"), ["normal", "pneumonia"])
    for seed in range(5):
        assert shuffled_between_classes(two, seed=seed).descriptions == two.descriptions[::-1]


def test_the_template_takes_the_place_of_every_description():
    control = template_instead(MANY)
    assert control.sentences == MANY.sentences
    for sentence, mine, given in zip(MANY.sentences, MANY.descriptions, control.descriptions, strict=True):
        assert given == (sentence,) * len(mine)


def test_led_by_its_template_a_description_names_its_class_even_among_another_s_words():
    two = class_texts(banks.read("ready:chest_xray_pneumonia"), ["normal", "pneumonia"], most=1)
    led = led_by_template(shuffled_between_classes(two, seed=0))
    assert led.descriptions == (
        ("a chest X-ray of normal lungs. A hazy white patch clouds part of one lung.",),
        ("a chest X-ray of pneumonia. Both lungs are evenly dark, without white patches.",),
    )
    assert (led.names, led.template) == (two.names, two.template)


def test_controls_need_what_they_change():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        shuffled_between_classes(class_texts(BCCD, ["RBC"]), seed=0)
    for change in (template_instead, led_by_template):
        with pytest.raises(ValueError, match="no descriptions to change"):
            change(replace(MANY, descriptions=()))
