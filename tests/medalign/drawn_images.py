"""Small pictures drawn by the tests: smooth, all different, as files of every kind a corpus must take or refuse."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PHI = "CANARY^JANE"  # planted where a name could stand; must never come out


def pixels(seed: int, *, size: tuple[int, int] = (24, 20), channels: int = 1) -> np.ndarray:
    """Return (H, W) or (H, W, 3) uint8: a few waves, smooth enough to survive JPEG."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = []
    for _ in range(channels):
        across, down, phase = draw.uniform(0.05, 0.4, 3)
        waves.append(127.5 * (1 + np.sin(across * columns + down * rows + 20 * phase)))
    stacked = np.stack(waves, axis=-1).astype(np.uint8)
    return stacked[..., 0] if channels == 1 else stacked


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **settings: object) -> bytes:
    """Return a picture as a file."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **settings)
    return stream.getvalue()


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """Return a PNG of a few bytes whose header promises 2.5 thousand million pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def write_folder(root: Path, *, per_class: int = 12, patients: int = 4) -> Path:
    """Write class folders `cyst` and `normal` of PNG and JPEG files named after a patient and a number."""
    for label, shift in (("cyst", 0), ("normal", 1000)):
        folder = root / label
        folder.mkdir(parents=True)
        for number in range(per_class):
            colour = 3 if number % 3 == 0 else 1
            kind, suffix = ("JPEG", "jpg") if number % 2 else ("PNG", "png")
            data = encoded(pixels(shift + number, channels=colour), kind)
            (folder / f"{label}_p{number % patients}_{number:03d}.{suffix}").write_bytes(data)
    return root
