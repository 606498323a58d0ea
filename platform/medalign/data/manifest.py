"""The manifest of a corpus: what shards it has, what their columns mean, where they came from. Written last."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from medalign import storage
from medalign.data import dialogue
from medalign.errors import CorpusError

SCHEMA_VERSION = "medalign.corpus/2"
WORDS_SCHEMA_VERSION = "medalign.corpus/3"  # of corpora with words: `task`, `shared_groups`, more columns
ANNOTATED_SCHEMA_VERSION = "medalign.corpus/4"  # of annotated corpora: masks and what subgroups are made of
READABLE = ("medalign.corpus/1", SCHEMA_VERSION, WORDS_SCHEMA_VERSION, ANNOTATED_SCHEMA_VERSION)  # 1: no `ranges`
FILE_NAME = "manifest.json"

BOX = pa.struct([("label", pa.string())] + [(name, pa.float32()) for name in ("left", "top", "right", "bottom")])
COLUMNS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # stable hash of the source's relative path and part
        pa.field("image", pa.binary(), nullable=False),  # encoded PNG or JPEG
        pa.field("label", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("group", pa.string(), nullable=False),  # hash of patient, photograph or volume: never split
        pa.field("modality", pa.string()),
        pa.field("body_part", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("pixels", pa.string(), nullable=False),  # hash of the decoded pixels: finds duplicates
        pa.field("boxes", pa.list_(BOX)),  # in pixels of this image
    ]
)

ATTRIBUTE = pa.struct([("name", pa.string()), ("value", pa.string())])
ANNOTATIONS = pa.schema(
    [
        pa.field("mask", pa.binary()),  # PNG of class indices, as large as the image
        pa.field("volume", pa.string()),  # hash of the volume that the slice is of
        pa.field("slice", pa.int32()),  # its place there
        pa.field("spacing", pa.list_(pa.float32())),  # mm between slices, rows and columns
        pa.field("attributes", pa.list_(ATTRIBUTE)),  # site, scanner, sex, ...: what subgroups are made of
    ]
)

Task = Literal["images", "chat", "vqa", "annotated"]
WITH_WORDS: tuple[Task, ...] = ("chat", "vqa")


def columns_of(task: Task) -> pa.Schema:
    """Return the columns of a corpus: those of every corpus, the words of `chat` and `vqa`, or annotations."""
    if task == "annotated":
        return pa.schema([*COLUMNS, *ANNOTATIONS])
    return pa.schema([*COLUMNS, *dialogue.COLUMNS]) if task in WITH_WORDS else COLUMNS


def schema_of(task: Task) -> str:
    """Return the version of the manifest's schema: corpora of images are written as they were before others were."""
    if task == "annotated":
        return ANNOTATED_SCHEMA_VERSION
    return WORDS_SCHEMA_VERSION if task in WITH_WORDS else SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file.

    Attributes:
        path: within the corpus.
        rows, bytes: how many it has.
        row_groups: the number of rows of each row group.
        sha256: of the file.
        ranges: (offset, length, sha256) of the bytes of each row group, in order, then of everything behind the last
            one, so that a reader can check just what it reads. Empty in a corpus of schema 1.
    """

    path: str
    rows: int
    row_groups: tuple[int, ...]
    bytes: int
    sha256: str
    ranges: tuple[tuple[int, int, str], ...] = ()

    @staticmethod
    def parse(raw: dict) -> Shard:
        """Return the shard of its JSON object.

        Raises:
            KeyError, TypeError: it lacks a key or has an unknown one.
        """
        ranges = tuple((int(low), int(size), str(digest)) for low, size, digest in raw.get("ranges", ()))
        return Shard(**{**raw, "row_groups": tuple(raw["row_groups"]), "ranges": ranges})


@dataclass(frozen=True, kw_only=True)
class Split:
    """The shards of one split; `classes` counts its labelled rows per class."""

    rows: int
    groups: int
    classes: dict[str, int]
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A corpus.

    Attributes:
        classes: sorted: a label's index is its place in it.
        task: what its rows hold: `images`; `chat`, images with conversations; `vqa`, questions with answers as well;
            `annotated`, images with masks, boxes, places in a volume or attributes, as far as the source has them.
        shared_groups: where the source's own splits share groups, how many are in which, as in
            `{"test and train": 202}`; such a corpus does not measure what a model knows of unseen images.
        external_ok: whether its images and words may be sent to an endpoint outside; not unless its maker said so.
        mask_classes: what the values of its masks mean, from 0, the background, on; empty where it has no masks.
    """

    name: str
    splits: dict[str, Split]
    classes: tuple[str, ...]
    columns: dict[str, str] = field(default_factory=lambda: {f.name: str(f.type) for f in COLUMNS})
    source: dict[str, str] = field(default_factory=dict)
    licence: str = "unknown"
    transforms: tuple[str, ...] = ()
    quarantined: tuple[dict[str, str], ...] = ()
    fingerprint: str = ""
    schema: str = SCHEMA_VERSION
    task: Task = "images"
    shared_groups: dict[str, int] = field(default_factory=dict)
    external_ok: bool = False
    mask_classes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's values; of a corpus of images only those that schema 2 knows.

        `external_ok` and `mask_classes` are there only where they say something, so that other manifests stay as they
        were.
        """
        found = asdict(self)
        unknown = {"task", "shared_groups"} if self.task == "images" else set()
        unknown |= set() if self.external_ok else {"external_ok"}
        unknown |= set() if self.mask_classes else {"mask_classes"}
        return {key: value for key, value in found.items() if key not in unknown}

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            CorpusError: the corpus has no images of that split.
        """
        if name not in self.splits or not self.splits[name].rows:
            have = ", ".join(sorted(self.splits)) or "none"
            raise CorpusError(f"corpus {self.name!r} has no images of split {name!r}; it has: {have}.")
        return self.splits[name]

    def content(self, name: str) -> str:
        """Return a hash of a split's rows and their order: that of its shards, wherever the corpus lies."""
        shards = [[shard.sha256, list(shard.row_groups)] for shard in self.split(name).shards]
        return hashlib.sha256(json.dumps(shards).encode()).hexdigest()

    def dumps(self) -> str:
        """Return the manifest as JSON, the same bytes for the same corpus."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(uri: str, manifest: Manifest) -> None:
    """Write a corpus's manifest: the last act of a preparation, before which the corpus does not exist."""
    storage.write_bytes(storage.join(uri, FILE_NAME), manifest.dumps().encode())


