"""The pictures that are asked about, with what is known of each: blood smears, chest X-rays, and scans with an organ.

No photograph, patient or scan is in two splits.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SMEAR, CHEST, SCAN = "smear", "chest", "scan"
CHESTS = {"train": 100, "val": 30, "test": 60}  # of each class of each hospital, at most
SHARES = {"val": 0.15, "test": 0.25}  # of the scans and of the adults, by hash
PATIENT = r"^(person\d+|(?:NORMAL2-)?IM-\d+|\d{8})"
ORGANS = {"CHEST": "chest", "ABD": "abdomen", "HEAD": "head"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture and its facts.

    Attributes:
        name: unique; what it is known by in predictions.
        path: its file.
        kind: SMEAR, CHEST or SCAN.
        group: the photograph, patient or scan: what is resampled.
        split: "train", "val" or "test".
        facts: what annotations, folders and counts say.
    """

    name: str
    path: Path
    kind: str
    group: str
    split: str
    facts: dict[str, int | str] = field(default_factory=dict)


def list_pictures(data: Path) -> list[Picture]:
    """Return all pictures, in an order that depends on names alone.

    Args:
        data: the folder with `bccd/BCCD` (VOC), `chest_xray_two_sites` and `vqa_rad`.
    """
    found = [*_smears(data / "bccd" / "BCCD"), *_chests(data / "chest_xray_two_sites"), *_scans(data / "vqa_rad")]
    tested = {picture.group for picture in found if picture.split == "test"}
    kept = [picture for picture in found if picture.split == "test" or picture.group not in tested]
    return sorted(kept, key=lambda picture: picture.name)


def share_of(name: str) -> float:
    """Return a number in [0, 1) that is a hash of the name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest()) / 2**56


def _smears(root: Path) -> Iterator[Picture]:
    for split in ("train", "val", "test"):
        for stem in (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
            objects = list(ET.parse(root / "Annotations" / f"{stem}.xml").getroot().iter("object"))
            counts = Counter(each.findtext("name") for each in objects)
            facts: dict[str, int | str] = {"platelets": counts["Platelets"], "red cells": counts["RBC"]}
            if counts["WBC"] == 1:
                box = next(each for each in objects if each.findtext("name") == "WBC").find("bndbox")
                middle = (float(box.findtext("xmin")) + float(box.findtext("xmax"))) / 2  # type: ignore[union-attr, arg-type]
                facts["half"] = "left" if middle < 320 else "right"
            name = f"{SMEAR}/{stem}"
            path = root / "JPEGImages" / f"{stem}.jpg"
            yield Picture(name=name, path=path, kind=SMEAR, group=name, split=split, facts=facts)


def _chests(root: Path) -> Iterator[Picture]:
    found: dict[tuple[str, str, str], list[Picture]] = {}
    for path in sorted(root.rglob("*.jp*g")):
        age = "child" if "site_a" in path.parts else "adult"
        patient = f"{CHEST}/{age}/{re.match(PATIENT, path.name).group(1)}"  # type: ignore[union-attr]
        split = "test" if "test" in path.parts else _drawn(patient, {"val": 0.2} if age == "child" else SHARES)
        facts: dict[str, int | str] = {"pneumonia": path.parent.name, "age": age}
        name = f"{CHEST}/{age}/{path.stem}"
        picture = Picture(name=name, path=path, kind=CHEST, group=patient, split=split, facts=facts)
        found.setdefault((age, path.parent.name, split), []).append(picture)
    for (_, _, split), pictures in found.items():
        yield from sorted(pictures, key=lambda picture: share_of(picture.name))[: CHESTS[split]]


def _scans(root: Path) -> Iterator[Picture]:
    organs = {q["image_name"]: q["image_organ"] for q in json.loads((root / "vqa_rad.json").read_text())}
    for file, organ in organs.items():
        name = f"{SCAN}/{file}"
        facts: dict[str, int | str] = {"organ": ORGANS[organ]}
        yield Picture(
            name=name, path=root / "images" / file, kind=SCAN, group=name, split=_drawn(name, SHARES), facts=facts
        )


def _drawn(group: str, shares: dict[str, float]) -> str:
    place = share_of(group)
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"
