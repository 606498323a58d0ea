"""A recipe as a job: one job at a time for a run, found again by the run's URI."""

from __future__ import annotations

import hashlib
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medalign import cluster, storage
from medalign.errors import MedAlignError, UserError
from medalign.recipe import Recipe, open_recipe
from medalign.submission.log import follow
from medalign.submission.package import ENVIRONMENT, stage_code, stage_folder

RUN = "medalign_run"  # in a job's metadata
READY_WITHIN_S = 180.0  # a cluster that has just started: its agents come up after its dashboard
NOT_YET = ("No available agent", "Failed to connect", "status code 503", "status code 502")


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job, and how it ended.

    Attributes:
        job: Ray's submission id.
        run: the URI of its run.
        joined: the job was at work already, and only its log was followed.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_code: of the job's program; None while it runs, or where it never began.
    """

    job: str
    run: str
    joined: bool
    status: str
    exit_code: int | None


def submit(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    address: str,
    working_dir: Path | None = None,
    image_code: bool = False,
    wait: bool = True,
    take: Callable[[str], object] = sys.stdout.write,
) -> Submitted:
    """Train a recipe as a job of a cluster, and follow it to its end.

    The same call again follows the run's job while that is at work, and starts the next one after it, which goes on
    from the newest checkpoint. The job asks for no CPU and no GPU of its own, so it runs on the head.

    Args:
        recipe: a YAML file, or the name of a shipped one.
        overrides: dotted keys laid over it.
        address: of the cluster's dashboard, http://host:8265.
        working_dir: a folder that travels with the job, for classes that the recipe names; the recipe lies in it.
        image_code: use the MedAlign that the nodes' image holds, instead of this one.
        wait: follow the job; else return as soon as it is accepted.
        take: is given the log, piece by piece.

    Raises:
        UserError: anything wrong with a key, a place that the nodes cannot know, or the address.
        MedAlignError: the cluster refuses the job, or does not answer any more.
    """
    settled, _ = open_recipe(recipe, overrides)  # before anything is sent
    _check_places(settled)
    client = _connect(address)
    with tempfile.TemporaryDirectory() as staged:
        name, folder = stage_folder(recipe, working_dir, Path(staged, "folder"))
        entrypoint = shlex.join(["python", "-m", "medalign.cli", "train", name, *overrides])
        job, joined = _find_or_start(
            client,
            settled.run.uri,
            entrypoint,
            lambda: {
                "working_dir": str(folder),
                "env_vars": dict(ENVIRONMENT),
                **({} if image_code else {"py_modules": stage_code(Path(staged, "code"))}),
            },
        )
    info = follow(client, job, take) if wait else client.get_job_info(job)
    if wait and info.driver_exit_code is None and info.status == "FAILED":
        raise MedAlignError(f"job {job} failed before its program began: {info.message}")
    return Submitted(
        job=job, run=settled.run.uri, joined=joined, status=str(info.status), exit_code=info.driver_exit_code
    )


def _check_places(recipe: Recipe) -> None:
    """Refuse what means nothing on another machine: a path below the current folder."""
    places = {"run.uri": recipe.run.uri}
    places |= {f"data.mixture[{i}].uri": part.uri for i, part in enumerate(recipe.data.mixture or ())}
    if recipe.data.mixture is None:
        places["data.corpus"] = recipe.data.corpus
    for key, uri in places.items():
        if storage.is_local(uri) and not Path(uri.removeprefix("file://")).is_absolute():
            raise UserError(
                f"{key}={uri}: the nodes do not know this folder; give s3://... or a path that all nodes share."
            )


def _connect(address: str) -> Any:
    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: must be that of the dashboard, http://host:8265.")
    cluster.use_token()
    import ray
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every package and every closed socket
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    began = time.monotonic()
    while True:
        try:
            client = JobSubmissionClient(address)
            found = client.get_version()
            break
        except AuthenticationError as error:
            raise UserError(
                f"--address {address}: the cluster wants its token; put it into ~/.ray/auth_token, or name its file in"
                " RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE=token."
            ) from error
        except (ConnectionError, RuntimeError) as error:
            if isinstance(error, ConnectionError) or time.monotonic() - began > READY_WITHIN_S:
                raise UserError(f"--address {address}: no Ray cluster answers there.") from error
            time.sleep(1)
    del found
    if ray.__version__ != (there := client._server_ray_version or ray.__version__):
        raise UserError(f"--address {address}: runs Ray {there}, and this is {ray.__version__}; install the same.")
    return client


def _find_or_start(client: Any, run: str, entrypoint: str, runtime_env: Callable[[], dict]) -> tuple[str, bool]:
    """Return the job at work on a run, or a new one, and whether it was at work already."""
    stem = f"medalign-{hashlib.sha256(run.encode()).hexdigest()[:12]}"
    began, prepared = time.monotonic(), None
    while True:
        jobs = [job for job in client.list_jobs() if (job.metadata or {}).get(RUN) == run]
        for job in jobs:
            if not job.status.is_terminal():
                if job.entrypoint != entrypoint:
                    raise UserError(
                        f"{run}: job {job.submission_id} is at work on it with other words ({job.entrypoint}); wait for"
                        f" its end, or end it by `ray job stop {job.submission_id}`."
                    )
                return job.submission_id, True
        prepared = prepared or runtime_env()
        name = f"{stem}-{len(jobs) + 1}"
        try:
            client.submit_job(
                entrypoint=entrypoint, submission_id=name, runtime_env=dict(prepared), metadata={RUN: run}
            )
        except (RuntimeError, ConnectionError) as error:
            is_soon = any(text in str(error) for text in NOT_YET)
            if not is_soon and "already exists" not in str(error):  # else another submitter was first: look again
                raise MedAlignError(f"the cluster refuses the job: {error}") from error
            if time.monotonic() - began > READY_WITHIN_S:
                raise MedAlignError(f"the cluster takes no job: {error}") from error
            time.sleep(2)
            continue
        return name, False
