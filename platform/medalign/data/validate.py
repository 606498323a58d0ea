"""Validate a corpus: every file, row and image against its manifest; duplicates and groups across splits."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from medalign import storage
from medalign.data import images, manifest
from medalign.data.manifest import Manifest, Shard, Split
from medalign.errors import StorageError

SHOWN = 10  # ids named in one problem


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a validation found; no problem is good.

    Attributes:
        uri: the corpus.
        shards, rows: how many were read.
        duplicates: rows whose pixels equal those of an earlier row of the same split: worth knowing, no problem.
        problems: one line each.
        notes: what is as the manifest says, and worth knowing all the same: one line each.
    """

    uri: str
    shards: int
    rows: int
    duplicates: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Tell whether no problem was found."""
        return not self.problems


@dataclass
class _Seen:
    """What was read so far: where each picture, group and id occurs."""

    columns: pa.Schema
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pixels: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ids: Counter[str] = field(default_factory=Counter)
    shards: int = 0
    rows: int = 0


def validate(uri: str) -> Report:
    """Read a whole corpus and report every way in which it is not what its manifest says.

    Checked: each shard's size, hash, schema, rows and row groups; that each image decodes to its stated size and pixel
    hash; counts per class and group; ids that occur twice; exact duplicates and groups across splits; shards that the
    manifest does not name.

    Raises:
        CorpusError: no corpus at `uri`, or one of another schema.
        StorageError: `uri` cannot be reached.
    """
    corpus = manifest.read(uri)
    seen = _Seen(columns=manifest.columns_of(corpus.task))
    for name, split in corpus.splits.items():
        _check_split(uri, name, split, seen=seen)
    named = {storage.join(uri, shard.path) for split in corpus.splits.values() for shard in split.shards}
    strays = [path for path in storage.list_files(uri) if path.endswith(".parquet") and path not in named]
    if strays:
        seen.problems.append(f"{len(strays)} Parquet files that the manifest does not name.")
    labels = {label for split in corpus.splits.values() for label in split.classes}
    if not labels <= set(corpus.classes):
        seen.problems.append(
            f"labels outside the manifest's classes: {', '.join(sorted(labels - set(corpus.classes)))}."
        )
    _check_across(corpus, seen)
    inside = sum(len(ids) - 1 for where in seen.pixels.values() for ids in where.values())
    return Report(
        uri=uri,
        shards=seen.shards,
        rows=seen.rows,
        duplicates=inside,
        problems=tuple(seen.problems),
        notes=tuple(seen.notes),
    )


def _check_split(uri: str, name: str, split: Split, *, seen: _Seen) -> None:
    classes: Counter[str] = Counter()
    groups: set[str] = set()
    rows = 0
    whole = True
    for shard in split.shards:
        table = _read(uri, shard, seen=seen)
        if table is None:
            whole = False
            continue
        seen.shards += 1
        seen.rows += table.num_rows
        rows += table.num_rows
        classes.update(label for label in table["label"].to_pylist() if label is not None)
        groups.update(table["group"].to_pylist())
        _check_images(shard, table, split=name, seen=seen)
    for group in groups:
        seen.groups[group].add(name)
    if whole and (rows, len(groups), dict(classes)) != (split.rows, split.groups, split.classes):
        seen.problems.append(f"split {name}: rows, groups or class counts differ from the manifest.")


def _read(uri: str, shard: Shard, *, seen: _Seen) -> pa.Table | None:
    """Return a shard's rows, or None with the problem noted. A file with another hash is not read."""
    problems = seen.problems
    try:
        data = storage.read_bytes(storage.join(uri, shard.path))
    except StorageError:
        problems.append(f"{shard.path}: missing or unreadable.")
        return None
    if len(data) != shard.bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
        problems.append(f"{shard.path}: {len(data)} bytes whose sha256 is not the manifest's ({shard.bytes} bytes).")
        return None
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{shard.path}: not a Parquet file ({type(error).__name__}).")
        return None
    if not table.schema.equals(seen.columns):
        problems.append(f"{shard.path}: other columns than the manifest's schema has.")
        return None
    groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
    if table.num_rows != shard.rows or groups != shard.row_groups:
        problems.append(f"{shard.path}: {table.num_rows} rows in {len(groups)} row groups, not as in the manifest.")
    return table


def _check_images(shard: Shard, table: pa.Table, *, split: str, seen: _Seen) -> None:
    broken = []
    columns = ("id", "image", "width", "height", "pixels")
    for key, data, width, height, pixels in zip(*(table[c].to_pylist() for c in columns), strict=True):
        seen.ids[key] += 1
        try:
            image = images.decode(data)
        except images.ImageReject:
            broken.append(key)
            continue
        found = images.pixel_hash(image)
        if image.size != (width, height) or found != pixels:
            broken.append(key)
        seen.pixels[found][split].append(key)
    if torn := _broken_masks(table):
        seen.problems.append(f"{shard.path}: {len(torn)} masks that are not as large as their image: {_some(torn)}.")
    if broken:
        seen.problems.append(
            f"{shard.path}: {len(broken)} images that do not decode to what the row says: {_some(broken)}."
        )


def _broken_masks(table: pa.Table) -> list[str]:
    """Return the ids of the rows whose mask does not decode to their image's size."""
    if "mask" not in table.column_names:
        return []
    found = []
    for row in table.select(["id", "mask", "width", "height"]).to_pylist():
        try:
            fits = row["mask"] is None or images.decode_mask(row["mask"]).shape == (row["height"], row["width"])
        except images.ImageReject:
            fits = False
        if not fits:
            found.append(row["id"])
    return found


def _check_across(corpus: Manifest, seen: _Seen) -> None:
    """Note what is in more than one split: a problem, unless the source's own splits are known to share groups."""
    known = corpus.shared_groups
    twice = [key for key, count in seen.ids.items() if count > 1]
    if twice:
        seen.problems.append(f"{len(twice)} ids that occur more than once: {_some(twice)}.")
    shared: dict[str, list[str]] = defaultdict(list)
    for where in seen.pixels.values():
        if len(where) > 1:
            shared[" and ".join(sorted(where))].append(min(min(ids) for ids in where.values()))
    for names, ids in sorted(shared.items()):
        line = f"{len(ids)} pictures are in {names}, pixel for pixel: {_some(ids)}."
        (seen.notes if names in known else seen.problems).append(line)
    torn: dict[str, list[str]] = defaultdict(list)
    for group, splits in seen.groups.items():
        if len(splits) > 1:
            torn[" and ".join(sorted(splits))].append(group)
    for names, leaked in sorted(torn.items()):
        line = f"{len(leaked)} groups are in {names}: {_some(leaked)}."
        (seen.notes if len(leaked) <= known.get(names, 0) else seen.problems).append(line)


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(sorted(ids)[:SHOWN]) + more
