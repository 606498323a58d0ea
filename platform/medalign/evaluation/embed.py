"""embed(run): the features of every image of a corpus, to Parquet, through a pool of encoders on Ray Data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from medalign import storage
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.data import manifest as manifests
from medalign.data.transform import MappedFile, Mapping, map_corpus
from medalign.errors import StorageError
from medalign.evaluation.extract import features
from medalign.evaluation.source import image_size as find_image_size

SCHEMA_VERSION = "medalign.features/1"
FILE_NAME = "features.json"
COLUMN = "feature"


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """The features of a corpus: files per split, in the corpus's order, with columns id, group, label and feature.

    Attributes:
        uri: the folder.
        encoder: the run or directory the encoder came from.
        checkpoint: "best" or "latest"; a plain directory has but one state.
        corpus: the corpus's URI.
        fingerprint: of the corpus.
        image_size: height and width the images were decoded to.
        feature_size: D.
        splits: the files of each split.
    """

    uri: str
    encoder: str
    checkpoint: str
    corpus: str
    fingerprint: str
    image_size: int
    feature_size: int
    splits: dict[str, tuple[MappedFile, ...]]
    schema: str = SCHEMA_VERSION

    def dumps(self) -> str:
        """Return the result as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


class Embedder:
    """An encoder within an actor, on a GPU where the actor has one."""

    def __init__(self, source: str, checkpoint: Literal["best", "latest"]) -> None:
        self.encoder = open_encoder(source, checkpoint=checkpoint).eval()
        self.encoder.to("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, images: UInt8[ndarray, "B 3 S S"]) -> dict[str, Float[ndarray, "B D"]]:
        """Return the pooled features."""
        return {COLUMN: features(self.encoder, images)}


def embed(
    source: str,
    *,
    corpus: str,
    out: str,
    checkpoint: Literal["best", "latest"] = "best",
    image_size: int | None = None,
    splits: Sequence[str] | None = None,
    actors: int | None = None,
) -> EmbedResult:
    """Write the features of every image of a corpus to `<out>/<split>/part-*.parquet`, and `features.json` last.

    Args:
        source: a run's URI, or a directory that transformers can load.
        corpus: the corpus's URI.
        out: URI of the result; it must not hold anything yet.
        checkpoint: "best" or "latest", of a run.
        image_size: height and width to decode to; what the encoder was made for if None.
        splits: which splits; all if None.
        actors: how many encoders; one per GPU, or one where there is none, if None.

    Raises:
        RunError: no run and no model there.
        CorpusError: no such corpus or split.
        StorageError: `out` is taken, or a place cannot be reached.
    """
    manifest = manifests.read(corpus)
    chosen = tuple(splits) if splits is not None else tuple(sorted(manifest.splits))
    for name in chosen:
        manifest.split(name)
    out, corpus, source = storage.absolute(out), storage.absolute(corpus), storage.absolute(source)
    if taken := storage.list_files(out):
        raise StorageError(f"{out}: holds {len(taken)} files already; choose another place or delete it.")
    encoder = open_encoder(source, checkpoint=checkpoint)  # what is wrong shows here and not in an actor
    size = image_size or find_image_size(source)
    mapping = Mapping(mapper=Embedder, arguments={"source": source, "checkpoint": checkpoint}, size=size, actors=actors)
    try:
        files = {name: map_corpus(corpus, name, mapping, out=out) for name in chosen}
    except BaseException:
        storage.delete_folder(out)
        raise
    result = EmbedResult(
        uri=out,
        encoder=source,
        checkpoint=checkpoint,
        corpus=corpus,
        fingerprint=manifest.fingerprint,
        image_size=size,
        feature_size=encoder.feature_size,
        splits=files,
    )
    storage.write_bytes(storage.join(out, FILE_NAME), result.dumps().encode())
    return result
