"""The DICOM reader: windows against hand-computed values, every photometric kind, frames, groups, and no identity."""

import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from drawn_dicom import VALUES, write
from drawn_images import PHI, pixels
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLosslessSV1

from medalign.data import formats, rows
from medalign.data.formats import dicom, dicom_pixels
from medalign.data.images import ImageReject
from medalign.errors import CorpusError

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def read(path: Path, **options):
    """Return the content of every item of a folder, in order."""
    complete = formats.complete("dicom", options)
    return [dicom.read_item(item, complete) for item in dicom.list_items(str(path), complete)]


def test_rescale_and_the_files_window_give_the_hand_computed_levels(tmp_path):
    # Rescaled 2 x - 20: -20, 0, ..., 200. Window c = 80, w = 101: 0 up to 29.5, 255 above 129.5,
    # between them 255 ((x - 79.5)/100 + 0.5).
    write(tmp_path / "a.dcm", VALUES, RescaleSlope=2, RescaleIntercept=-20, WindowCenter=80, WindowWidth=101)
    expected = [[0, 0, 0, 27], [78, 129, 180, 231], [255, 255, 255, 255]]
    assert read(tmp_path)[0].image.tolist() == expected
    assert read(tmp_path, window="80,101")[0].image.tolist() == expected
    assert read(tmp_path, window="79.5,1")[0].image.tolist() == np.where(2 * VALUES - 20 > 79, 255, 0).tolist()


def test_of_several_windows_the_first_counts_and_without_one_percentiles_do(tmp_path):
    write(tmp_path / "a.dcm", VALUES, WindowCenter=[40.5, 9], WindowWidth=[81, 2])
    assert read(tmp_path)[0].image.tolist() == np.rint(np.clip(VALUES / 80, 0, 1) * 255).astype(int).tolist()
    low, high = np.percentile(VALUES, (0.5, 99.5))
    wanted = np.rint((np.clip(VALUES, low, high) - low) / (high - low) * 255).astype(int)
    assert read(tmp_path, window="percentiles")[0].image.tolist() == wanted.tolist()


def test_padding_values_do_not_move_the_percentiles(tmp_path):
    stored = np.full((40, 40), -2000, dtype=np.int16)
    stored[10:30, 10:30] = pixels(0, size=(20, 20))
    write(tmp_path / "a.dcm", stored, PixelPaddingValue=-2000)
    inner = read(tmp_path)[0].image[10:30, 10:30]
    assert inner.min() == 0
    assert inner.max() == 255
    assert len(np.unique(inner)) > 50  # with the padding all of it would be white


def test_exact_and_sigmoid_windows_follow_the_standard():
    values = np.array([-50.0, 0.0, 25.0, 50.0, 150.0])
    assert dicom_pixels.exact_window(values, 50, 100).tolist() == [0, 0, 64, 128, 255]
    expected = np.rint(255 / (1 + np.exp(-4 * (values - 50) / 100))).astype(int).tolist()
    assert dicom_pixels.sigmoid_window(values, 50, 100).tolist() == expected


def test_monochrome1_is_inverted(tmp_path):
    write(tmp_path / "a.dcm", VALUES, WindowCenter=55.5, WindowWidth=111)
    plain = read(tmp_path)[0].image
    write(tmp_path / "a.dcm", VALUES, WindowCenter=55.5, WindowWidth=111, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(tmp_path)[0].image, 255 - plain)
    assert plain[0, 0] == 0


def test_each_frame_is_a_row_of_one_group(tmp_path):
    stack = np.stack([pixels(seed, size=(16, 12)) for seed in range(5)])
    write(tmp_path / "clip.dcm", stack, WindowCenter=128, WindowWidth=256)
    complete = formats.complete("dicom", {})
    items = list(dicom.list_items(str(tmp_path), complete))
    assert [item.key for item in items] == [f"clip.dcm#{frame}" for frame in range(5)]
    assert len({item.group for item in items}) == 1
    for frame, item in enumerate(items):
        found = dicom.read_item(item, complete).image.astype(int)
        assert np.abs(found - stack[frame]).max() <= 1


