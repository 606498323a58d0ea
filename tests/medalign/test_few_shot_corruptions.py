"""Test images pasted over and cropped: how much of them changes, and the tests that a comparison makes of them."""

import numpy as np
import pytest
from few_shot_recipe import built, write_classes, write_recipe

from medalign.errors import CorpusError, RecipeError
from medalign.few_shot import few_shot
from medalign.few_shot.corruptions import Corruption, corrupt
from medalign.few_shot.strengths import along_strengths, markdown

WHITE, BLACK = np.full((3, 32, 32), 255, np.uint8), np.zeros((3, 32, 32), np.uint8)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_patches_cover_their_share_of_the_area(share):
    change = Corruption(kind="patches", share=share, foreign="elsewhere")
    found = corrupt(WHITE, change, [BLACK], key=("one",))
    assert (found == 0).mean() == share
    assert np.array_equal(found, corrupt(WHITE, change, [BLACK], key=("one",)))
    assert not np.array_equal(found, corrupt(WHITE, change, [BLACK], key=("two",)))


def test_a_crop_shows_a_square_of_its_share_enlarged():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (3, 64, 64))
    found = corrupt(np.ascontiguousarray(ramp), Corruption(kind="crop", share=0.25), [], key=("one",))
    assert found.shape == ramp.shape
    assert int(found.max()) - int(found.min()) == pytest.approx(31, abs=1)  # 32 of the 64 rows


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"kind": "crop", "share": 1.0}, "share must be in"),
        ({"kind": "patches", "share": 0.5}, "foreign names"),
        ({"kind": "crop", "share": 0.5, "foreign": "x"}, "foreign names"),
    ],
)
def test_what_cannot_be_done_is_refused(given, expected):
    with pytest.raises(ValueError, match=expected):
        Corruption(**given)


def test_every_corruption_is_a_test_of_its_own_and_the_clean_one_is_compared(tmp_path):
    document = write_recipe(tmp_path, shots=[2], seeds=[0, 1])
    task = document["tasks"]["colours"]
    other = write_classes(tmp_path / "other", {"test": 3}, shift=40)
    patches = {"kind": "patches", "share": 0.9, "foreign": other}
    document["tasks"]["colours"] = {**task, "corruptions": [patches, {"kind": "crop", "share": 0.5}]}
    found = few_shot(built(document))
    reached = {e.test: e.value.estimate for e in found.entries if (e.method, e.metric) == ("linear_probe", "accuracy")}
    assert list(reached) == ["colours", "colours, patches 0.90", "colours, crop 0.50"]
    assert reached["colours, patches 0.90"] < reached["colours"]  # nine tenths are of a class drawn at random
    assert {v.method for v in found.verdicts} == {"linear_probe"}
    recipe = built(document)
    strengths = along_strengths(recipe)
    assert [s.corruption for s in strengths if s.apart is not None] == ["", "patches 0.90", "crop 0.50"]
    means = {(s.method, s.corruption): s.value.estimate for s in strengths}
    for s in strengths:
        if s.apart is not None:
            between = means["linear_probe", s.corruption] - means["zero_shot", s.corruption]
            assert s.apart.estimate == pytest.approx(between)
    table = markdown(recipe, strengths)
    assert "| method | clean | patches 0.90 | crop 0.50 |" in table
    with pytest.raises(RecipeError, match="do not go together"):
        built({**document, "base_to_new": True, "primary": {**document["primary"], "method": "zero_shot"}})
    broken = {**patches, "foreign": str(tmp_path / "nowhere")}
    document["tasks"]["colours"] = {**task, "corruptions": [broken]}
    with pytest.raises(CorpusError, match="nowhere"):
        few_shot(built(document))
