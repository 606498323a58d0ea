"""forecast(recipe): what a run will need, before anything runs: parameters, memory, work, cost, cautions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from medalign.errors import PlanError
from medalign.plan.cautions import cautions, solver_bytes
from medalign.plan.cost import Checkpoints, Cost, checkpoints_of, cost_of, rule_of_thumb
from medalign.plan.fitting import Fits, fit
from medalign.plan.gpus import Gpu
from medalign.plan.memory import Memory, MemoryModel
from medalign.plan.meta_model import meta_module, parameter_counts
from medalign.plan.micro_batches import Lengths, measure_lengths
from medalign.plan.rehearsal import Rehearsed
from medalign.plan.rehearsals import Rehearsals, accepts, as_trained
from medalign.plan.run_plan import RunPlan, name_objective, plan_run
from medalign.plan.work import Work, work_of_corpus, work_of_rows
from medalign.recipe import Recipe
from medalign_core.models.multimodal.settings import Llava

if TYPE_CHECKING:
    from torch import nn

FILE_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a forecast takes as given.

    Attributes:
        gpu: the kind; None forecasts for CPUs.
        utilisation: share of its peak that training reaches, in (0, 1].
        price: dollars per GPU and hour, None where nobody asks.
        upload_rate: bytes a second at which one worker uploads.
        rows: of a corpus that is not at hand; None where the recipe's is.
        row_bytes: of its stored rows.
        tokens: of its texts, see micro_batches.Lengths; in place of measured ones where given.
    """

    gpu: Gpu | None = None
    utilisation: float = 0.3
    price: float | None = None
    upload_rate: float = 100e6
    rows: int | None = None
    row_bytes: int = 20_000
    tokens: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise PlanError(f"--mfu must be in (0, 1], got {self.utilisation}.")
        if self.price is not None and not self.price >= 0:
            raise PlanError(f"--price must be >= 0 dollars per GPU and hour, got {self.price}.")
        if not self.upload_rate > 0:
            raise PlanError(f"--upload-rate must be > 0 bytes a second, got {self.upload_rate}.")
        if self.rows is not None and self.rows < 1:
            raise PlanError(f"--rows must be >= 1, got {self.rows}.")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of weights, exact: those that train, those that do not, and of the former those of the graph network."""

    trained: int
    frozen: int
    graph_network: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will need; `notes` say what was assumed, `cautions` what should be changed or known."""

    parameters: Parameters
    memory: Memory
    fits: Fits | None
    work: Work
    lengths: Lengths | None
    checkpoints: Checkpoints
    cost: Cost
    cautions: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast as plain values."""
        return asdict(self)


def forecast(recipe: Recipe, assumptions: Assumptions | None = None) -> Forecast:
    """Return what a run of a recipe will need. Opens no weight, starts nothing, writes nothing.

    Raises:
        CorpusError: no corpus, where `assumptions.rows` does not stand for it.
        PlanError: the corpus is too small for a step, or a model of words without token lengths.
        UserError: an architecture that is neither here nor known.
    """
    given, notes = assumptions or Assumptions(), list[str]()
    recipe, plan = _resolved(recipe, given)
    lengths = Lengths.assumed(given.tokens) if given.tokens else measure_lengths(plan) if plan else None
    module = meta_module(recipe, notes)
    counts = _parameters(module)
    checkpoints = _checkpoints(recipe, given, module)
    on_gpu = given.gpu is not None or bool(recipe.train.gpus_per_worker)
    rehearsals = Rehearsals(
        recipe=recipe, module=as_trained(module, recipe), lengths=lengths, plan=plan, reorders=not on_gpu
    )
    passes, told = rehearsals.passes()
    model = MemoryModel(
        trained=counts.trained,
        frozen=counts.frozen,
        precision=recipe.train.precision,
        optimizer=type(recipe.optimizer).__name__,
        on_gpu=on_gpu,
        passes=passes,
        batch_bytes=rehearsals.batch_bytes,
    )
    work = (
        work_of_corpus(recipe, plan, lengths)
        if plan
        else work_of_rows(recipe, given.rows or 0, row_bytes=given.row_bytes, lengths=lengths)
    )
    cost = _cost(rehearsals, given, work, passes)
    return Forecast(
        parameters=counts,
        memory=_memory(rehearsals, model, passes, counts),
        fits=_fits(recipe, given, model),
        work=work,
        lengths=lengths,
        checkpoints=checkpoints,
        cost=cost,
        cautions=(*cautions(recipe, work, cost, checkpoints), *([told] if told else [])),
        notes=tuple(dict.fromkeys(notes)),
    )


def _resolved(recipe: Recipe, given: Assumptions) -> tuple[Recipe, RunPlan | None]:
    if given.rows is not None:
        return recipe, None
    recipe = replace(recipe, objective=name_objective(recipe.objective, recipe.data))
    return recipe, plan_run(
        seed=recipe.run.seed,
        data=recipe.data,
        train=recipe.train,
        objective=recipe.objective,
        model=recipe.model,
    )


def _parameters(module: nn.Module) -> Parameters:
    trained, frozen = parameter_counts(module)
    graph = getattr(module, "alignment", None) or getattr(module, "convolutions", None)
    return Parameters(
        trained=trained, frozen=frozen, graph_network=sum(p.numel() for p in graph.parameters()) if graph else 0
    )


def _checkpoints(recipe: Recipe, given: Assumptions, module: nn.Module) -> Checkpoints:
    return checkpoints_of(
        {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad},
        {name: tuple(b.shape) for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var"))},
        optimizer=type(recipe.optimizer).__name__,
        workers=recipe.train.workers,
        keep=recipe.train.keep_last,
        every=recipe.train.checkpoint_every,
        upload_rate=given.upload_rate,
    )


def _memory(
    rehearsals: Rehearsals, model: MemoryModel, passes: list[tuple[int, Rehearsed]], counts: Parameters
) -> Memory:
    train = rehearsals.recipe.train
    size, stage, workers = train.micro_batch, train.zero_stage, max(train.workers, 1)
    static = model.static(stage=stage, workers=workers)
    share = counts.graph_network / max(counts.trained, 1)
    return Memory(
        weights=static.weights,
        gradients=static.gradients,
        master=static.master,
        optimizer=static.optimizer,
        buffers=static.buffers,
        saved=passes[-1][1].saved if passes else None,
        saved_otherwise=rehearsals.saved_otherwise() if passes else None,
        working=model.working(size),
        logits=rehearsals.logits(),
        graph_network=round(share * (static.gradients + static.master + static.optimizer)) or None,
        batch=model.batch(size),
        runtime=model.runtime,
        solver=solver_bytes(rehearsals.recipe),
        peak=model.peak(size=size, stage=stage, workers=workers),
    )


def _fits(recipe: Recipe, given: Assumptions, model: MemoryModel) -> Fits | None:
    if given.gpu is None:
        return None
    return fit(
        model,
        given.gpu,
        micro_batch=recipe.train.micro_batch,
        stage=recipe.train.zero_stage,
        global_batch=recipe.train.global_batch,
        workers=max(recipe.train.workers, 1),
        accepts=lambda size: accepts(recipe, size),
    )


def _cost(rehearsals: Rehearsals, given: Assumptions, work: Work, passes: list[tuple[int, Rehearsed]]) -> Cost:
    recipe, each = rehearsals.recipe, rehearsals.mean_flops(passes)
    rule = None
    if isinstance(recipe.model, Llava) and work.tokens is not None:
        trains = recipe.model.stage != 1 and recipe.model.lora is None
        rule = rule_of_thumb(
            rehearsals.language_weights(),
            work.tokens,
            trains=trains,
            checkpoints=recipe.model.activation_checkpointing,
        )
    speed = None
    if given.gpu is not None:
        speed = given.gpu.peak if recipe.train.precision == "bf16" else given.gpu.peak_fp32
    return cost_of(
        flops=None if each is None else each * work.samples,
        rule=rule,
        samples=work.samples,
        speed=speed,
        gpus=max(recipe.train.workers, 1),
        utilisation=given.utilisation,
        price=given.price,
    )
