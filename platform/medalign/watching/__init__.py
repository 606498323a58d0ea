"""Watching a run from anywhere: its state and its log, read from the files that it keeps at its URI."""

from medalign.watching.log import follow, log_lines
from medalign.watching.status import Status, status

__all__ = ["Status", "follow", "log_lines", "status"]
