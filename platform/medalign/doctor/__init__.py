"""The doctor: what is wrong with a machine before a run meets it, each finding with its fix; one kind a file."""

from medalign.doctor.examine import examine
from medalign.doctor.finding import Finding

__all__ = ["Finding", "examine"]
