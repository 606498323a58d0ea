"""Frozen visual features of a corpus split: encoded once, kept as a file that is named by what went into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors.numpy import load, save

from medalign import storage
from medalign.data import manifest
from medalign.data.decode import augment, decode_image, open_image
from medalign.data.reader import read_rows
from medalign.data.settings import Views
from medalign.errors import CorpusError
from medalign.evaluation.result import Samples
from medalign.few_shot.corruptions import Corruption, corrupt
from medalign_core.models.dual.encoder import ImageTower

BATCH = 32  # images through the tower at a time
FOREIGN = 64  # images of the other corpus that patches come from

Change = Callable[[ndarray, str], ndarray]  # of an image, (3, S, S), and its row's id


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Visual features of rows: the plain test view first, then A augmented ones.

    Attributes:
        rows: the N rows, without those that could not be decoded.
        tokens: (N, 1 + A, M, D) float16: 4e-4 in a cosine.
        pooled: (N, 1 + A, D) float32.
    """

    rows: Samples
    tokens: Float[ndarray, "N V M D"]
    pooled: Float[ndarray, "N V D"]

    def of_classes(self, first: int, end: int) -> Features:
        """Return the rows whose label is in [first, end), counted from 0 there."""
        at = np.flatnonzero((self.rows.labels >= first) & (self.rows.labels < end))
        rows = self.rows.take(at)
        return Features(rows=replace(rows, labels=rows.labels - first), tokens=self.tokens[at], pooled=self.pooled[at])

    def places(self, ids: Collection[str]) -> Int[ndarray, " S"]:
        """Return where rows are, in the order of `ids`; those that could not be decoded are left out."""
        place = {row: index for index, row in enumerate(self.rows.ids)}
        return np.array([place[row] for row in ids if row in place], dtype=np.int64)


def read_labels(corpus: str, split: str) -> Samples:
    """Return the labelled rows of a split, in the corpus's order; no image is read."""
    classes = {name: index for index, name in enumerate(manifest.read(corpus).classes)}
    ids: list[str] = []
    groups: list[str] = []
    labels: list[int] = []
    for batch in read_rows(corpus, split, columns=("id", "group", "label")):
        for row in batch.to_pylist():
            if row["label"] is not None:
                ids.append(row["id"])
                groups.append(row["group"])
                labels.append(classes[row["label"]])
    return Samples(ids=np.array(ids, dtype=object), groups=np.array(groups, dtype=object), labels=np.array(labels))


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Encodes rows, or opens what was encoded before.

    Attributes:
        uri: the folder of the files.
        tower: what encodes.
        fingerprint: of its weights.
    """

    uri: str
    tower: ImageTower
    fingerprint: str

    def features(
        self,
        corpus: str,
        split: str,
        rows: Samples,
        *,
        views: Views | None,
        count: int,
        seed: int,
        corruption: Corruption | None = None,
    ) -> Features:
        """Return the features of `rows`.

        Args:
            corpus: URI.
            split: of the corpus.
            rows: some of the split's, in the corpus's order.
            views: how the augmented views are made.
            count: A of them, keyed by (seed, row id, number); 0 for none.
            seed: see `count`.
            corruption: what is done to the plain view of each image, keyed by the row id.

        Raises:
            CorpusError: not one of the images could be decoded.
        """
        known = {
            "content": manifest.read(corpus).content(split),
            "encoder": self.fingerprint,
            "size": self.tower.image_size,
            "views": asdict(views) if views and count else None,
            "count": count,
            "seed": seed if count else None,
            "ids": hashlib.sha256("\n".join(rows.ids).encode()).hexdigest(),
        }
        if corruption:
            foreign = manifest.read(corruption.foreign).content("test") if corruption.foreign else None
            known["corruption"] = [asdict(corruption), foreign]
        name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]
        where = storage.join(self.uri, f"{name}.safetensors")
        if storage.exists(where):
            found = load(storage.read_bytes(where))
        else:
            change = self._change(corruption)
            found = self._encode(corpus, split, rows, views=views, count=count, seed=seed, change=change)
            storage.write_bytes(where, save(found))
        return Features(rows=rows.take(found["places"]), tokens=found["tokens"], pooled=found["pooled"])

    def _change(self, corruption: Corruption | None) -> Change | None:
        """Return what a corruption does to an image and its row's id."""
        if corruption is None:
            return None
        foreign: Sequence[ndarray] = ()
        if corruption.foreign:
            first = set(read_labels(corruption.foreign, "test").ids[:FOREIGN])
            found = read_images(corruption.foreign, "test", first)
            foreign = [decode_image(data, self.tower.image_size) for _, data in found]
        return lambda image, row: corrupt(image, corruption, foreign, key=("few-shot corruption", row))

    def _encode(
        self,
        corpus: str,
        split: str,
        rows: Samples,
        *,
        views: Views | None,
        count: int,
        seed: int,
        change: Change | None,
    ) -> dict[str, ndarray]:
        place = {row: index for index, row in enumerate(rows.ids)}
        places: list[int] = []
        pixels: list[ndarray] = []
        tokens: list[ndarray] = []
        pooled: list[ndarray] = []

        def flush() -> None:
            if pixels:
                found = self._through_tower(np.stack(pixels))
                tokens.append(found[0])
                pooled.append(found[1])
                pixels.clear()

        for row, data in read_images(corpus, split, place):
            try:
                seen = _views(data, self.tower.image_size, views, count=count, key=(seed, "few-shot view", row))
            except ValueError:
                continue  # no image: it is in no support and in no score; `medalign data validate` names it
            if change is not None:
                seen[0] = change(seen[0], row)
            places.append(place[row])
            pixels.append(seen)
            if len(pixels) * (1 + count) >= BATCH:
                flush()
        flush()
        if not places:
            raise CorpusError(f"{corpus}: none of {len(rows.ids)} images of split {split!r} could be decoded.")
        order = np.argsort(np.array(places, dtype=np.int64))
        return {
            "places": np.array(places, dtype=np.int64)[order],
            "tokens": np.concatenate(tokens)[order],
            "pooled": np.concatenate(pooled)[order],
        }

    def _through_tower(self, pixels: ndarray) -> tuple[ndarray, ndarray]:
        """(n, V, 3, S, S) -> (n, V, M, D) float16 and (n, V, D) float32."""
        count, views = pixels.shape[:2]
        with torch.no_grad():
            found = self.tower(torch.from_numpy(pixels).flatten(0, 1))
        tokens = found.tokens.unflatten(0, (count, views)).to(torch.float16).numpy()
        return tokens, found.pooled.unflatten(0, (count, views)).float().numpy()


def read_images(corpus: str, split: str, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield id and encoded image of the rows of a split that are wanted, in the corpus's order."""
    left = len(wanted)
    for batch in read_rows(corpus, split, columns=("id", "image")):
        for row in batch.to_pylist():
            if row["id"] in wanted:
                yield row["id"], row["image"]
                left -= 1
        if not left:
            return


def _views(data: bytes, size: int, views: Views | None, *, count: int, key: tuple[int | str, ...]) -> ndarray:
    seen = [decode_image(data, size)]
    if views and count:
        image = open_image(data)
        seen += [augment(image, size, views, key=(*key, number)).pixels for number in range(count)]
    return np.stack(seen)