def exists(uri: str) -> bool:
    """Tell whether there is a corpus."""
    return storage.exists(storage.join(uri, FILE_NAME))


def read(uri: str) -> Manifest:
    """Read a corpus's manifest.

    Raises:
        CorpusError: no manifest there, not JSON, or of another schema version.
        StorageError: the place cannot be reached.
    """
    where = storage.join(uri, FILE_NAME)
    if not storage.exists(where):
        raise CorpusError(f"{uri}: no corpus here ({FILE_NAME} is missing); make one with `medalign data prepare`.")
    try:
        raw = json.loads(storage.read_bytes(where))
    except ValueError as error:
        raise CorpusError(f"{where}: not a JSON manifest ({error}); prepare the corpus again.") from error
    version = raw.get("schema") if isinstance(raw, dict) else None
    if version not in READABLE:
        known = ", ".join(map(repr, READABLE[:-1])) + f" and {READABLE[-1]!r}"
        raise CorpusError(f"{where}: schema {version!r}, this release reads {known}; prepare the corpus again.")
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{where}: incomplete manifest ({error}); prepare the corpus again.") from error


def _parse(raw: dict) -> Manifest:
    splits = {
        name: Split(
            rows=split["rows"],
            groups=split["groups"],
            classes=split["classes"],
            shards=tuple(Shard.parse(shard) for shard in split["shards"]),
        )
        for name, split in raw["splits"].items()
    }
    tuples = {name: tuple(raw[name]) for name in ("classes", "transforms", "quarantined")}
    if not isinstance(raw.get("external_ok", False), bool):
        raise ValueError("external_ok must be true or false")
    tuples["mask_classes"] = tuple(raw.get("mask_classes", ()))
    return Manifest(**{**raw, "splits": splits, **tuples})
