"""The actor of a trial: Tune's way to ask an Exchange for its reports. The next trial uses it again."""

from __future__ import annotations

import json
from typing import Any

import ray.tune

from medalign.tune.exchange import Exchange, Work

END_S = 120.0  # that a stopped trial has to save and end


class SweepTrial(ray.tune.Trainable):
    """Runs trials one after the other."""

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        """Begin the first trial."""
        self._work = work
        self._exchange: Exchange | None = None

    def step(self) -> dict[str, Any]:
        """Return the trial's next report."""
        if self._exchange is None:
            assert self._work is not None
            self._exchange = Exchange(self._work, self.config["trial"], json.loads(self.config["point"]))
        return self._exchange.next()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial on."""
        self._end()
        return True

    def cleanup(self) -> None:
        """End the trial at work; a training saves its checkpoint."""
        self._end()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Save nothing: a trial's state is the checkpoints of its run."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Load nothing."""

    def _end(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.stop(END_S):
            raise RuntimeError(f"a stopped trial was still at work after {END_S:.0f} s.")
