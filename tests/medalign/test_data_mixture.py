"""Mixtures: positions shared by weight, each corpus once per epoch of its own, seekable, whatever the workers."""

import time

import numpy as np
import pytest
from striped_corpus import write_corpus

from medalign.data.batches import BatchStream
from medalign.data.mixture import CYCLE, Mixture
from medalign.data.order import Order
from medalign.data.reader import RowSource
from medalign.data.settings import Data, Part
from medalign.errors import PlanError, RecipeError
from medalign.plan import plan_run
from medalign.recipe import open_recipe
from medalign.training.settings import Train
from medalign_core.objectives.info_nce.settings import InfoNCE

GROUPS = (8, 8, 4, 7, 8, 3, 5, 5)  # three corpora of 20, 18 and 10 rows
PARTS = (3, 3, 2)
EDGES = np.array([0, 20, 38, 48])
WEIGHTS = (0.5, 0.3, 0.2)


def order(**keys: object) -> Order:
    mixture = Mixture(WEIGHTS, PARTS)
    settings = {"seed": 5, "row_groups": GROUPS, "micro_batch": 4, "global_batch": 12, "shuffle_rows": 24}
    return Order(**(settings | {"mixture": mixture} | keys))


def test_any_stretch_of_positions_holds_each_corpus_s_share_to_within_a_few() -> None:
    for weights in (WEIGHTS, (1.0, 1.0, 1.0), (0.98, 0.0101, 0.0099), (5.0, 2.5, 1e-2)):
        owners = Mixture(weights, PARTS).corpus_of(np.arange(3 * CYCLE))
        shares = np.array(weights) / sum(weights)
        for start in range(0, 2 * CYCLE, 997):
            for length in (10, 128, 4096):
                found = np.bincount(owners[start : start + length], minlength=3)
                assert np.abs(found - shares * length).max() <= 3, (weights, start, length)


def test_how_often_a_corpus_was_drawn_is_counted_without_a_replay() -> None:
    mixture = Mixture(WEIGHTS, PARTS)
    owners = mixture.corpus_of(np.arange(25_000))
    for position in (0, 1, 777, CYCLE, 24_999):
        assert mixture.drawn_before(position).tolist() == np.bincount(owners[:position], minlength=3).tolist()


def test_each_corpus_shows_each_row_once_in_each_epoch_of_its_own() -> None:
    mixed = order()
    steps = range(60)
    rows = np.concatenate([mixed.step_rows(step) for step in steps])
    epochs = np.concatenate([mixed.step_epochs(step) for step in steps])
    corpora = np.searchsorted(EDGES, rows, side="right") - 1
    drawn = Mixture(WEIGHTS, PARTS).drawn_before(len(rows))
    assert np.bincount(corpora).tolist() == drawn.tolist()
    for corpus, size in enumerate(np.diff(EDGES)):
        own, when = rows[corpora == corpus], epochs[corpora == corpus]
        whole = drawn[corpus] // size
        assert whole >= 9
        for epoch in range(whole):
            assert sorted(own[when == epoch].tolist()) == list(range(EDGES[corpus], EDGES[corpus + 1])), corpus
        rest = own[when == whole].tolist()  # the epoch that is under way: no row twice
        assert len(rest) == len(set(rest)) == drawn[corpus] % size
        assert not np.array_equal(own[when == 0], own[when == 1])


def test_a_step_of_a_mixture_does_not_depend_on_what_was_read_before() -> None:
    forward = [order().step_rows(step).tolist() for step in range(30)]
    mixed = order()
    assert [mixed.step_rows(step).tolist() for step in reversed(range(30))] == forward[::-1]
    assert order(seed=6).step_rows(3).tolist() != forward[3]


def test_seeking_far_into_a_mixture_costs_no_more_than_seeking_near() -> None:
    large = order(row_groups=(512,) * 900, mixture=Mixture((3.0, 2.0, 1.0), (400, 300, 200)), shuffle_rows=4096)

    def seconds(step: int) -> float:
        since = time.perf_counter()
        large.step_rows(step)
        return time.perf_counter() - since

    near = min(seconds(step) for step in range(1000, 4000, 1000))
    far = min(seconds(step) for step in range(100_000_000, 100_004_000, 1000))
    assert far < 5 * near + 0.01


def test_the_order_of_a_mixture_is_what_it_always_was() -> None:
    # Changing these arrays changes what every resumed run sees.
    assert order().step_rows(0).tolist() == GOLDEN_FIRST
    assert order().step_rows(13).tolist() == GOLDEN_LATER
    assert order().step_epochs(13).tolist() == GOLDEN_EPOCHS


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    def rename(split: str, i: int, row: dict) -> None:
        row["id"] = f"second-{i}"

    place = tmp_path_factory.mktemp("corpora")
    first = write_corpus(place / "first", {"train": 40, "val": 16})
    return [first, write_corpus(place / "second", {"train": 24}, rename)]


