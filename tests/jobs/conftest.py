"""The tests of jobs share one cluster and one checkout."""

import sys
from pathlib import Path

for folder in ("jobs", "medalign"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / folder))  # tests are no packages

from job_cluster import checkout, cluster  # noqa: E402, F401
