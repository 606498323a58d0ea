"""The platform's exceptions. What a user can mend is a UserError: one line, exit code 2, no traceback.

MedAlignError
  UserError            something a user gave is wrong; the message names it and the way out
    RecipeError        a key, a type or a value of a recipe or an override
    StorageError       a URI that cannot be read or written
      NotFoundError    nothing is there
      AccessError      the credentials are refused, expired or missing
      OutageError      a store that does not answer, or only with errors, until the deadline
      ConflictError    a conditional write that came second
    CorpusError        a corpus that is missing, incomplete, of another schema, or lacks what is asked of it
    BankError          a prompt bank that is missing, malformed, or does not fit a corpus
    EndpointError      a language model's endpoint that refuses, or does not answer until the deadline
    QuarantineError    more bad rows than the budget allows
    RunError           a run that is missing, or that another recipe already owns
      RunLockedError   a run that is at work elsewhere
    PlanError          a plan that cannot work: batches that do not divide, no CPU left for data
  OrderError           a micro-batch arrived out of turn: stop rather than train on the wrong data
  CheckpointError      a checkpoint that is incomplete, damaged or does not fit
  DiskFullError        no room to write; exit code 74, as sysexits.h has it for input and output
  NonFiniteError       a non-finite loss or gradient under the policy `stop`
  WorkerError          an exception that is not ours ended training; it carries the worker's traceback
    PeerError          another rank is gone, so this one cannot go on
  StoppedError         a signal asked training to save and end; exit code 128 + its number
  FrozenError          an encoder that must stay frozen changed while it was evaluated
"""

from __future__ import annotations


class MedAlignError(Exception):
    """Root of everything MedAlign raises on purpose."""

    exit_code = 1


class UserError(MedAlignError):
    """Something a user gave is wrong; the message is one line and names the way out."""

    exit_code = 2


class RecipeError(UserError):
    """A key, a type or a value of a recipe or an override."""


class StorageError(UserError):
    """A URI that cannot be read or written."""


class NotFoundError(StorageError):
    """Nothing is there."""


class AccessError(StorageError):
    """The credentials are refused, expired or missing."""


class OutageError(StorageError):
    """A store that does not answer, or only with errors, until the deadline."""


class ConflictError(StorageError):
    """A conditional write that came second."""


class CorpusError(UserError):
    """A corpus that is missing, incomplete, of another schema, or lacks what is asked of it."""


class BankError(UserError):
    """A prompt bank that is missing, malformed, or does not fit a corpus."""


class EndpointError(UserError):
    """A language model's endpoint that refuses, or does not answer until the deadline.

    Attributes:
        status: of the last HTTP answer, 0 where there was none.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RunError(UserError):
    """A run that is missing, or that another recipe already owns."""


class RunLockedError(RunError):
    """A run that is at work elsewhere."""


class PlanError(UserError):
    """A plan that cannot work: batches that do not divide, no CPU left for data."""


class QuarantineError(UserError):
    """More bad rows than the budget allows."""


class OrderError(MedAlignError):
    """A micro-batch arrived out of turn: stop rather than train on the wrong data."""


class CheckpointError(MedAlignError):
    """A checkpoint that is incomplete, damaged, or does not fit the model."""


class DiskFullError(MedAlignError):
    """No room to write; the message names the bytes needed and the bytes free."""

    exit_code = 74


class NonFiniteError(MedAlignError):
    """A non-finite loss or gradient under the policy `stop`."""


class WorkerError(MedAlignError):
    """An exception that is not ours ended training, say in a user's own objective; `trace` is what the workers saw."""

    def __init__(self, message: str, *, trace: str = "") -> None:  # pickle gives the message alone, then the rest
        super().__init__(message)
        self.trace = trace


class PeerError(WorkerError):
    """Another rank is gone, so this one cannot go on: what that one raised says more."""


class StoppedError(MedAlignError):
    """A signal asked training to save and end, which it has done."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FrozenError(MedAlignError):
    """An encoder that must stay frozen changed while it was evaluated."""
