"""A small few-shot comparison: a random CLIP, drawn images of four classes, a bank, and a recipe over them."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from saved_dual_encoders import save_clip

from medalign import config
from medalign.data import manifest, shards
from medalign.few_shot import FewShot

CLASSES = ("cat", "dog", "of", "photo")  # words that the small tokenizer knows
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 40]])


def write_classes(
    at: Path, counts: dict[str, int], *, classes=CLASSES, broken: str | None = None, shift: int = 0
) -> str:
    """Write a corpus of coloured noise, `counts` images of each class in each split; the row `broken` is no image."""
    found = {}
    for split, count in counts.items():
        draw = np.random.default_rng([len(split), count, shift])
        rows = []
        for number in range(count * len(classes)):
            label = number % len(classes)
            pixels = draw.normal(COLOURS[label] + shift, 25, size=(32, 32, 3)).clip(0, 255).astype(np.uint8)
            sink = BytesIO()
            Image.fromarray(pixels).save(sink, "PNG")
            row = f"{split}-{number}"
            known = {"id": row, "label": classes[label], "group": f"{split}-{number // 2}", "pixels": row}
            image = b"broken" if row == broken else sink.getvalue()
            rows.append({**known, "width": 32, "height": 32, "image": image})
        table = pa.Table.from_pylist(rows, schema=manifest.COLUMNS)
        shard = shards.write(str(at), shards.name(split, 0), table, row_group_rows=8)
        found[split] = manifest.Split(
            rows=len(rows), groups=len(rows) // 2, classes=dict.fromkeys(classes, count), shards=(shard,)
        )
    manifest.write(
        str(at), manifest.Manifest(name=at.name, splits=found, classes=tuple(classes), fingerprint=f"{shift:064d}")
    )
    return str(at)


def write_bank(at: Path, *, classes=CLASSES, sentences=("a photo", "of a {}")) -> str:
    """Write a bank of short sentences."""
    provenance = {"author": "the tests", "kind": "people", "date": "2024-01-01"}
    texts = {name: [sentence.format(name) for sentence in sentences] for name in classes}
    raw = {"version": "medalign.bank/1", "name": "small", "template": "photo of a {}", "classes": texts}
    at.write_text(json.dumps({**raw, "provenance": provenance}))
    return str(at)


def write_recipe(folder: Path, **changes) -> dict:
    """Write corpus, bank and encoder below a folder; return the recipe as a document."""
    corpus = write_classes(folder / "corpus", {"train": 12, "test": 6})
    save_clip(folder / "clip")
    methods = {"zero_shot": {"settings": {"type": "zero_shot"}}, "linear_probe": {"settings": {"type": "linear_probe"}}}
    return {
        "out": str(folder / "out"),
        "tasks": {"colours": {"train": corpus, "tests": {"colours": corpus}, "bank": write_bank(folder / "bank.json")}},
        "methods": methods,
        "primary": {"method": "linear_probe", "against": "zero_shot", "shots": 2},
        "encoder": {"type": "clip", "source": str(folder / "clip")},
        "shots": [1, 2],
        "seeds": [0, 1],
        "view_count": 2,
        "replicates": 50,
        "workers": 0,
    } | changes


def built(document: dict) -> FewShot:
    """Return the recipe of a document, read as a file of YAML is."""
    at = Path(document["out"]).with_suffix(".yaml")
    at.write_text(json.dumps(document))
    return config.build(FewShot, config.load(str(at), []))
