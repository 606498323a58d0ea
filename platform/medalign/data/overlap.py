"""What corpora share: pictures that are equal, pictures that show the same, and groups (patients) in more than one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from numpy import ndarray

from medalign.data import manifest, perceptual
from medalign.data.decode import open_image
from medalign.data.perceptual import Fingerprints
from medalign.data.reader import read_rows
from medalign.errors import CorpusError

MOST_BITS = 70  # of 256: candidates
LEAST_AGREEMENT = 0.98  # correlation of grey levels after alignment: the same picture
KINDS = ("identical file", "identical pixels", "near duplicate")
Progress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two pictures that are one.

    Attributes:
        kind: one of `KINDS`.
        agreement: correlation of their grey levels after alignment, 1 for identical ones.
    """

    first: str
    second: str
    first_place: str
    second_place: str
    kind: str
    agreement: float


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What places (a split of a corpus each) share.

    Attributes:
        pictures: how many each place has.
        pairs: pictures that are one, each pair once.
        shared_groups: by "place and place", how many groups are in both. Groups are hashes of what the source calls
            them: a patient has one hash in two corpora only if both sources and both salts name him alike.
        unreadable: pictures that could not be decoded.
    """

    pictures: dict[str, int]
    pairs: tuple[Pair, ...]
    shared_groups: dict[str, int]
    unreadable: int

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many pairs of each kind each two places share."""
        found: dict[str, dict[str, int]] = {}
        for pair in self.pairs:
            between = found.setdefault(f"{pair.first_place} and {pair.second_place}", dict.fromkeys(KINDS, 0))
            between[pair.kind] += 1
        return found

    def seen(self, place: str) -> set[str]:
        """Return the ids of a place's pictures that another place has as well."""
        return {pair.first for pair in self.pairs if pair.first_place == place} | {
            pair.second for pair in self.pairs if pair.second_place == place
        }

    def dumps(self) -> str:
        """Return the finding as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """What is kept of a place's pictures; `prints` may be shared by several searches."""

    place: str
    ids: tuple[str, ...]
    files: tuple[str, ...]
    pixels: tuple[str, ...]
    groups: frozenset[str]
    prints: Fingerprints
    unreadable: int


def find_overlap(
    places: Sequence[tuple[str, str | None]],
    *,
    near: bool = True,
    within: bool = True,
    progress: Progress | None = None,
) -> Overlap:
    """Find what corpora, or splits of them, share.

    Every two places are compared: by the sha256 of the stored files, by the hash of their pixels, and by a perceptual
    hash with a check that resizing, cropping to 85 % of the area and greying pass. Mirrored and turned pictures are not
    found. The work grows with the product of the places' sizes.

    Args:
        places: (URI of a corpus, split) each; None is every split, each a place of its own.
        near: also look for near duplicates.
        within: also compare the splits of one corpus.
        progress: called with a place and the number of its pictures read.

    Raises:
        CorpusError: no corpus, no such split, or fewer than two places.
    """
    named = [(uri, name) for uri, split in places for name in ([split] if split else sorted(manifest.read(uri).splits))]
    named = list(dict.fromkeys(named))
    if len(named) < 2:
        raise CorpusError(f"{len(named)} place to compare; give two corpora, or one with two splits.")
    read = [read_place(uri, split, near=near, progress=progress) for uri, split in named]
    pairs: list[Pair] = []
    shared: dict[str, int] = {}
    for i, j in combinations(range(len(read)), 2):
        if not within and named[i][0] == named[j][0]:
            continue
        pairs += _pairs(read[i], read[j], near=near)
        if common := len(read[i].groups & read[j].groups):
            shared[f"{read[i].place} and {read[j].place}"] = common
    return Overlap(
        pictures={each.place: len(each.ids) for each in read},
        pairs=tuple(pairs),
        shared_groups=shared,
        unreadable=sum(each.unreadable for each in read),
    )


def place_of(uri: str, split: str) -> str:
    """Return what a split of a corpus is called in a finding."""
    return f"{uri.rstrip('/')}:{split}"


def read_place(uri: str, split: str, *, near: bool, progress: Progress | None = None) -> Read:
    """Read a split once and keep its hashes.

    Raises:
        CorpusError: no corpus, or no such split.
    """
    ids, files, pixels, thumbnails = [], [], [], []
    groups: set[str] = set()
    unreadable = 0
    for batch in read_rows(uri, split, columns=("id", "image", "pixels", "group")):
        for row in batch.to_pylist():
            groups.add(row["group"])
            try:
                small = perceptual.thumbnail(open_image(row["image"])) if near else None
            except ValueError:
                unreadable += 1
                continue
            ids.append(row["id"])
            files.append(hashlib.sha256(row["image"]).hexdigest())
            pixels.append(row["pixels"])
            thumbnails += [] if small is None else [small]
        if progress is not None:
            progress(place_of(uri, split), len(ids))
    side = perceptual.SIDE
    held = np.stack(thumbnails) if thumbnails else np.zeros((0, side, side), np.uint8)
    return Read(
        place=place_of(uri, split),
        ids=tuple(ids),
        files=tuple(files),
        pixels=tuple(pixels),
        groups=frozenset(groups),
        prints=perceptual.fingerprint(held),
        unreadable=unreadable,
    )


def _pairs(first: Read, second: Read, *, near: bool) -> list[Pair]:
    found: dict[tuple[int, int], tuple[str, float]] = {}
    for kind, ours, theirs in ((KINDS[0], first.files, second.files), (KINDS[1], first.pixels, second.pixels)):
        where: dict[str, list[int]] = {}
        for j, value in enumerate(theirs):
            where.setdefault(value, []).append(j)
        for i, value in enumerate(ours):
            for j in where.get(value, ()):
                found.setdefault((i, j), (kind, 1.0))
    if near:
        for i, j in _candidates(first.prints, second.prints):
            if (i, j) not in found:
                alike = perceptual.agreement(first.prints.thumbnails[i], second.prints.thumbnails[j])
                if alike >= LEAST_AGREEMENT:
                    found[i, j] = (KINDS[2], alike)
    return [
        Pair(
            first=first.ids[i],
            second=second.ids[j],
            first_place=first.place,
            second_place=second.place,
            kind=kind,
            agreement=agreement,
        )
        for (i, j), (kind, agreement) in sorted(found.items())
    ]


def _candidates(first: Fingerprints, second: Fingerprints) -> list[tuple[int, int]]:
    pairs: ndarray = perceptual.candidates(first, second, most_bits=MOST_BITS)
    return [(int(i), int(j)) for i, j in pairs]
