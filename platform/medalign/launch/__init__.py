"""Launching: a recipe becomes a run, on Ray or in this process. The only door to ray.train."""

from medalign.launch.run import TrainResult, dry_run, train

__all__ = ["TrainResult", "dry_run", "train"]
