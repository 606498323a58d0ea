"""TensorBoard event files in a run, and the local folder that stands in for a remote one until the end."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from medalign import storage
from medalign.tracking import Kind


class LocalFolder:
    """A folder of a run for writers that only know local paths: the run's own, or a temporary one that is uploaded."""

    def __init__(self, uri: str, name: str):
        self._uri = storage.join(uri, name)
        self._temporary = None if storage.is_local(uri) else tempfile.TemporaryDirectory(prefix=f"medalign-{name}-")
        self.path = Path(self._temporary.name if self._temporary else storage.resolve(self._uri)[1])
        self.path.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Upload every file, where the run is not local."""
        if self._temporary is None:
            return
        for file in sorted(self.path.rglob("*")):
            if file.is_file() and not file.is_symlink():
                storage.write_bytes(storage.join(self._uri, str(file.relative_to(self.path))), file.read_bytes())
        self._temporary.cleanup()
        self._temporary = None


def run_key(uri: str) -> str:
    """Return a short name that is the same for every attempt at one run, and another for every other run."""
    return hashlib.blake2b(storage.absolute(uri).rstrip("/").encode(), digest_size=8).hexdigest()


class TensorBoard:
    """Writes to RUN/tensorboard. A remote run's events are kept in a temporary folder and uploaded at the end."""

    def __init__(self, uri: str, *, step: int = 0):
        from tensorboardX import SummaryWriter

        self._folder = LocalFolder(uri, "tensorboard")
        # Files are named by the second and read in the order of their names: attempts must not share one.
        suffix = f".{step:09d}.{uuid.uuid4().hex[:8]}"
        # TensorBoard hides what a former attempt wrote at or after the step that purge_step names.
        self._writer = SummaryWriter(
            logdir=str(self._folder.path), purge_step=step + 1, flush_secs=10, filename_suffix=suffix
        )

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Write each value as the scalar KIND/NAME."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, global_step=step)

    def flush(self) -> None:
        """Write what is queued to the event file."""
        self._writer.flush()

    def close(self, *, failed: bool = False) -> None:
        """Close the event file, and upload it if the run is remote."""
        self._writer.close()
        self._folder.close()
