"""The stream through Ray Data is the plain iterator, whoever reads fast or slow; out of turn is refused."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray.data
import torch
from striped_corpus import write_corpus

from medalign.data.batches import BatchStream
from medalign.data.order import Order
from medalign.data.reader import RowSource
from medalign.data.settings import Data, SmallViews, Views
from medalign.data.stream import fold, receive, training_dataset, unfold, write_statistics
from medalign.errors import OrderError
from medalign_core.types import ImageBatch

VIEWS = Views(small=SmallViews(count=3, size=20))


def tear_some(split: str, i: int, row: dict) -> None:
    if i % 13 == 4:
        row["image"] = row["image"][:50]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"train": 70}, tear_some)


def stream_of(corpus: str, world: int, *, global_batch: int = 12) -> BatchStream:
    source = RowSource.open(corpus, ("train",))
    order = Order(seed=2, row_groups=source.sizes, micro_batch=4, global_batch=global_batch, shuffle_rows=24)
    return BatchStream(order, source, Data(corpus=corpus, image_size=16, views=VIEWS), world)


def assert_same(found: ImageBatch, expected: ImageBatch) -> None:
    assert (found.key, found.weight) == (expected.key, expected.weight)
    views = ("images", "boxes", "flipped")
    for name in (*views, *(f"small_{name}" for name in views), "valid", "labels", "ids"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def read(shard: object, stream: BatchStream, rank: int, span: tuple[int, int], pauses: float) -> list[ImageBatch]:
    found = []
    for batch in receive(shard, stream, rank=rank, start=span[0], stop=span[1]):
        found.append(batch)
        time.sleep(pauses)
    return found


def test_the_plain_stream_reads_the_rows_that_the_order_names(corpus: str) -> None:
    stream = stream_of(corpus, 1)
    batches = list(stream.plain(0, start=0, stop=7))  # into the second epoch
    assert [tuple(b.key) for b in batches] == [(2, step, m) for step in range(7) for m in range(3)]
    for step in range(7):
        rows = np.concatenate([b.ids.numpy() for b in batches[3 * step : 3 * step + 3]])
        assert np.array_equal(rows, stream.order.step_rows(step))
        assert np.array_equal(
            np.concatenate([b.valid.numpy() for b in batches[3 * step : 3 * step + 3]]), rows % 13 != 4
        )
        labels = np.concatenate([b.labels.numpy() for b in batches[3 * step : 3 * step + 3]])
        assert np.array_equal(labels, rows // 2 % 2)


def test_the_ranks_together_compute_each_micro_batch_once_whatever_the_world(corpus: str) -> None:
    alone = {b.key: b for b in stream_of(corpus, 1).plain(0, start=3, stop=6)}
    for world in (2, 3):
        stream = stream_of(corpus, world)
        dealt = [list(stream.plain(rank, start=3, stop=6)) for rank in range(world)]
        assert len({len(batches) for batches in dealt}) == 1
        real = [b for batches in dealt for b in batches if b.weight]
        assert len(real) == len(alone) == 9
        for batch in real:
            assert_same(batch, alone[batch.key])
        padding = [b for batches in dealt for b in batches if not b.weight]
        assert len(padding) == (3 if world == 2 else 0)
        for batch in padding:
            assert batch.key.index == 3
            assert not batch.valid.any()
            assert (batch.ids == -1).all()


def test_a_view_changes_from_epoch_to_epoch(corpus: str) -> None:
    batches = list(stream_of(corpus, 1).plain(0, start=0, stop=10))
    epochs = [{int(r): b.boxes[n] for b in batches[at : at + 15] for n, r in enumerate(b.ids)} for at in (0, 15)]
    both = [row for row in epochs[0].keys() & epochs[1].keys() if row % 13 != 4]
    assert len(both) > 30
    assert not any(torch.equal(epochs[0][row], epochs[1][row]) for row in both)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("world", [1, 2])
def test_ray_data_delivers_the_plain_stream_to_fast_and_slow_ranks(corpus: str, world: int) -> None:
    stream = stream_of(corpus, world)  # 3 micro-batches a step: two ranks need padding
    span = (3, 9)  # from the middle of a window, over the end of an epoch
    dataset = training_dataset(stream, start=span[0], stop=span[1])
    shards = dataset.streaming_split(world, equal=True)  # as Ray Train does
    found: dict[int, list[ImageBatch]] = {}
    readers = [
        threading.Thread(target=lambda r=r: found.update({r: read(shards[r], stream, r, span, 0.15 * r)}))
        for r in range(world)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=240)
    for rank in range(world):
        expected = list(stream.plain(rank, start=span[0], stop=span[1]))
        assert len(found[rank]) == len(expected) == 6 * -(-3 // world)
        for batch, wanted in zip(found[rank], expected, strict=True):
            assert_same(batch, wanted)


def test_resuming_opens_the_row_groups_of_the_steps_that_are_left_and_no_others(
    corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_of(corpus, 1)
    opened: list[int] = []
    read = RowSource._read
    monkeypatch.setattr(RowSource, "_read", lambda self, group, *rest: opened.append(group) or read(self, group, *rest))
    ends = np.cumsum(stream.source.sizes)
    for start in (0, 3, 4, 5 * 1_000_000 + 4):  # 5 steps an epoch, 2 a window: the last one is in epoch a million
        opened.clear()
        list(stream.plain(0, start=start, stop=start + 1))
        needed = np.unique(np.searchsorted(ends, stream.order.step_rows(start), side="right")).tolist()
        assert sorted(opened) == needed


@pytest.mark.usefixtures("ray_local")
def test_statistics_show_reading_decoding_and_batching_as_operators_in_worker_processes(
    corpus: str, tmp_path: Path
) -> None:
    stream = stream_of(corpus, 2)
    shards = training_dataset(stream, start=0, stop=4).streaming_split(2, equal=True)
    ranks = [threading.Thread(target=read, args=(shards[r], stream, r, (0, 4), 0.0)) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=240)
    write_statistics(shards[0], str(tmp_path))
    said = (tmp_path / "stream.txt").read_text()
    assert re.search(r"Operator \d+ MapBatches\(read_windows\): 2 tasks executed, 2 blocks produced", said)
    # four steps of three micro-batches and a padding one; one task decodes what is small together, a block each
    assert re.search(r"Operator \d+ MapBatches\(decode_views\): 2 tasks executed, 16 blocks produced", said)
    assert said.count("* Remote cpu time:") >= 2
    decoding = said.split("MapBatches(decode_views)")[1]
    assert "Output num rows per block: 1 min, 1 max, 1 mean, 16 total" in decoding  # a row is a micro-batch
    assert "Total batches consumed: 8" in said


@pytest.mark.usefixtures("ray_local")
def test_a_dataset_leaves_the_context_of_other_datasets_alone(corpus: str) -> None:
    context = ray.data.DataContext.get_current()
    before = (context.target_max_block_size, context.execution_options.preserve_order, context.enable_progress_bars)
    made = training_dataset(stream_of(corpus, 1), start=0, stop=4)
    after = (context.target_max_block_size, context.execution_options.preserve_order, context.enable_progress_bars)
    assert after == before
    assert made.context.execution_options.preserve_order
    assert made.context.target_max_block_size == 1


def test_a_block_is_folded_into_one_row_and_back_without_a_change(corpus: str) -> None:
    stream = stream_of(corpus, 2)  # with a padding block
    (window,) = stream.order.windows(0, 2)
    for block in stream.read_window(window):
        row = fold(block)
        assert row.num_rows == 1
        again = unfold(row)
        assert again.equals(block)
        assert all(np.array_equal(a, b) for a, b in zip(*map(decoded(stream), (block, again)), strict=True))


def decoded(stream: BatchStream):
    return lambda block: stream.decoder(block).values()


@pytest.mark.usefixtures("ray_local")
def test_no_steps_left_is_an_empty_dataset(corpus: str) -> None:
    stream = stream_of(corpus, 1)
    assert list(receive(training_dataset(stream, start=4, stop=4), stream, rank=0, start=4, stop=4)) == []


class Shuffled:
    """A shard whose blocks were dealt in another order, as Ray may do without being told."""

    def __init__(self, stream: BatchStream, order: list[int]) -> None:
        (window,) = stream.order.windows(0, 2)
        blocks = [stream.decoder(block) for block in stream.read_window(window)]
        self._blocks = [blocks[place] for place in order]

    def iter_batches(self, **_: object) -> Iterator[dict[str, np.ndarray]]:
        """Yield."""
        for block in self._blocks:
            yield {name: np.array([values]) for name, values in block.items()}


def test_a_micro_batch_out_of_turn_stops_the_rank(corpus: str) -> None:
    stream = stream_of(corpus, 1)
    in_turn = list(receive(Shuffled(stream, [0, 1, 2, 3, 4, 5]), stream, rank=0, start=0, stop=2))
    assert len(in_turn) == 6
    arriving = receive(Shuffled(stream, [0, 2, 1, 3, 4, 5]), stream, rank=0, start=0, stop=2)
    next(arriving)
    with pytest.raises(OrderError, match=r"rank 0: .*\(step 0, index 2\) arrived where \(step 0, index 1\) is due"):
        next(arriving)


def test_a_short_micro_batch_stops_the_rank(corpus: str) -> None:
    stream = stream_of(corpus, 1)
    shard = Shuffled(stream, [0])
    shard._blocks = [{name: values[:3] for name, values in shard._blocks[0].items()}]
    with pytest.raises(OrderError, match="with 3 rows"):
        next(receive(shard, stream, rank=0, start=0, stop=2))
