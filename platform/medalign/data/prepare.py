"""Prepare a corpus: list a source's items, choose splits and order, run the job, write the manifest last."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medalign import storage
from medalign.data import formats, images, job, listing, rows, splits
from medalign.data import place as places
from medalign.data.items import Item
from medalign.data.manifest import Manifest, Split, schema_of
from medalign.data.mask_values import mask_classes
from medalign.errors import CorpusError, QuarantineError

ALGORITHM = 1  # raised when the same settings begin to give other bytes
NAMED_FAILURES = 10
MAX_SIDE = 4096  # of a stored image: what training decodes, and refuses beyond (decode.py)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows lie in files, and how many items may fail."""

    shard_rows: int
    row_group_rows: int
    budget: float

    def __post_init__(self) -> None:
        for key in ("shard_rows", "row_group_rows"):
            if getattr(self, key) < 1:
                raise CorpusError(f"{key} must be >= 1, got {getattr(self, key)}.")
        if not 0 <= self.budget <= 1:
            raise CorpusError(f"quarantine_budget must be in [0, 1], got {self.budget}.")


def prepare(
    source: str,
    *,
    format: str,
    out: str,
    name: str | None = None,
    licence: str | None = None,
    split_by: str = "",
    fractions: Mapping[str, float] | None = None,
    official_splits: bool = True,
    split_seed: int = 0,
    share: float = 1.0,
    share_seed: int = 0,
    options: Mapping[str, Any] | None = None,
    max_side: int = 512,
    max_pixels: int = images.MAX_PIXELS,
    encoding: images.Encoding = "auto",
    salt: str = "",
    shard_rows: int | None = None,
    row_group_rows: int = 64,
    quarantine_budget: float = 0.01,
    external_ok: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the corpus of `source` at `out` and return its manifest; the same input gives the same bytes.

    A second call with the same source and settings returns the manifest that is there. The manifest is written last,
    so a killed call leaves nothing that can be read, and the next call clears what it left. Whether a source has
    changed is seen by the names and sizes of its files.

    Args:
        source: folder, file or URI, as the format wants it.
        format: any of `formats.FORMATS`.
        out: URI of the corpus.
        name: the corpus's name; the last part of `out` if None.
        licence: what the images are under; what the format knows if None.
        split_by: the column or level that is the group, for formats that have one.
        fractions: share of rows of `val` and `test` drawn by group; see `splits.assign`.
        official_splits: keep the source's own splits.
        split_seed: another seed draws other groups into `val` and `test`.
        share: of the train rows that are kept, in (0, 1]; subsets of one `share_seed` are nested.
        share_seed: another seed draws another family of subsets.
        options: the format's own options; see its reader.
        max_side: longer side of a stored image, in pixels.
        max_pixels: larger images are quarantined without being decoded.
        encoding: `auto` (grey and small: PNG, else JPEG), `png` or `jpeg`.
        salt: a secret that enters the hashes of file and patient names, so that nobody can test guesses against them.
        shard_rows: items of a shard; 1,024, fewer for a large `max_side`, if None.
        row_group_rows: most rows of a row group.
        quarantine_budget: largest share of items that may be quarantined.
        external_ok: the corpus may be sent to an endpoint outside; the manifest says so.
        overwrite: replace another corpus at `out`.
        progress: called after each shard with the number of items done and of all.

    Raises:
        CorpusError: settings that do not fit the source, no images, conversations in which the assistant says
            nothing, or another corpus at `out`.
        QuarantineError: more bad items than the budget.
        StorageError: source or `out` cannot be reached.
    """
    _check_image_settings(max_side, max_pixels, encoding)
    recipe = rows.Recipe(
        format=format,
        options=formats.complete(format, {**(options or {}), **({"split_by": split_by} if split_by else {})}),
        max_side=max_side,
        max_pixels=max_pixels,
        encoding=encoding,
        salt=salt,
    )
    if shard_rows is None:
        shard_rows = max(64, min(1024, 1024 * 512**2 // max_side**2))
    layout = Layout(shard_rows=shard_rows, row_group_rows=row_group_rows, budget=quarantine_budget)
    out = storage.absolute(out)
    items = listing.list_items(source, recipe)
    items = listing.split_items(items, recipe, official_splits=official_splits, fractions=fractions, seed=split_seed)
    items, cut = listing.cut_items(items, share=share, seed=share_seed)
    draft = _draft(items, recipe, name=name or out.rstrip("/").rpartition("/")[2], licence=licence)
    drawn = {"split_seed": str(split_seed)} if split_seed else {}
    draft = replace(draft, source={**draft.source, **drawn, **cut}, external_ok=external_ok)
    draft = replace(draft, fingerprint=_fingerprint(draft, items, recipe, layout))
    done = places.claim(out, draft.fingerprint, overwrite=overwrite)
    if done is not None:
        return done
    try:
        finished = _run(draft, items, recipe, layout=layout, out=out, progress=progress)
    except BaseException:
        places.clear(out)
        raise
    places.finish(out, finished)
    return finished


def _check_image_settings(max_side: int, max_pixels: int, encoding: str) -> None:
    if not 8 <= max_side <= MAX_SIDE:
        raise CorpusError(f"max_side must be in [8, {MAX_SIDE}] pixels, got {max_side}.")
    if max_pixels < 1:
        raise CorpusError(f"max_pixels must be >= 1, got {max_pixels}.")
    if encoding not in images.ENCODINGS:
        raise CorpusError(f"encoding must be one of {', '.join(images.ENCODINGS)}, got {encoding!r}.")


def _draft(items: Sequence[tuple[str, Item]], recipe: rows.Recipe, *, name: str, licence: str | None) -> Manifest:
    reader, task = formats.reader(recipe.format), formats.task(recipe.format)
    sizes = {item.path: item.size for _, item in items}
    shown = {key: value for key, value in recipe.options.items() if value not in ("", None)}
    return Manifest(
        name=name,
        splits={},
        task=task,
        schema=schema_of(task),
        mask_classes=mask_classes(recipe.options),
        shared_groups=splits.shared([item.group for _, item in items], [item.split or "" for _, item in items]),
        classes=tuple(sorted({item.label for _, item in items if item.label is not None})),
        source={
            "format": recipe.format,
            "options": json.dumps(shown, sort_keys=True),
            "items": str(len(items)),
            "files": str(len(sizes)),
            "bytes": str(sum(sizes.values())),
        },
        licence=licence or reader.LICENCE,
        transforms=(
            *reader.transforms(recipe.options),
            "first frame of an animation; EXIF orientation applied; alpha over black; 8-bit grey or RGB",
            f"scaled down by area averaging to a longer side of at most {recipe.max_side} px",
            f"encoded as {recipe.encoding} (auto: PNG if grey or small, else JPEG of quality {images.JPEG_QUALITY})",
        ),
    )


def _fingerprint(draft: Manifest, items: Sequence[tuple[str, Item]], recipe: rows.Recipe, layout: Layout) -> str:
    """Return the hash of everything that decides a corpus's bytes. A place's own path is not part of it."""
    digest = hashlib.sha256()
    settings = {"algorithm": ALGORITHM, "draft": draft.as_dict(), "recipe": asdict(recipe), "layout": asdict(layout)}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for key, item in items:
        digest.update(f"\n{key}:{json.dumps({**item.as_dict(), 'path': ''}, sort_keys=True)}".encode())
    return digest.hexdigest()


def _run(
    draft: Manifest,
    items: Sequence[tuple[str, Item]],
    recipe: rows.Recipe,
    *,
    layout: Layout,
    out: str,
    progress: Callable[[int, int], None] | None,
) -> Manifest:
    by_split: dict[str, Split] = {}
    bad: list[dict[str, str]] = []
    done = 0
    for split in sorted({item.split or "" for _, item in items}):
        members = [(key, item) for key, item in items if item.split == split]
        plan = job.Plan(
            uri=out,
            split=split,
            ids=tuple(key for key, _ in members),
            items=tuple(item.dumps() for _, item in members),
            recipe=recipe,
            shard_rows=layout.shard_rows,
            row_group_rows=layout.row_group_rows,
        )
        records, failed = [], set()
        for record in job.run(plan):
            records.append(record)
            failed |= {position for position, _ in record.failed}
            bad += [{"id": plan.ids[position], "split": split, "reason": reason} for position, reason in record.failed]
            _check_budget(bad, total=len(items), budget=layout.budget)
            done += min(layout.shard_rows, len(members) - (len(records) - 1) * layout.shard_rows)
            if progress is not None:
                progress(done, len(items))
        kept = [item for position, (_, item) in enumerate(members) if position not in failed]
        if kept:
            by_split[split] = Split(
                rows=len(kept),
                groups=len({item.group for item in kept}),
                classes=dict(sorted(Counter(item.label for item in kept if item.label is not None).items())),
                shards=tuple(record.shard for record in records if record.shard is not None),
            )
    return replace(draft, splits=by_split, quarantined=tuple(bad))


def _check_budget(bad: Sequence[dict[str, str]], *, total: int, budget: float) -> None:
    if len(bad) > budget * total:
        shown = ", ".join(f"{row['id']} ({row['reason']})" for row in bad[:NAMED_FAILURES])
        more = f" and {len(bad) - NAMED_FAILURES} more" if len(bad) > NAMED_FAILURES else ""
        raise QuarantineError(
            f"{len(bad)} of {total} items so far are bad, more than quarantine_budget={budget:g} allows: {shown}{more}."
        )
