"""The engine: one module under DeepSpeed, ZeRO 0 to 3, fp32 or bf16. The only door to deepspeed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medalign.checkpoint.source import WEIGHT
from medalign.errors import CheckpointError
from medalign.training.contract import StepOutcome
from medalign.training.guarded_steps import GuardedSteps
from medalign.training.step_memory import StepMemory

PIECE = 1 << 18  # numbers of a rank's part that are gathered at once


class Engine:
    """A module that trains: forward, backward, step, and its full tensors one at a time.

    Args:
        module: the objective's module; called as `module(batch) -> (loss, stats)`.
        optimizer: an unbuilt torch optimizer: (class, parameter groups, options).
        zero_stage: 0 to 3.
        precision: "fp32", or "bf16" with fp32 master weights.
        micro_batch: samples per forward.
        accumulation: forwards of this rank per step.
        clip: largest global gradient norm, 0 for no clipping.

    The process group must exist and RANK, LOCAL_RANK, WORLD_SIZE must be set (session.py sees to both).
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        zero_stage: int,
        precision: Literal["fp32", "bf16"],
        micro_batch: int,
        accumulation: int,
        clip: float,
    ) -> None:
        deepspeed = _deepspeed()
        self._guard = GuardedSteps(optimizer, clip) if zero_stage == 0 else None
        self._basic, self._is_linked = optimizer, False
        self._stage = zero_stage
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": 0.0 if self._guard else clip,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "wall_clock_breakdown": False,
            "steps_per_print": None,
        }
        if precision == "bf16" and zero_stage == 0:  # DeepSpeed keeps fp32 master weights from stage 1 on: autocast
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        elif precision == "bf16":
            config["bf16"] = {"enabled": True, "check_grad_overflow": True}
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        # Deterministic bucket order across ranks; DeepSpeed owns the graph from here on.
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        self.module = self._engine.module
        self.device = self._engine.device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.running = StepMemory(self.module, self._whole)
        self._parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (loss, stats) of one micro-batch."""
        return self._engine(batch)

    def backward(self, loss: Tensor) -> None:
        """Add one micro-batch's gradient. A non-finite loss makes the whole step's gradient non-finite, on purpose."""
        poison = torch.where(torch.isfinite(loss.detach()), 1.0, float("nan")).to(loss.dtype)
        self._engine.backward(loss * poison)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> StepOutcome:
        """Take the optimizer step at the end of an accumulation; a non-finite gradient never reaches the optimizer."""
        for group in self._basic.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        if self._guard:
            return StepOutcome(applied=self._guard.applied, gradient_norm=self._guard.norm)
        norm = self._engine.get_global_grad_norm()
        return StepOutcome(
            applied=self._engine.was_step_applied(), gradient_norm=math.nan if norm is None else float(norm)
        )

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier()

    def any_rank(self, value: bool) -> bool:
        """Tell whether `value` is true on any rank. Collective."""
        if self.world == 1:
            return value
        flag = torch.tensor([float(value)], device=self.device)
        dist.all_reduce(flag)
        return bool(flag.item())

    # --- the full state, one tensor at a time: independent of the number of ranks and of the ZeRO stage ---

    def names(self) -> list[str]:
        """Return the trained parameters' names in the module's order, equal on every rank."""
        return list(self._parameters)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return each trained parameter's full shape."""
        return {name: _full_shape(parameter) for name, parameter in self._parameters.items()}

    def optimizer_keys(self) -> list[str]:
        """Return the optimizer's per-parameter tensors, e.g. exp_avg; empty before the first step."""
        return sorted(key for key, value in self._first_state().items() if torch.is_tensor(value) and key != "step")

    def optimizer_step(self) -> int:
        """Return the number of applied optimizer steps (Adam's bias correction counts them)."""
        return int(self._first_state().get("step", 0))

    def planned_keys(self) -> list[str]:
        """Return the optimizer's per-parameter tensors after its first step, as far as its kind tells."""
        if isinstance(self._basic, torch.optim.Adam):  # AdamW is one
            return ["exp_avg", "exp_avg_sq"]
        return ["momentum_buffer"] if self._basic.defaults.get("momentum") else []

    def gather(self, name: str, key: str = WEIGHT, *, owner: int | None = None) -> Tensor | None:
        """Return one full fp32 tensor: a weight, or an optimizer's tensor. Collective: every rank calls it in order.

        Where an owner is named, other ranks may get None, and then hold no more of the tensor than their own part.
        """
        parameter = self._parameters[name]
        if key != WEIGHT and not self._is_linked:
            self._link()
        if self._stage == 3:
            return self._assemble(parameter, None if key == WEIGHT else key, owner)
        value = self._get(parameter, None if key == WEIGHT else key)
        return value.detach().reshape(_full_shape(parameter))

    def scatter(self, name: str, key: str, value: Tensor) -> None:
        """Set one full tensor of a parameter, before step 1. Collective."""
        parameter = self._parameters[name]
        if key == WEIGHT:
            self._set_weight(parameter, value.to(self.device))
        else:
            self._set_optimizer(parameter, key, value.to(self.device))

    def share(self, value: Tensor | None, shape: tuple[int, ...], *, owner: int) -> Tensor:
        """Return the owner's fp32 tensor on every rank. Collective."""
        if value is None:
            value = torch.empty(shape)
        value = value.to(self.device, torch.float32)
        if self.world > 1:
            dist.broadcast(value, src=owner)
        return value

    def prepare_optimizer(self, keys: list[str], step: int) -> None:
        """Create empty optimizer tensors, so that `scatter` can fill them, and set the step counter."""
        flat = getattr(self._engine.optimizer, "fp32_partitioned_groups_flat", None)  # stage 3 empties param_groups
        for parameter in flat or [p for group in self._basic.param_groups for p in group["params"]]:
            state = self._basic.state[parameter]
            state["step"] = torch.tensor(float(step))
            for key in keys:
                state[key] = torch.zeros_like(parameter)
        self._link()

    def _link(self) -> None:
        """Link every group's optimizer tensors: DeepSpeed does it after the first group's first step, too early."""
        if hasattr(self._engine.optimizer, "_hp_optimizer_states_linked"):
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        self._is_linked = True

    def _first_state(self) -> Mapping[str, Any]:
        """Return the optimizer's state of the first parameter that has one: one without a gradient never gets it."""
        return next((state for state in self._basic.state.values() if state), {})

    def _get(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        if self._guard:
            own = self._basic.state.get(parameter, {})
            return parameter if key is None else own.get(key, torch.zeros_like(parameter))
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        value = safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)
        if value is None:
            raise CheckpointError(
                f"DeepSpeed gives no {key or 'weight'} for a parameter of shape {tuple(parameter.shape)}."
            )
        return value

    def _assemble(self, parameter: nn.Parameter, key: str | None, owner: int | None) -> Tensor | None:
        """Return a full tensor of stage 3 on its owner, piece by piece: DeepSpeed holds it twice, on every rank."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        own = safe_get_local_optimizer_state(parameter, key) if key else safe_get_local_fp32_param(parameter)
        own, size = own.detach().to(self.device), own.numel()
        whole = own.new_empty(self.world, size) if owner in (None, self.rank) else None
        collect = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # torch renames it
        for at in range(0, size, PIECE):
            part = own[at : at + PIECE]
            pieces = part.new_empty(self.world * part.numel())
            collect(pieces, part)
            if whole is not None:
                whole[:, at : at + PIECE] = pieces.view(self.world, -1)
        if whole is None:
            return None
        shape = _full_shape(parameter)
        return whole.flatten()[: math.prod(shape)].view(shape)  # the last rank's part is padded

    def _set_weight(self, parameter: nn.Parameter, value: Tensor) -> None:
        from deepspeed import zero
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        is_whole = True  # on this rank, as small parameters are even at stage 3
        if self._stage == 3:
            own = self._own_part(parameter, value)
            safe_set_local_fp32_param(parameter, own)
            parameter.ds_tensor.data.copy_(own)  # type: ignore[attr-defined]
            is_whole = parameter.ds_status.name != "NOT_AVAILABLE"  # type: ignore[attr-defined]
        elif self._stage > 0:
            safe_set_full_fp32_param(parameter, value.float())
        if is_whole:
            with torch.no_grad(), zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
                parameter.data.copy_(value)

    def _set_optimizer(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._stage == 0:
            self._basic.state[parameter][key].copy_(value)
        elif self._stage == 3:
            safe_set_local_optimizer_state(parameter, self._own_part(parameter, value), key)
        else:
            safe_set_full_optimizer_state(parameter, value.float(), key)

    def _own_part(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """Return this rank's part of a full tensor, padded: DeepSpeed's full setter fails where it does not divide."""
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        own = value.reshape(-1)[self.rank * size : (self.rank + 1) * size].float()
        return own if own.numel() == size else torch.nn.functional.pad(own, (0, size - own.numel()))

    def buffers(self) -> dict[str, Tensor]:
        """Return the running statistics and what the module carries, the one copy that all ranks share."""
        return self.running.state()

    def load_buffers(self, tensors: dict[str, Tensor]) -> None:
        """Set them. Collective."""
        self.running.load(tensors)

    def _whole(self) -> AbstractContextManager:
        """Hold every weight whole; what rank 0 writes meanwhile is every rank's afterwards."""
        if self._stage < 3:
            return nullcontext()
        from deepspeed import zero

        return zero.GatheredParameters(list(self.module.parameters()), modifier_rank=0)

    def full_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each parameter's full mean gradient between `backward` and `step` (tests and diagnosis). Collective."""
        from deepspeed.utils import safe_get_full_grad

        for name, parameter in self._parameters.items():
            gradient = parameter.grad if self._guard else safe_get_full_grad(parameter)
            if gradient is not None:
                yield name, gradient.detach().float().reshape(_full_shape(parameter))


def _full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))  # stage 3 leaves an empty shape behind


def end_process_group() -> None:
    """End the process group, also in DeepSpeed's memory: a later engine of this process would use the dead one."""
    comm = _deepspeed().comm
    if comm.is_initialized():
        comm.destroy_process_group()
    else:  # no engine was built
        dist.destroy_process_group()


def _deepspeed() -> Any:
    """Import deepspeed without its CPU collective, which it would otherwise compile for a minute at first use."""
    import deepspeed

    compatible = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(compatible, dict):
        compatible["deepspeed_shm_comm"] = False
    return deepspeed
