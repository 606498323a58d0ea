"""Events that a reader must know of before the numbers: their names, and what each says."""

from __future__ import annotations

INERT = "inert_matching_accuracy"
NOTHING_ALIGNED = "nothing_aligned"
SENTENCES = {
    INERT: (
        "the alignment is inert: matching accuracy {:.3f} at the first step, so there is next to nothing left to learn"
        " from it; try objective.edges=own, objective.centring=true, objective.target=leave_one_out or more noise."
    ),
    NOTHING_ALIGNED: (
        "nothing is aligned: no sample of the first step has a node in every set; the corpus lacks texts that"
        " objective.graphs names."
    ),
}


def sentence(name: str, value: float) -> str | None:
    """Return what an event says, None for one that needs no words."""
    return SENTENCES[name].format(value) if name in SENTENCES else None
