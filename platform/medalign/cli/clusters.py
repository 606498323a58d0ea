"""`medalign cluster render | drain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medalign.errors import UserError

app = typer.Typer(help="Files of Ray clusters, and a node's farewell.", no_args_is_help=True)


@app.command()
def render(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="kuberay: of the RayJob's recipe; run.uri=s3://...")
    ] = None,
    *,
    provider: Annotated[str, typer.Option(help="aws, gcp or kuberay.")],
    gpus: Annotated[int, typer.Option(help="Most GPUs at once.")],
    image: Annotated[str, typer.Option(help="The container image, with a tag other than latest, or a digest.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")],
    gpu_type: Annotated[str, typer.Option(help="T4, L4, A10G, L40S, A100-40, A100-80, H100 or H200.")] = "L4",
    name: Annotated[str, typer.Option(help="The cluster's name.")] = "medalign",
    spot: Annotated[bool, typer.Option("--spot", help="GPUs on spot capacity, else on demand.")] = False,
    cpu_nodes: Annotated[int, typer.Option(help="Most nodes of the pool for data.")] = 4,
    idle_minutes: Annotated[int, typer.Option(help="After which an idle node is given back.")] = 5,
    region: Annotated[str, typer.Option(help="aws, gcp.")] = "",
    zone: Annotated[str, typer.Option(help="aws, gcp: the region's first if not given.")] = "",
    project: Annotated[str, typer.Option(help="gcp.")] = "",
    machine_image: Annotated[str, typer.Option(help="aws, gcp: with Docker and NVIDIA's driver.")] = "",
    role: Annotated[str, typer.Option(help="Instance profile or service account that may use the data.")] = "",
    namespace: Annotated[str, typer.Option(help="kuberay.")] = "default",
    gpus_per_node: Annotated[int, typer.Option(help="kuberay.")] = 1,
    cpus_per_gpu: Annotated[int, typer.Option(help="kuberay.")] = 8,
    memory_gib_per_gpu: Annotated[int, typer.Option(help="kuberay.")] = 32,
    credentials_secret: Annotated[str, typer.Option(help="kuberay: a secret with AWS_* and the like.")] = "",
    grace_seconds: Annotated[int, typer.Option(help="From a pod's notice to its end.")] = 120,
    recipe: Annotated[str, typer.Option(help="kuberay: writes a RayJob that trains it, too.")] = "",
) -> None:
    """Write the files of an autoscaling cluster, each checked first."""
    given: dict[str, Any] = {key: value for key, value in locals().items() if key not in ("out", "overrides")}
    from medalign.cluster_files import ClusterSettings, write

    try:
        settings = ClusterSettings(**given, overrides=tuple(overrides or ()))
    except ValueError as error:
        key, _, rest = str(error).partition(" ")
        raise UserError(f"--{key.replace('_', '-')} {rest}") from error
    for path in write(settings, out):
        typer.echo(path)


@app.command()
def drain(
    seconds: Annotated[int, typer.Option(help="For which this node may still work.")],
    node: Annotated[str, typer.Option(metavar="ID", help="Another node than this one, by Ray's id.")] = "",
) -> None:
    """Tell Ray that this node goes: runs save and go on elsewhere. Ends when the node has, or its time is over."""
    from medalign.cluster import drain as announce

    typer.echo(announce(seconds, node=node))
