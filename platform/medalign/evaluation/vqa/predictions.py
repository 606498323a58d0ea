"""Stored predictions: one text per question, model, seed and decoding, as Parquet or JSONL, with complete ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medalign import storage
from medalign.errors import UserError

SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),  # "" for a failure
        pa.field("model", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("decoding", pa.string(), nullable=False),
    ]
)
GREEDY, CANDIDATES, BLANK, SHUFFLED = "greedy", "candidates", "blank image", "shuffled image"
SUFFIXES = (".parquet", ".jsonl")
NAMED = 3
# other systems' spellings of the columns: LLaVA's answer files have these
_ALIASES = {"question_id": ("question_id",), "prediction": ("prediction", "text"), "model": ("model", "model_id")}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one model says of the questions of a split.

    Attributes:
        model: its name.
        seed: of its training; 0 where it has none.
        decoding: "greedy" for free text; "candidates" for the likeliest option; "blank image" and "shuffled image"
            are free text about another image than the question's.
        texts: question id -> answer; "" is a failure, which counts as wrong.
    """

    model: str
    seed: int = 0
    decoding: str = GREEDY
    texts: dict[str, str]

    @property
    def failures(self) -> int:
        """How many questions have no answer."""
        return sum(not text.strip() for text in self.texts.values())


def read_predictions(uri: str) -> tuple[Predictions, ...]:
    """Read the predictions of a file: a record per question, with `question_id` and `prediction`.

    `model`, `seed` and `decoding` may be there; they are the file's name, 0 and "greedy" otherwise. `text` and
    `model_id`, as LLaVA writes them, are taken for `prediction` and `model`. A null is a failure.

    Raises:
        UserError: no such file, another suffix, malformed, a column that is missing, or an id that occurs twice.
    """
    if not uri.endswith(SUFFIXES):
        raise UserError(f"{uri}: predictions are .jsonl (an object per line) or .parquet.")
    if not storage.exists(uri):
        raise UserError(f"{uri}: no such file.")
    data = storage.read_bytes(uri)
    records = _from_parquet(data, uri) if uri.endswith(".parquet") else _from_lines(data, uri)
    stem = uri.rpartition("/")[2].rpartition(".")[0]
    found: dict[tuple[str, int, str], dict[str, str]] = {}
    for number, record in enumerate(records, 1):
        key, name, text = _record(record, where=f"{uri}: record {number}", stem=stem)
        texts = found.setdefault(key, {})
        if name in texts:
            raise UserError(f"{uri}: record {number}: the question id {name!r} occurs twice for model {key[0]!r}.")
        texts[name] = text
    if not found:
        raise UserError(f"{uri}: no predictions in it.")
    return tuple(Predictions(model=m, seed=s, decoding=d, texts=texts) for (m, s, d), texts in found.items())


def write_predictions(uri: str, predictions: Iterable[Predictions]) -> None:
    """Write predictions as `read_predictions` reads them; the suffix says how.

    Raises:
        UserError: a suffix other than .parquet and .jsonl.
        StorageError: the place cannot be written.
    """
    if not uri.endswith(SUFFIXES):
        raise UserError(f"{uri}: predictions are .jsonl (an object per line) or .parquet.")
    rows = [
        {
            "question_id": name,
            "prediction": text,
            "model": each.model,
            "seed": each.seed,
            "decoding": each.decoding,
        }
        for each in predictions
        for name, text in each.texts.items()
    ]
    if uri.endswith(".jsonl"):
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="replace")
    else:
        sink = BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
        data = sink.getvalue()
    storage.write_bytes(uri, data)


def check_complete(predictions: Predictions, ids: Sequence[str], *, where: str) -> None:
    """Check that there is one prediction for each question and no other.

    Raises:
        UserError: ids that are missing or surplus; the first ones are named.
    """
    wanted, given = set(ids), set(predictions.texts)
    for kind, lot in (("have no prediction", wanted - given), ("are predicted that are none", given - wanted)):
        if lot:
            shown = ", ".join(sorted(lot)[:NAMED]) + (", ..." if len(lot) > NAMED else "")
            raise UserError(
                f"{where}: model {predictions.model!r}, seed {predictions.seed}: {len(lot):,} of {len(wanted):,}"
                f' questions {kind} ({shown}); give every question of the split once, "" for a failure.'
            )


def _from_parquet(data: bytes, uri: str) -> list[dict[str, Any]]:
    try:
        return pq.read_table(BytesIO(data)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{uri}: not a Parquet file that can be read ({str(error)[:120]}).") from error


def _from_lines(data: bytes, uri: str) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{uri}: line {number}: not JSON ({str(error)[:120]}).") from error
        if not isinstance(record, dict):
            raise UserError(f"{uri}: line {number}: not an object.")
        found.append(record)
    return found


def _record(record: dict[str, Any], *, where: str, stem: str) -> tuple[tuple[str, int, str], str, str]:
    """Return ((model, seed, decoding), question id, text) of a record."""
    values: dict[str, Any] = {}
    for column, names in _ALIASES.items():
        present = [name for name in names if name in record]
        if present:
            values[column] = record[present[0]]
        elif column != "model":
            raise UserError(f"{where}: no {column!r}; it has: {', '.join(map(str, record)) or 'nothing'}.")
    name, text, seed = values["question_id"], values["prediction"], record.get("seed", 0)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError(f"{where}: question_id must be text or a whole number.")
    if isinstance(text, bool) or not (text is None or isinstance(text, str | int | float)):
        raise UserError(f"{where}: the prediction must be text, or null for a failure.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"{where}: seed must be a whole number, got {seed!r}.")
    key = (str(values.get("model") or stem), seed, str(record.get("decoding") or GREEDY))
    return key, str(name), "" if text is None else str(text)
