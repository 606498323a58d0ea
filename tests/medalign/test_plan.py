"""The plan: what a recipe means for a corpus, and what cannot work, said before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from striped_corpus import write_corpus

from medalign.data.settings import Data
from medalign.errors import CorpusError, PlanError
from medalign.plan import RunPlan, plan_run
from medalign.training.settings import Train
from medalign_core.objectives.info_nce.settings import InfoNCE
from medalign_core.objectives.lvm_med.settings import LVMMed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"train": 100, "val": 21, "test": 3})


def plan(corpus: str, *, objective: Any = None, seed: int = 1, data: dict | None = None, **train: Any) -> RunPlan:
    settings = {"micro_batch": 16, "global_batch": 32, "steps": 10} | train
    read = Data(corpus=corpus, image_size=32, **(data or {}))
    return plan_run(seed=seed, data=read, train=Train(**settings), objective=objective or LVMMed(graph_size=8))


def test_a_plan_counts_what_a_step_and_an_epoch_hold(corpus: str) -> None:
    found = plan(corpus, steps=None, epochs=4, data={"shuffle_rows": 70})
    assert found.total_steps == 12
    assert found.graphs_per_step == 4
    assert (found.validation, found.validation_batches) == (None, 0)
    assert found.describe() == {
        "rows": 100,
        "workers": 2,
        "micro batch": 16,
        "global batch": 32,
        "micro-batches per step": 2,
        "forwards per worker and step": 1,
        "steps per epoch": 3,
        "total steps": 12,
        "epochs": 4.0,
        "rows shuffled together": 64,
        "graphs per step": 4,
    }
    assert plan(corpus, objective=InfoNCE()).graphs_per_step is None


def test_in_process_training_is_dealt_to_one(corpus: str) -> None:
    assert plan(corpus, workers=0).stream.world == 1


def test_training_reads_its_own_split_unless_it_is_told_to_read_more(corpus: str) -> None:
    assert plan(corpus).stream.order.rows == 100
    assert plan(corpus, data={"allow_splits": ("val", "train")}).stream.order.rows == 121


def test_validation_takes_the_training_s_micro_batch_where_the_split_allows(corpus: str) -> None:
    found = plan(corpus, validate_every=5)
    assert found.validation is not None
    assert found.validation.order.micro_batch == found.validation.order.global_batch == 16
    assert found.validation_batches == 1  # 21 rows hold one of 16
    assert found.validation.order.seed != found.stream.order.seed
    small = plan(corpus, objective=LVMMed(graph_size=4, neighbours=3), workers=1, micro_batch=32, validate_every=5)
    assert small.validation is not None
    assert (small.validation.order.micro_batch, small.validation_batches) == (20, 1)  # five whole graphs
    many = plan(corpus, validate_every=5, micro_batch=8, objective=LVMMed(graph_size=8), validation_batches=2)
    assert many.validation_batches == 2


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"validate_every": 1, "validation_split": "test"}, PlanError, "split 'test' has 3 rows, too few for one"),
        (
            {"validate_every": 1, "validation_split": "dev"},
            CorpusError,
            "no images of split 'dev'; it has: test, train",
        ),
        ({"data": {"allow_splits": ("dev",)}}, CorpusError, "no images of split 'dev'"),
        ({"global_batch": 112}, PlanError, "100 rows, fewer than one step of train.global_batch=112; lower it"),
    ],
)
def test_what_the_corpus_cannot_give_is_refused(corpus: str, keys: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        plan(corpus, **keys)


def test_a_corpus_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus here"):
        plan(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"global_batch": 40}, "global_batch must be a multiple of micro_batch = 16, got 40"),
        ({"steps": None}, "steps and epochs: set exactly one"),
        ({"epochs": 3}, "steps and epochs: set exactly one"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"min_workers": 3}, r"min_workers must be in \[0, workers\] = \[0, 2\], got 3"),
        ({"workers": 3}, "workers must not exceed global_batch / micro_batch = 2, got 3; 1 to 2 can keep the order"),
        ({"workers": -1}, "workers must be >= 0"),
        ({"keep_last": 0}, "keep_last must be >= 1"),
        ({"cpus_per_worker": 0.0}, "cpus_per_worker must be > 0"),
        ({"clip": float("nan")}, "clip must be >= 0"),
    ],
)
def test_train_settings_that_cannot_work_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Train(**({"micro_batch": 16, "global_batch": 32, "steps": 10} | keys))
