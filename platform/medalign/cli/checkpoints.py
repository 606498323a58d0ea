"""`medalign checkpoint list | verify | diff | prune`: one line per fact; exit 0 fine, 1 not fine, 2 asked wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medalign.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from medalign.checkpoint import Saved

app = typer.Typer(help="Look at a run's checkpoints, check them, compare them, delete old ones.", no_args_is_help=True)

Run = Annotated[str, typer.Argument(metavar="RUN", help="The URI of a run, as `medalign train` prints it.")]
SHOWN = 20  # changed tensors that are named


@app.command("list")
def list_(run: Run) -> None:
    """List a run's checkpoints, oldest first; exit 1 if none is complete."""
    from medalign.checkpoint import catalogue, manifest, room

    _need_checkpoints(run)
    have = catalogue.complete(run)
    contents: dict[str, manifest.Manifest] = {}
    damaged: dict[str, str] = {}
    for uri in have:
        try:
            contents[uri] = manifest.read(uri)
        except CheckpointError as error:
            damaged[uri] = str(error)
    best = next((uri for uri in reversed(contents) if contents[uri].figure is not None), None)
    for uri in sorted([*have, *catalogue.incomplete(run)], key=catalogue.step_of):
        name = uri.rsplit("/", 1)[-1]
        if uri not in contents:
            typer.echo(f"{name}  {damaged.get(uri, 'unfinished: being written, or left by a process that died')}")
            continue
        content = contents[uri]
        marks = [mark for mark, here in (("newest", have[-1]), ("best", best)) if here == uri]
        figure = [] if content.figure is None else [f"figure {content.figure:.6g}"]
        facts = [f"step {content.state.step}", room.size(content.bytes), f"{len(content.files)} files", *figure, *marks]
        typer.echo("  ".join([name, *facts]))
    if not have:
        raise typer.Exit(1)


@app.command()
def verify(run: Run, step: Annotated[int | None, typer.Option(help="Only this one; all if not given.")] = None) -> None:
    """Read every byte of a run's checkpoints and name what is damaged, missing or foreign; exit 1 if anything is."""
    from medalign import checkpoint

    problems = 0
    for saved in _chosen(run, step):
        found = checkpoint.verify(saved)
        problems += len(found)
        for line in found:
            typer.echo(f"{saved.name}  {line}")
        if not found:
            typer.echo(f"{saved.name}  intact")
    if problems:
        typer.echo("to go on from an older checkpoint, delete the damaged one's folder", err=True)
        raise typer.Exit(1)


@app.command()
def diff(
    run: Run,
    first: Annotated[int | None, typer.Option(help="Step of one; the newest but one if not given.")] = None,
    second: Annotated[int | None, typer.Option(help="Step of the other; the newest if not given.")] = None,
    other: Annotated[str | None, typer.Option(metavar="RUN", help="Take the second from this run.")] = None,
) -> None:
    """Compare two checkpoints: state, recipe, tensors; exit 1 if they differ."""
    from medalign import checkpoint

    one = _chosen(run, first)[-1 if first is not None or other else -2 :][0]
    two = _chosen(other or run, second)[-1]
    if one.uri == two.uri:
        raise RunError(f"{run}: two checkpoints to compare? give --first, --second or --other.")
    found = checkpoint.diff(one, two)
    typer.echo(f"first   {one.uri}\nsecond  {two.uri}")
    for fact in found.facts:
        typer.echo(fact)
    for name in found.changed[:SHOWN]:
        typer.echo(f"tensor {name}: other values")
    if len(found.changed) > SHOWN:
        typer.echo(f"{len(found.changed) - SHOWN} more tensors: other values")
    typer.echo(f"{found.same} tensors equal, {len(found.changed)} with other values")
    if not found.is_empty:
        raise typer.Exit(1)


@app.command()
def prune(
    run: Run,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest stay, beside the best.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete all but the newest checkpoints and the best one. Not while the run trains."""
    from medalign import checkpoint
    from medalign.storage import locks

    _need_checkpoints(run)
    if dry_run:
        gone = checkpoint.prune(run, keep=keep, dry_run=True)
    else:
        with locks.hold(locks.of_run(run), of=run):
            gone = checkpoint.prune(run, keep=keep)
    for uri in gone:
        typer.echo(f"{uri.rsplit('/', 1)[-1]}  {'would be deleted' if dry_run else 'deleted'}")
    typer.echo(f"{len(checkpoint.complete(run)) - (len(gone) if dry_run else 0)} complete checkpoints stay")


def _chosen(run: str, step: int | None) -> list[Saved]:
    """Return the complete checkpoints of a run, or the one of a step."""
    from medalign.checkpoint import catalogue
    from medalign.checkpoint.manifest import Saved, TrainState

    _need_checkpoints(run)
    found = catalogue.complete(run)
    if step is not None:
        found = [uri for uri in found if catalogue.step_of(uri) == step]
    if not found:
        which = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
        raise RunError(f"{run}: no {which}; `medalign checkpoint list` shows what there is.")
    # a damaged manifest is for `verify` to tell, so the state is not read here
    return [Saved(uri, TrainState(step=catalogue.step_of(uri), seed=0, global_batch=0)) for uri in found]


def _need_checkpoints(run: str) -> None:
    from medalign import storage
    from medalign.checkpoint import catalogue

    if not storage.exists(storage.join(run, "recipe.yaml")) and not storage.exists(catalogue.folder_of(run)):
        raise RunError(f"{run}: no run here; give the URI that `medalign train` prints.")
