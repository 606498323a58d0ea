"""A page of extended answers beside the original ones and their images, to be accepted or rejected by somebody."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from medalign import storage
from medalign.data import manifest as manifests
from medalign.data.decode import open_image
from medalign.data.reader import read_rows
from medalign.errors import CorpusError, UserError
from medalign.extended_answers.merge import FILE_NAME, TRAIN
from medalign.extended_answers.records import Record, load
from medalign_core.ops.draws import draw_seed

THUMBNAIL = 192
_STYLE = """body{font:15px/1.4 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
article{display:grid;grid-template-columns:12rem 1fr;gap:1rem;border-top:1px solid #999;padding:1rem 0}
img{max-width:12rem}dt{color:#666}dd{margin:0 0 .5rem}label{margin-right:1rem}"""
_SCRIPT = """document.getElementById('save').onclick=()=>{
const found=[...document.querySelectorAll('article')].map(a=>({id:a.dataset.id,turn:Number(a.dataset.turn),
verdict:(a.querySelector('input:checked')||{value:''}).value,reviewer:document.getElementById('who').value}))
.filter(each=>each.verdict);
const link=document.createElement('a');
link.href=URL.createObjectURL(new Blob([JSON.stringify(found,null,1)],{type:'application/json'}));
link.download='decisions.json';link.click()};"""


def write_page(corpus: str, out: str, *, samples: int = 40, seed: int = 0) -> int:
    """Write a self-contained page of a seeded sample of an extended corpus's answers; return how many it shows.

    A button saves what was decided as `decisions.json`, which `read_decisions` reads.

    Args:
        corpus: URI of an extended corpus.
        out: of the page.
        samples: answers, quarantined ones included.
        seed: another seed draws others.

    Raises:
        CorpusError: the corpus has no extended answers.
        UserError: fewer than one sample.
    """
    if samples < 1:
        raise UserError(f"samples must be >= 1, got {samples}.")
    known = load(storage.join(corpus, FILE_NAME)) if manifests.exists(corpus) else None
    if not known:
        raise CorpusError(f"{corpus}: no extended answers here ({FILE_NAME}); make them with `medalign data extend`.")
    draws = np.random.Generator(np.random.Philox(key=draw_seed(seed, "review")))
    chosen = [known[n] for n in sorted(draws.permutation(len(known))[:samples].tolist())]
    rows = _rows(corpus, {record.id for record in chosen})
    parts = "".join(_article(record, rows[record.id]) for record in chosen)
    title = html.escape(f"Extended answers of {manifests.read(corpus).name}")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{len(chosen)} of {len(known):,} answers. Reviewer: "
        f'<input id="who"> <button id="save">Save decisions</button></p>{parts}<script>{_SCRIPT}</script></html>\n'
    )
    storage.write_bytes(storage.absolute(out), page.encode("utf-8", errors="replace"))
    return len(chosen)


def read_decisions(uri: str) -> tuple[tuple[str, int], ...]:
    """Return (row id, turn) of the answers that a review rejected.

    Raises:
        UserError: not a file that the page saved.
    """
    try:
        raw = json.loads(storage.read_bytes(uri))
        if any(each["verdict"] not in ("accept", "reject") for each in raw):
            raise ValueError("a verdict other than accept and reject")
        return tuple((str(each["id"]), int(each["turn"])) for each in raw if each["verdict"] == "reject")
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{uri}: not decisions that the page of `medalign data review` saved ({error}).") from error


def _rows(corpus: str, names: set[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for batch in read_rows(corpus, TRAIN, ("id", "image", "conversations")):
        found |= {row["id"]: row for row in batch.to_pylist() if row["id"] in names}
    return found


def _article(record: Record, row: dict[str, Any]) -> str:
    question, answer = (row["conversations"][2 * record.turn + k]["value"] for k in (0, 1))
    said = record.text or f"quarantined: {record.problem}. It wrote: {record.last}"
    facts: Sequence[tuple[str, str]] = (
        ("question", question),
        ("answer", answer),
        ("extended", said),
        ("by", f"{record.model}, {record.date}, after {record.answers} answer(s)"),
    )
    described = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts)
    name = html.escape(f"{record.id}-{record.turn}")
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"> {value}</label>' for value in ("accept", "reject")
    )
    place = f'data-id="{html.escape(record.id)}" data-turn="{record.turn}"'
    verdict = choices if record.text else ""
    return f"<article {place}>{_picture(row['image'])}<div><dl>{described}</dl>{verdict}</div></article>"


def _picture(data: bytes) -> str:
    try:
        image = open_image(data)
    except ValueError:
        return "<p>an image that cannot be read</p>"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}">'
