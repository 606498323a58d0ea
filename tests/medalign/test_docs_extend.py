"""The page on objectives of one's own: its code is what a reader would save, and it trains."""

import re
from pathlib import Path

from striped_corpus import write_corpus

from medalign import train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extend.md"


def test_the_page_is_short():
    assert len(PAGE.read_text().splitlines()) <= 40


def test_the_objective_of_the_page_trains_under_its_own_name(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S).group(1)
    (tmp_path / "invariance.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    corpus = write_corpus(tmp_path / "stripes", {"train": 32, "val": 16})
    result = train(
        "lvm_med/tiny_cpu",
        [
            f"data.corpus={corpus}",
            f"run.uri={tmp_path}/run",
            "objective={type: invariance:Invariance}",
            "train.best=-pull",
            "train.workers=0",
            "train.micro_batch=16",
            "train.global_batch=16",
            "train.steps=2",
            "train.validate_every=2",
            "data.image_size=32",
        ],
    )
    assert result.step == 2
    assert result.best == -result.last["validation"]["pull"] < 0
    assert result.last["train"]["collapse"] >= 0
