"""The forecast: parameters, memory, steps and cost, against hand-computed cases and the published budget."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from striped_corpus import write_corpus
from torch import nn

from medalign.cli import main
from medalign.errors import PlanError, UserError
from medalign.plan.cost import checkpoints_of, cost_of, rule_of_thumb
from medalign.plan.fitting import fit
from medalign.plan.forecast import Assumptions, Forecast, forecast
from medalign.plan.gpus import GPUS, Gpu, find_gpu
from medalign.plan.memory import MemoryModel
from medalign.plan.published import CORPORA, find_corpus
from medalign.plan.rehearsal import Rehearsed, rehearse
from medalign.plan.static_memory import static_memory
from medalign.recipe import open_recipe

A100 = GPUS["a100-80gb"]


def published(name: str, like: str, *overrides: str, **keys: Any) -> Forecast:
    corpus = find_corpus(like)
    recipe, _ = open_recipe(name, ["data.corpus=not-at-hand", *overrides])
    given = {"gpu": A100, "rows": corpus.rows, "row_bytes": corpus.row_bytes, "tokens": corpus.tokens, **keys}
    return forecast(recipe, Assumptions(**given))


@pytest.fixture(scope="module")
def stage1() -> Forecast:
    return published("logra_med/stage1_llama7b", "llava_med_alignment")


@pytest.fixture(scope="module")
def stage2() -> Forecast:
    return published("logra_med/stage2_llama7b", "llava_med_instruct", price=2.0)


class Layer(nn.Module):
    """Two linear maps with a ReLU: every number of a pass can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 128, bias=False), nn.Linear(128, 32, bias=False)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict]:
        return self.second(self.first(batch).relu()).sum(), {}


def test_a_rehearsal_counts_operations_and_saved_bytes_of_a_known_pass() -> None:
    with torch.device("meta"):
        module = Layer()
    found = rehearse(module, torch.empty(100, 64, device="meta"))
    forward = 2 * 100 * (64 * 128 + 128 * 32)
    assert found.forward_flops == forward
    # the backward pass has a product for each weight, and one for the hidden layer: the input wants no gradient
    assert found.flops == forward + 2 * 100 * (64 * 128 + 2 * 128 * 32)
    assert found.saved == 4 * (100 * 128) + 4  # the ReLU's output, for itself and for the second map; and the loss
    assert found.peak >= found.saved


def test_a_rehearsal_leaves_no_gradient_and_puts_everything_back() -> None:
    autocast = torch.autocast
    with torch.device("meta"):
        module = Layer()
    rehearse(module, torch.empty(8, 64, device="meta"))
    assert torch.autocast is autocast
    assert all(p.grad is None for p in module.parameters())


def test_the_published_budget_has_these_parameters_exactly(stage1: Forecast, stage2: Forecast) -> None:
    # LLaMA-7B: embeddings and head 2 x 32004 x 4096, 32 layers of 4 x 4096^2 + 3 x 4096 x 11008 + 2 x 4096, a norm
    language = 2 * 32004 * 4096 + 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
    projector = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    graph = 4 * 4096**2 + 2 * 4096
    assert stage2.parameters.graph_network == graph
    assert stage2.parameters.trained == language + projector + graph
    assert stage1.parameters.trained == projector + 2 * 4096  # and the embeddings of two markers
    assert stage2.parameters.frozen == pytest.approx(303e6, rel=0.01)  # CLIP ViT-L/14
    assert stage2.parameters.trained == pytest.approx(6.83e9, rel=0.001)


@pytest.mark.parametrize(("workers", "published_gb"), [(2, 54.6), (4, 27.3), (8, 13.7)])
def test_fully_sharded_fp32_state_is_the_published_budget_s(
    stage2: Forecast, workers: int, published_gb: float
) -> None:
    held = static_memory(
        trained=stage2.parameters.trained,
        frozen=0,
        stage=3,
        precision="bf16",
        optimizer="AdamW",
        workers=workers,
        on_gpu=True,
    )
    assert (held.master + held.gradients + held.optimizer) / 1e9 == pytest.approx(published_gb, rel=0.005)


