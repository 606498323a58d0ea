"""What a preparation is of: a source's items, listed in their final order, split, and cut to a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medalign import storage
from medalign.data import dialogue, formats, rows, splits, subset
from medalign.data.items import Item, hashed
from medalign.data.manifest import WITH_WORDS
from medalign.errors import CorpusError

NAMED = 10


def list_items(source: str, recipe: rows.Recipe) -> list[tuple[str, Item]]:
    """Return (id, item) of every item, in the order of the ids: a hash, so well mixed.

    Raises:
        CorpusError: no items, some that are listed twice, or conversations in which the assistant says nothing.
    """
    reader = formats.reader(recipe.format)
    place = source if recipe.format in formats.NOT_PLACES else storage.absolute(source)
    found = list(reader.list_items(place, recipe.options))
    if not found:
        raise CorpusError(f"{source}: no images for format {recipe.format}; check the path and the format.")
    listed = {hashed("item", item.key, salt=recipe.salt): item for item in found}
    if len(listed) != len(found):
        raise CorpusError(f"{source}: {len(found) - len(listed)} items are listed twice; each may be named once.")
    if formats.task(recipe.format) in WITH_WORDS:
        _check_answers(found, source)
    return sorted(listed.items())


def split_items(
    items: Sequence[tuple[str, Item]],
    recipe: rows.Recipe,
    *,
    official_splits: bool,
    fractions: Mapping[str, float] | None,
    seed: int,
) -> list[tuple[str, Item]]:
    """Return the items, each with its split: see `splits.assign`. Only questions may keep splits that share groups."""
    chosen = splits.assign(
        [item.group for _, item in items],
        [item.label for _, item in items],
        [item.split if official_splits else None for _, item in items],
        fractions=fractions,
        seed=seed,
        may_share=official_splits and formats.task(recipe.format) == "vqa",
    )
    return [(key, replace(item, split=split)) for (key, item), split in zip(items, chosen, strict=True)]


def cut_items(
    items: list[tuple[str, Item]], *, share: float, seed: int
) -> tuple[list[tuple[str, Item]], dict[str, str]]:
    """Keep a share of the train rows, and return what the manifest says of it.

    The other splits stay whole, so that models of all shares are measured on the same rows.

    Raises:
        CorpusError: a share outside (0, 1].
    """
    if share == 1:
        return items, {}
    train = [key for key, item in items if item.split == "train"]
    kept = {key for key, is_in in zip(train, subset.nested(train, share, seed=seed), strict=True) if is_in}
    left = [(key, item) for key, item in items if item.split != "train" or key in kept]
    return left, {"share": f"{share:g}", "share_seed": str(seed), "share_of": str(len(train))}


def _check_answers(items: Sequence[Item], source: str) -> None:
    """Refuse samples of which nothing would be learnt: all their labels would be masked, and their loss 0."""
    silent = [
        f"{item.where['record']}{f' of {item.split}' if item.split else ''}"
        for item in items
        if dialogue.is_silent(item.words)
    ]
    if silent:
        more = f" and {len(silent) - NAMED} more" if len(silent) > NAMED else ""
        raise CorpusError(
            f"{source}: {len(silent)} of {len(items)} samples have no answer to learn from, all their labels would be"
            f" masked; correct or remove them: record {', '.join(silent[:NAMED])}{more} (counted from 0)."
        )
