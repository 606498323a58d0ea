"""Submitting: a recipe trains as a job of a Ray cluster, and its log, last line and exit code come back."""

from medalign.submission.job import Submitted, submit

__all__ = ["Submitted", "submit"]
