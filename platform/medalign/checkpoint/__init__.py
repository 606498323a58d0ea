"""Checkpoints: complete or absent, independent of the number of workers and of the ZeRO stage, no pickle anywhere."""

from medalign.checkpoint.run_checkpoints import (
    Saved,
    TrainState,
    best,
    latest,
    load,
    mark_best,
    prune,
    save,
    uri_of,
    verify,
)
from medalign.checkpoint.trained_encoder import open_encoder

__all__ = [
    "Saved",
    "TrainState",
    "best",
    "latest",
    "load",
    "mark_best",
    "open_encoder",
    "prune",
    "save",
    "uri_of",
    "verify",
]
