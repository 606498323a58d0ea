"""The banks of the package: whole, within the rules that their sentences were written by, and for the classes due."""

import pytest

from medalign import banks
from medalign.data.formats.packaged_table import PICTURES

CLASSES = {
    "bccd_cells": {"RBC", "WBC", "Platelets"},
    "chest_xray_pneumonia": {"normal", "pneumonia"},
    "fashion_mnist": {
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    },
    "packaged_modalities": {picture.label for picture in PICTURES},
    "vqa_rad_organs": {"abdomen", "chest", "head"},
}
ready = pytest.mark.parametrize("name", banks.ready_names())


def test_the_ready_banks_are_these():
    assert set(banks.ready_names()) == set(CLASSES)


@ready
def test_a_ready_bank_has_its_classes_and_no_problem_and_says_that_nobody_reviewed_it(name):
    bank = banks.read(f"ready:{name}")
    findings = banks.check(bank, classes=sorted(CLASSES[name]))
    assert findings.problems == ()
    assert findings.notes == ("no clinician has reviewed it (provenance.reviewer is null)",)
    assert set(bank.classes) == CLASSES[name]
    assert (bank.name, bank.provenance.author, bank.provenance.reviewer) == (name, "MedAlign authors", None)
    assert "no clinician has reviewed" in bank.provenance.note


@ready
def test_a_ready_bank_has_eight_short_sentences_a_class_and_none_twice(name):
    bank = banks.read(f"ready:{name}")
    sentences = [sentence for texts in bank.classes.values() for sentence in texts]
    assert {len(texts) for texts in bank.classes.values()} == {8}
    assert max(len(sentence.split()) for sentence in sentences) <= 16
    assert len({sentence.casefold() for sentence in sentences}) == len(sentences)
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in sentences)


@ready
def test_a_ready_bank_is_written_as_the_program_writes_it(name, tmp_path):
    bank = banks.read(f"ready:{name}")
    banks.write(str(tmp_path / "again.json"), bank)
    assert banks.read(str(tmp_path / "again.json")) == bank
