"""The recipe of the table: arms, shares of the data, seeds, budgets, and the comparison declared before any run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from medalign_core.objectives.logra_med.baselines.info_nce import ChatInfoNCE
from medalign_core.objectives.logra_med.baselines.siglip import ChatSigLIP
from medalign_core.objectives.logra_med.baselines.transport import ChatTransport
from medalign_core.objectives.logra_med.settings import Autoregressive, LoGraMed

SHARES = (0.1, 1.0)  # of the training pictures: stage-2 data; there is no stage 1
SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 100  # of no cell in the table
STEPS, BATCH = 120, 16
RATES = (1e-3, 2e-3, 4e-3)  # of the plain arm, then of all
STRENGTHS = (0.1, 0.3, 1.0)  # alpha of each aligned arm: as many trials as the plain arm's rates
TUNED_AT = 0.1
# the primary comparison: this arm minus that one, at this share, accuracy as a mean over question types
PRIMARY = ("LoGra-Med, barycenter", "autoregressive", 0.1)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        objective: settings; alpha is tuned where they have one.
        texts: the texts that stand apart for graphs.
        learns_extended: the extended conversations are training conversations of their own.
        steps: "equal", or "equal FLOPs": as many as cost what LoGra-Med's cost, by tokens that are read.
    """

    objective: Any
    texts: tuple[str, ...] = ()
    learns_extended: bool = False
    steps: Literal["equal", "equal FLOPs"] = "equal"

    @property
    def has_alpha(self) -> bool:
        """Whether there is an alignment."""
        return not isinstance(self.objective, Autoregressive)

    def at(self, alpha: float) -> Any:
        """Return the objective at a strength of its alignment."""
        return replace(self.objective, alpha=alpha) if self.has_alpha else self.objective


BOTH = ("answer", "extended")
# edges of its own, centred, full matchings: with shared edges and a barycenter the truth is given away from the start
LOGRA = LoGraMed(edges="own", centring=True, threshold=None)
ARMS = {
    "autoregressive": Arm(objective=Autoregressive()),
    "autoregressive, equal FLOPs": Arm(objective=Autoregressive(), steps="equal FLOPs"),
    "autoregressive + extended as data": Arm(objective=Autoregressive(), learns_extended=True),
    "+ InfoNCE": Arm(objective=ChatInfoNCE(), texts=BOTH),
    "+ SigLIP": Arm(objective=ChatSigLIP(), texts=BOTH),
    "+ transport": Arm(objective=ChatTransport(), texts=BOTH),
    "LoGra-Med, barycenter": Arm(objective=LOGRA, texts=BOTH),
    "LoGra-Med, pairwise": Arm(objective=replace(LOGRA, target="pairwise"), texts=BOTH),
    "LoGra-Med, no extended": Arm(objective=replace(LOGRA, graphs=("image", "answer")), texts=("answer",)),
    "LoGra-Med, no edges": Arm(objective=replace(LOGRA, second_order=False), texts=BOTH),
    "LoGra-Med, no messages": Arm(objective=replace(LOGRA, message_passing="none"), texts=BOTH),
}
