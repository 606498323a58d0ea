"""What a job takes along: this installation's code as a wheel would hold it, and the recipe or the user's folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from medalign.errors import UserError
from medalign.recipe import find, shipped

MOST_BYTES = 512 * 1024**2  # that Ray takes in one package; its own message comes after the whole folder is packed
CODE = ("medalign_core", "medalign")
# Ray shows these in its dashboard and logs: no secrets
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def stage_code(into: Path) -> list[str]:
    """Copy the two packages, with the shipped recipes inside, and return their folders."""
    import medalign_core

    rubbish = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in (Path(__file__).parents[1], Path(medalign_core.__path__[0])):
        shutil.copytree(folder, into / folder.name, ignore=rubbish)
    for name in shipped():
        target = into / "medalign" / "recipes" / f"{name}.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(find(name), target)
    return [str(into / name) for name in CODE]


def stage_folder(recipe: str, folder: Path | None, into: Path) -> tuple[str, Path]:
    """Return the recipe's name as the job should give it, and the folder that the job runs in.

    Args:
        recipe: a shipped name, which the code holds, or a file.
        folder: the user's own, for classes that the recipe names; a new one with the recipe's file if None.
        into: an empty place.

    Raises:
        UserError: the folder is missing or too large, or the recipe's file is outside of it.
    """
    is_file = recipe.endswith((".yaml", ".yml"))
    if folder is None:
        into.mkdir(parents=True, exist_ok=True)
        if is_file:
            shutil.copy(recipe, into / "recipe.yaml")
        return ("recipe.yaml" if is_file else recipe), into
    if not folder.is_dir():
        raise UserError(f"--working-dir {folder}: no such folder.")
    check_size(folder)
    if not is_file:
        return recipe, folder
    try:
        return str(Path(recipe).resolve().relative_to(folder.resolve())), folder
    except ValueError:
        raise UserError(f"{recipe}: lies outside of --working-dir {folder}; move it there.") from None


def check_size(folder: Path, *, most: int = MOST_BYTES) -> None:
    """Refuse a folder that Ray would not take, before it is packed; what .gitignore and .rayignore name is left out.

    Raises:
        UserError: the folder is too large; its ten largest files are named.
    """
    from ray._private.runtime_env import packaging

    files: list[tuple[int, Path]] = []

    def weigh(path: Path) -> None:
        if path.is_file():
            files.append((path.stat().st_size, path))

    travel = packaging._dir_travel
    travel(
        folder, [lambda path: path.name == ".git"], weigh, include_gitignore=True, logger=logging.getLogger(__name__)
    )
    total = sum(size for size, _ in files)
    if total > most:
        largest = ", ".join(f"{path.relative_to(folder)} ({size:,})" for size, path in sorted(files, reverse=True)[:10])
        raise UserError(
            f"--working-dir {folder}: {total:,} bytes, Ray takes {most:,}; name what the job does not need in"
            f" .rayignore. The largest files: {largest}."
        )
