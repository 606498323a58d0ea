"""Checks the core's annotations of shape and type while its tests run, and makes the toy problems importable."""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages; core_problems.py lives beside this file
# not the settings: what they are given wrongly is for their own messages to say
CHECKED = (
    "types",
    "ops",
    "solvers",
    "metrics.collapse",
    "models.encoders",
    "models.projector",
    "objectives.holes",
    "objectives.info_nce.module",
    "objectives.lvm_med.affinity",
    "objectives.lvm_med.loss",
    "objectives.lvm_med.module",
)
install_import_hook([f"medalign_core.{part}" for part in CHECKED], "beartype.beartype")
