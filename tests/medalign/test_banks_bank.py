"""Banks as files: they come back as they were, and what is no bank is refused in one line that names the key."""

import json

import pytest

from medalign import banks
from medalign.banks import Bank, Provenance
from medalign.banks.bank import loads
from medalign.errors import BankError

PEOPLE = Provenance(author="A. Reader", kind="people", date="2026-01-31", reviewer="B. Clinician")
BANK = Bank(
    name="lungs",
    template="an X-ray of {}.",
    classes={"ill": ("A hazy patch.", "A “white” lung."), "well": ("Dark lungs.",)},
    display_names={"ill": "an ill lung"},
    provenance=PEOPLE,
)


def test_a_bank_comes_back_as_it_was(tmp_path):
    uri = f"file://{tmp_path}/with space/lungs.json"
    banks.write(uri, BANK)
    assert banks.read(uri) == BANK
    assert banks.read(uri).dumps() == BANK.dumps()
    assert "“white”" in BANK.dumps()


def test_display_names_stand_in_sentences():
    assert [BANK.display(name) for name in BANK.classes] == ["an ill lung", "well"]


@pytest.mark.parametrize("name", ["Ankle boot", "ankle_boot", " ANKLE-BOOT ", "ankle/boot", "ａnkle boot"])
def test_spellings_of_a_name_are_one(name):
    assert banks.normalise(name) == "ankle boot"


def changed(**changes):
    """Return the bank's JSON with other values; None takes a key away."""
    raw = {**json.loads(BANK.dumps()), **changes}
    return json.dumps({key: value for key, value in raw.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x: not JSON"),
        ("[]", "x: JSON, but a list where an object was due."),
        (changed(version="medalign.bank/9"), "x: version is 'medalign.bank/9', this release reads 'medalign.bank/1'."),
        (changed(version=None), "x: version is None"),
        (changed(name=None), "x: name is missing."),
        (changed(name=7), "x: name must be a text, got 7."),
        (changed(classes=[]), "x: classes must be an object, got a list."),
        (changed(classes={"a": "A."}), "x: classes['a'] must be a list of sentences, got a text."),
        (changed(classes={"a": [1]}), "x: classes['a'] must be a list of sentences"),
        (changed(display_names={"ill": None}), "x: display_names['ill'] must be a text, got null."),
        (changed(clases={}), "x: clases is an unknown key; known are version, name, "),
        (changed(provenance={"author": "A", "kind": "people"}), "x: provenance.date is missing."),
        (
            changed(provenance={"author": "A", "kind": "people", "date": "2026-01-31", "reviewer": 3}),
            "x: provenance.reviewer must be a text or null, got 3.",
        ),
        (BANK.dumps().replace('"well"', '"ill"'), "x: the key 'ill' twice."),
    ],
)
def test_what_is_no_bank_is_refused_in_one_line(text, expected):
    with pytest.raises(BankError) as refused:
        loads(text, place="x")
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


def test_a_missing_bank_and_one_in_another_encoding_are_refused(tmp_path):
    with pytest.raises(BankError, match="no bank here"):
        banks.read(str(tmp_path / "none.json"))
    (tmp_path / "latin.json").write_bytes(BANK.dumps().encode("utf-16"))
    with pytest.raises(BankError, match="not UTF-8"):
        banks.read(str(tmp_path / "latin.json"))
    with pytest.raises(BankError, match=r"ready:none: no such bank; ready are bccd_cells, "):
        banks.read("ready:none")
