"""examine(): everything the doctor looks at, in order."""

from __future__ import annotations

from medalign.doctor.finding import Finding
from medalign.doctor.machine import disk, memory, shared_memory, threads
from medalign.doctor.object_storage import round_trip
from medalign.doctor.ray_exposure import authentication, dashboards, reachable
from medalign.doctor.versions import accelerator, packages, python, torchvision


def examine(*, uri: str = "", address: str = "") -> list[Finding]:
    """Return what was found on this machine. Writes nothing but a small file at `uri`, which it deletes again.

    Args:
        uri: a place for runs or corpora, file://, s3:// or gs://, that is written to and read from; "" for none.
        address: the http address of a Ray cluster's dashboard; "" looks at this machine alone.
    """
    found = [python(), *packages(), accelerator(), torchvision()]
    found += [shared_memory(), memory(), disk(uri), threads()]
    found += [authentication(), *dashboards()]
    if address:
        found.append(reachable(address))
    if uri:
        found += round_trip(uri)
    return found