def test_the_published_budget_of_operations_and_hours(stage1: Forecast, stage2: Forecast) -> None:
    hours = {"stage 1": stage1.cost.rule_hours, "stage 2": stage2.cost.rule_hours}
    assert stage1.cost.rule == pytest.approx(8.3e18, rel=0.02)
    assert stage2.cost.rule == pytest.approx(9.4e18, rel=0.02)
    for name, (fast, middle, slow) in {"stage 1": (4.6, 6.2, 9.3), "stage 2": (5.2, 7.0, 10.4)}.items():
        found = hours[name]
        assert found is not None
        assert (found.low, found.estimate, found.high) == pytest.approx((fast, middle, slow), rel=0.03)


def test_what_is_counted_is_near_the_rule(stage1: Forecast, stage2: Forecast) -> None:
    for found in (stage1, stage2):
        assert found.cost.flops == pytest.approx(found.cost.rule, rel=0.15)
    assert stage2.cost.dollars is not None
    assert stage2.cost.hours is not None
    assert stage2.cost.dollars.estimate == pytest.approx(stage2.cost.hours.estimate * 4 * 2.0)


@pytest.mark.parametrize(("like", "budget"), [("vqa_rad", 0.38e18), ("slake", 1.4e18), ("path_vqa", 5.6e18)])
def test_the_published_budget_of_fine_tuning(like: str, budget: float) -> None:
    corpus, weights = CORPORA[like], 6.76e9
    tokens = 15 * corpus.rows * corpus.tokens["conversation"]
    assert rule_of_thumb(int(weights), tokens, trains=True, checkpoints=True) == pytest.approx(budget, rel=0.03)


def test_activations_of_the_published_budget(stage2: Forecast) -> None:
    # layer inputs: 32 layers x 16 rows x (540 + 185 + 300) tokens x 4096 numbers x 2 bytes = 4.30 GB
    assert stage2.memory.saved == pytest.approx(32 * 16 * 1025 * 4096 * 2, rel=0.15)
    assert stage2.memory.saved_otherwise is not None
    assert stage2.memory.saved_otherwise > 10 * stage2.memory.saved
    # the budget expects 42 to 50 GB typically on 4 GPUs of 80 GB
    assert stage2.memory.peak is not None
    assert 40e9 < stage2.memory.peak < 55e9
    assert stage2.fits is not None
    assert stage2.fits.own
    assert not stage2.fits.stages[0].fits