def test_an_enhanced_files_frames_have_their_own_rescale_and_window(tmp_path):
    frames = []
    for slope in (1, 2):
        transform, window, frame = Dataset(), Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = 110.5, 221
        frame.PixelValueTransformationSequence = Sequence([transform])
        frame.FrameVOILUTSequence = Sequence([window])
        frames.append(frame)
    write(tmp_path / "a.dcm", np.stack([VALUES, VALUES]), PerFrameFunctionalGroupsSequence=Sequence(frames))
    first, second = (content.image for content in read(tmp_path))
    assert first.tolist() == np.rint(VALUES / 220 * 255).astype(int).tolist()
    assert second.tolist() == np.rint(VALUES * 2 / 220 * 255).astype(int).tolist()


def test_colour_is_rgb_whatever_it_was_stored_as(tmp_path):
    colour = pixels(3, size=(10, 14), channels=3)
    write(tmp_path / "a.dcm", colour)
    assert np.array_equal(read(tmp_path)[0].image, colour)
    for name in ("examples_palette.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "examples_ybr_color.dcm"):
        path = SHIPPED / name
        items = list(dicom.list_file(str(path), path.stat().st_size, key=name, options=dict(dicom.OPTIONS)))
        found = dicom.read_item(items[-1], dicom.OPTIONS).image
        assert found.dtype == np.uint8
        assert found.shape[-1] == 3
    # An uncompressed RGB file and its YBR twin show the same picture.
    twins = []
    for name in ("SC_rgb_rle.dcm", "SC_rgb_dcmtk_+eb+cr.dcm"):
        item = next(dicom.list_file(str(SHIPPED / name), 1, key=name, options=dict(dicom.OPTIONS)))
        twins.append(dicom.read_item(item, dicom.OPTIONS).image.astype(int))
    assert np.abs(twins[0] - twins[1]).mean() < 2


def test_modality_and_body_part_are_kept_and_free_text_in_their_place_is_not(tmp_path):
    write(tmp_path / "a.dcm", VALUES)
    content = read(tmp_path)[0]
    assert (content.modality, content.body_part, content.caption) == ("CT", "CHEST", None)
    with dicom_pixels.silence():
        write(tmp_path / "a.dcm", VALUES, BodyPartExamined="of Jane, born 1950")
    assert read(tmp_path)[0].body_part is None


def test_tags_are_kept_only_where_asked(tmp_path):
    write(tmp_path / "a.dcm", VALUES, StudyDescription="Chest routine", ProtocolName="P1")
    assert read(tmp_path, keep_tags="StudyDescription, ProtocolName")[0].caption == (
        "StudyDescription: Chest routine; ProtocolName: P1"
    )
    assert PHI not in repr(read(tmp_path))
    with pytest.raises(CorpusError, match="'Studydescription', which is not a DICOM keyword"):
        read(tmp_path, keep_tags="Studydescription")


def test_the_group_is_the_asked_level_or_the_next_finer_one(tmp_path):
    write(tmp_path / "a.dcm", VALUES)
    groups = {}
    for level in ("patient", "study", "series"):
        groups[level] = next(dicom.list_items(str(tmp_path), formats.complete("dicom", {"split_by": level}))).group
    assert groups == {"patient": f"patient {PHI}-id", "study": "study 1.2.3", "series": "series 1.2.3.4"}
    write(tmp_path / "a.dcm", VALUES, PatientID="")
    assert next(dicom.list_items(str(tmp_path), dict(dicom.OPTIONS))).group == "study 1.2.3"
    with pytest.raises(CorpusError, match="patient, study, series"):
        list(dicom.list_items(str(tmp_path), formats.complete("dicom", {"split_by": "slice"})))


def test_labels_come_from_the_folder_the_modality_or_the_body_part(tmp_path):
    (tmp_path / "set" / "lung").mkdir(parents=True)
    write(tmp_path / "set" / "lung" / "a.dcm", VALUES)
    for label_by, label in {"folder": "lung", "modality": "CT", "body_part": "CHEST", "": None}.items():
        items = list(dicom.list_items(str(tmp_path / "set"), formats.complete("dicom", {"label_by": label_by})))
        assert [item.label for item in items] == [label]


def test_files_without_pictures_are_passed_over(tmp_path):
    (tmp_path / "README").write_text("text")
    write(tmp_path / "mask.dcm", VALUES, Modality="SEG")
    assert list(dicom.list_items(str(tmp_path), dict(dicom.OPTIONS))) == []


def _reasons(folder: Path) -> list[str]:
    reasons = []
    for item in dicom.list_items(str(folder), dict(dicom.OPTIONS)):
        with pytest.raises(ImageReject) as caught:
            dicom.read_item(item, dicom.OPTIONS)
        reasons.append(str(caught.value))
    return reasons


def test_what_cannot_be_decoded_is_rejected_with_its_reason(tmp_path):
    write(tmp_path / "1.dcm", VALUES, Rows=60_000, Columns=60_000)
    write(tmp_path / "2.dcm", VALUES, NumberOfFrames=100_000)
    write(tmp_path / "3.dcm", VALUES, PixelData=b"\x00\x00")
    (tmp_path / "4.dcm").write_bytes(b"not DICOM")
    (tmp_path / "5.dcm").write_bytes((SHIPPED / "SC_rgb_jpeg_gdcm.dcm").read_bytes())
    assert pydicom.dcmread(tmp_path / "5.dcm").file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert _reasons(tmp_path) == [
        "60000 x 60000 pixels, more than 64000000",
        "not between 1 and 4096 frames",
        "damaged or missing pixels (ValueError)",
        "not a DICOM file",
        f"cannot decode transfer syntax {JPEGLosslessSV1.name}",
    ]


def test_a_deflated_file_is_read_and_a_deflate_bomb_is_not_inflated(tmp_path, monkeypatch):
    write(tmp_path / "good.dcm", VALUES, syntax=DeflatedExplicitVRLittleEndian, WindowCenter=55.5, WindowWidth=111)
    assert read(tmp_path)[0].image.tolist() == np.rint(VALUES / 110 * 255).astype(int).tolist()
    monkeypatch.setattr(dicom, "MAX_BYTES", 1 << 20)
    data = (tmp_path / "good.dcm").read_bytes()
    start = dicom.META_START + 12 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    (tmp_path / "good.dcm").write_bytes(data[:start] + packer.compress(bytes(50 << 20)) + packer.flush())
    assert _reasons(tmp_path) == ["inflates to more than 1 MiB"]


def test_odd_values_reach_neither_the_log_nor_the_warnings(tmp_path, caplog, recwarn):
    path = write(tmp_path / "a.dcm", VALUES)
    data = path.read_bytes()
    # A name where a unique id belongs: pydicom warns of such values and quotes them.
    path.write_bytes(data.replace(b"1.2.3\0", b"J.DOE\0").replace(b"CHEST ", b"J.DOE "))
    recwarn.clear()
    caplog.clear()
    assert read(tmp_path)[0].body_part is None
    assert not recwarn.list
    assert "DOE" not in caplog.text


def test_random_damage_costs_the_row_and_raises_nothing(tmp_path):
    path = write(tmp_path / "a.dcm", np.stack([VALUES, VALUES]), WindowCenter=50, WindowWidth=100)
    good = path.read_bytes()
    recipe = rows.Recipe(
        format="dicom", options=dict(dicom.OPTIONS), max_side=64, max_pixels=10_000, encoding="auto", salt=""
    )
    draw = np.random.default_rng(0)
    outcomes = Counter()
    for _ in range(300):
        data = bytearray(good)
        for place in draw.integers(132, len(data), draw.integers(1, 8)):
            data[place] = draw.integers(256)
        path.write_bytes(data[: draw.integers(200, len(data))] if draw.random() < 0.3 else data)
        items = list(dicom.list_items(str(tmp_path), dict(dicom.OPTIONS)))
        outcomes["skipped"] += not items
        for item in items[:1]:
            _, reason = rows.make(item, recipe)
            outcomes["rejected" if reason else "row"] += 1
            assert "CANARY" not in reason
    assert outcomes["row"] > 50
    assert outcomes["rejected"] > 50
