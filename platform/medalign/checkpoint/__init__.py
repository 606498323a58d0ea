"""Checkpoints: complete or absent, independent of the number of workers and of the ZeRO stage, no pickle anywhere."""

from medalign.checkpoint.catalogue import best, complete, incomplete, latest, prune, uri_of
from medalign.checkpoint.inspection import Difference, diff, verify
from medalign.checkpoint.loading import load, weights
from medalign.checkpoint.manifest import Saved, TrainState
from medalign.checkpoint.saving import UPLOAD_DEADLINE_S, Saver, save
from medalign.checkpoint.trained_encoder import open_encoder

__all__ = [
    "UPLOAD_DEADLINE_S",
    "Difference",
    "Saved",
    "Saver",
    "TrainState",
    "best",
    "complete",
    "diff",
    "incomplete",
    "latest",
    "load",
    "open_encoder",
    "prune",
    "save",
    "uri_of",
    "verify",
    "weights",
]