def test_steps_are_whole_steps_of_whole_epochs(stage1: Forecast, stage2: Forecast) -> None:
    assert (stage1.work.steps, stage1.work.samples) == (467_400 // 128, 467_400 // 128 * 128)
    assert (stage2.work.steps_per_epoch, stage2.work.steps) == (56_700 // 64, 3 * (56_700 // 64))
    assert stage2.work.tokens == stage2.work.samples * (540 + 185 + 300)


def test_checkpoints_hold_fp32_weights_and_both_moments(stage2: Forecast) -> None:
    assert stage2.checkpoints.bytes == pytest.approx(12 * stage2.parameters.trained, rel=1e-4)
    small = checkpoints_of(
        {"a": (10,), "b": (10,)}, {}, optimizer="SGD", workers=2, keep=2, every=5, upload_rate=1000.0
    )
    assert small.bytes > 2 * 4 * 20
    assert small.kept == 3


def test_a_small_graph_is_cautioned() -> None:
    found = published("logra_med/stage2_llama7b", "llava_med_instruct", "train.micro_batch=4")
    assert any(said.startswith("graphs have 4 nodes") and "every node is joined" in said for said in found.cautions)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_more_workers_never_hold_more(stage: int) -> None:
    keys = {"trained": 10**9, "frozen": 10**8, "stage": stage, "precision": "bf16", "optimizer": "AdamW"}
    one, four = (static_memory(**keys, workers=w, on_gpu=True) for w in (1, 4))  # type: ignore[arg-type]
    assert four.resting <= one.resting
    assert (four.resting < one.resting) == (stage > 0)


def test_what_fits_is_found_for_every_stage() -> None:
    gpu = Gpu(name="toy", memory=int(10e9 / 0.95), peak=1e12, peak_fp32=1e12, source="none")
    line = [(2, Rehearsed(saved=0, peak=int(1e9), flops=0, forward_flops=0))]
    line += [(4, Rehearsed(saved=0, peak=int(2e9), flops=0, forward_flops=0))]
    model = MemoryModel(
        trained=10**6, frozen=0, precision="fp32", optimizer="SGD", on_gpu=False, passes=line, batch_bytes=lambda n: 0
    )
    assert model.working(8) == int(4e9)
    found = fit(model, gpu, micro_batch=4, stage=0, global_batch=64, workers=2, accepts=lambda n: n > 1)
    assert found is not None
    assert found.own
    assert found.smallest_stage == 0
    assert all(each.largest == 16 for each in found.stages[:2])  # 32 would need 16 GB


def test_hours_and_their_range() -> None:
    found = cost_of(flops=3.6e15, rule=None, samples=7200, speed=1e12, gpus=2, utilisation=0.5, price=3.0)
    assert found.hours is not None
    assert found.dollars is not None
    assert found.hours.estimate == pytest.approx(1.0)
    assert (found.hours.low, found.hours.high) == pytest.approx((0.75, 1.5))
    assert found.dollars.estimate == pytest.approx(6.0)
    assert found.samples_per_second == pytest.approx(2.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"train": 100, "val": 21})


SMALL = ["data.image_size=32", "train.micro_batch=16", "train.global_batch=32", "train.steps=7", "train.workers=0"]


@pytest.mark.parametrize(
    "objective", ["lvm_med", "info_nce", "simclr", "moco", "byol", "barlow_twins", "vicreg", "swav"]
)
def test_a_corpus_at_hand_is_counted_and_every_objective_is_rehearsed(corpus: str, objective: str) -> None:
    drop = ["objective={type: " + objective + "}", f"data.corpus={corpus}"]
    recipe, _ = open_recipe("lvm_med/tiny_cpu", [*SMALL, *drop, "run.uri=nowhere"])
    found = forecast(recipe)
    assert (found.work.rows, found.work.steps, found.work.samples) == (100, 7, 224)
    assert found.memory.peak is not None, found.cautions
    from medalign.launch.worker import build_module

    built = build_module(recipe)
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert found.parameters.trained == trained
    assert found.parameters.frozen == sum(p.numel() for p in built.parameters()) - trained


def test_what_cannot_be_planned_is_refused(corpus: str) -> None:
    with pytest.raises(UserError, match=r"--gpu tpu: unknown; there is: a100-40gb"):
        find_gpu("tpu")
    with pytest.raises(UserError, match="--like nothing: unknown"):
        find_corpus("nothing")
    with pytest.raises(PlanError, match=r"--mfu must be in \(0, 1\], got 1.5"):
        Assumptions(utilisation=1.5)
    recipe, _ = open_recipe("logra_med/tiny", ["data.corpus=not-at-hand"])
    with pytest.raises(PlanError, match="needs token lengths"):
        forecast(recipe, Assumptions(rows=100))


def test_the_program_prints_json(corpus: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["plan", "lvm_med/tiny_cpu", *SMALL, f"data.corpus={corpus}", f"run.uri={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["work"]["steps"] == 7
    with pytest.raises(SystemExit):
        main([*words, "--gpu", "a100-40gb"])
    assert "smallest that does" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
