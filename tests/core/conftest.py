"""Checks the core's annotations of shape and type while its tests run, and makes the toy problems importable."""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages; core_problems.py lives beside this file
CHECKED = ("types", "ops", "solvers", "models", "objectives", "metrics.collapse")
install_import_hook([f"medalign_core.{part}" for part in CHECKED], "beartype.beartype")
