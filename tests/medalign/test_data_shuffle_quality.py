"""How well an order shuffles: rows travel as far as in a uniform shuffle, neighbours part with the window."""

from pathlib import Path

import pytest
from striped_corpus import write_corpus

from medalign.cli import main
from medalign.data.shuffle_quality import measure

GROUPS = (64,) * 128  # 8,192 rows


def quality(shuffle_rows: int):
    return measure(GROUPS, shuffle_rows, micro_batch=64, global_batch=128)


def test_rows_travel_a_third_of_the_corpus_whatever_the_window() -> None:
    for shuffle_rows in (128, 1024, 4096, 8192):
        assert quality(shuffle_rows).displacement == pytest.approx(1 / 3, abs=0.02)


def test_neighbours_part_by_a_third_of_the_window_and_micro_batches_mix_more_row_groups() -> None:
    found = [quality(shuffle_rows) for shuffle_rows in (512, 2048, 8192)]
    for one, window in zip(found, (512, 2048, 8192), strict=True):
        # nearly all neighbours share a row group, and so a window
        assert one.shuffle_rows == window
        assert one.parting == pytest.approx(window / 8192 / 3, abs=0.012)
    mixed = [one.row_groups for one in found]
    assert mixed == sorted(mixed)
    assert found[0].row_groups == pytest.approx(8, abs=0.5)
    assert found[-1].row_groups == pytest.approx(found[-1].uniform_row_groups, rel=0.02)


def test_data_show_prints_it_for_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 60})
    with pytest.raises(SystemExit) as ended:
        main(["data", "show", corpus, "--order", "--micro-batch", "10", "--global-batch", "20"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = [number for number, line in enumerate(lines) if line.startswith("data.shuffle_rows")]
    assert [line.split()[0] for line in lines[head + 1 :] if line[:1].isdigit()] == ["20", "60"]