def mixed_data(corpora: list[str], **keys: object) -> Data:
    parts = tuple(Part(uri=uri, weight=weight) for uri, weight in zip(corpora, (3.0, 1.0), strict=True))
    return Data(**({"mixture": parts, "image_size": 16, "shuffle_rows": 24} | keys))


def test_a_mixture_streams_the_same_samples_to_any_number_of_workers(corpora: list[str]) -> None:
    train = Train(micro_batch=4, global_batch=12, steps=10, validate_every=5)
    plans = {
        world: plan_run(seed=3, data=mixed_data(corpora), train=train, objective=InfoNCE()).stream
        for world in (1, 2, 3)
    }
    streams = {w: BatchStream(plan.order, plan.source, plan.data, w) for w, plan in plans.items()}
    alone = {b.key: b for b in streams[1].plain(0, start=2, stop=9)}
    assert len(alone) == 21
    for world in (2, 3):
        dealt = [b for rank in range(world) for b in streams[world].plain(rank, start=2, stop=9) if b.weight]
        assert len(dealt) == 21
        for batch in dealt:
            assert batch.ids.tolist() == alone[batch.key].ids.tolist()
            assert np.array_equal(batch.images.numpy(), alone[batch.key].images.numpy())
    ids = np.concatenate([b.ids.numpy() for b in alone.values()])
    assert abs((ids < 40).mean() - 0.75) < 0.05


def test_views_of_a_row_differ_from_one_epoch_of_its_corpus_to_the_next(corpora: list[str]) -> None:
    stream = plan_run(
        seed=3,
        data=mixed_data(corpora),
        train=Train(micro_batch=12, global_batch=12, steps=30, workers=1),
        objective=None,
    ).stream
    boxes: dict[int, list] = {}
    for batch in stream.plain(0, start=0, stop=30):
        for row, box in zip(batch.ids.tolist(), batch.boxes.tolist(), strict=True):
            boxes.setdefault(row, []).append(box)
    assert set(boxes) == set(range(64))
    assert all(len(seen) >= 3 for seen in boxes.values())
    assert all(first != second for seen in boxes.values() for first, second in zip(seen, seen[1:], strict=False))


def test_a_plan_of_a_mixture_knows_each_corpus_s_rows_and_validates_on_the_first(corpora: list[str]) -> None:
    train = Train(micro_batch=4, global_batch=12, steps=10, validate_every=5)
    plan = plan_run(seed=3, data=mixed_data(corpora), train=train, objective=InfoNCE())
    assert plan.describe()["corpora"] == 2
    assert list(plan.contents) == [
        "train of data.mixture[0]",
        "val of data.mixture[0]",
        "train of data.mixture[1]",
    ]
    assert plan.stream.order.rows == 64
    assert plan.validation is not None
    assert plan.validation.order.rows == 16


def test_corpora_with_other_classes_share_one_list_of_them(corpora: list[str]) -> None:
    source = RowSource.open_all(corpora, ("train",))
    assert source.classes == ("across", "down")
    assert source.parts == (6, 4)
    ids = source.take(np.array([39, 40, 63, 0]), ("id",))["id"].to_pylist()
    assert ids == ["train-39", "second-0", "second-23", "train-0"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[{uri: a, weight: -1}]", r"data.mixture\[0\].weight = -1: weight must be >= 0 and finite, got -1"),
        ("[{uri: a, weight: 0}, {uri: b, weight: 0}]", "data.mixture=.*: mixture must have a weight > 0"),
        ("[]", "data.mixture=.*: mixture must have a weight > 0"),
        ("[{weight: 1}]", r"data.mixture\[0\].uri: missing"),
        ("[{uri: a, weight: heavy}]", r'data.mixture\[0\].weight = "heavy": must be a number'),
    ],
)
def test_weights_that_mean_nothing_are_refused_with_their_key(given: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        open_recipe("lvm_med/tiny_cpu", [f"data.mixture={given}"])


def test_a_corpus_beside_a_mixture_and_too_small_a_weight_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"data.mixture.*must not be given beside data.corpus"):
        open_recipe("lvm_med/tiny_cpu", ["data.mixture=[{uri: a}]", "data.corpus=b"])
    with pytest.raises(PlanError, match=r"data.mixture\[1\].weight=1e-05 is less than 1/10000 of all weights"):
        Mixture((1.0, 1e-5), (1, 1))


def test_a_corpus_of_weight_zero_is_left_out() -> None:
    parts = (Part(uri="a", weight=0.0), Part(uri="b", weight=2.0))
    assert [part.uri for part in Data(mixture=parts).parts] == ["b"]


GOLDEN_FIRST = [32, 40, 17, 30, 28, 13, 29, 39, 9, 10, 8, 42]
GOLDEN_LATER = [19, 4, 27, 16, 6, 0, 47, 44, 45, 17, 7, 43]
GOLDEN_EPOCHS = [4, 3, 2, 4, 3, 3, 2, 3, 3, 4, 3, 3]
