"""Tables of figures: to the terminal, and as the pages of docs/benchmarks.md."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PEERS = ("torch", "numpy", "numba", "scipy", "POT", "geomloss", "ott-jax", "jax", "pygmtools", "pylibmgm", "lap")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table of text cells."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def lines(self) -> list[str]:
        """Return it with padded columns, which is Markdown as well."""
        cells = [self.head, *self.rows]
        width = [max(len(row[column]) for row in cells) for column in range(len(self.head))]
        text = ["| " + " | ".join(cell.ljust(width[k]) for k, cell in enumerate(row)) + " |" for row in cells]
        return [text[0], "|" + "|".join("-" * (size + 2) for size in width) + "|", *text[1:]]


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds with three digits; "-" where there is none."""
    return "-" if math.isnan(seconds) else f"{1e3 * seconds:.3g}"


def environment() -> list[str]:
    """Return where and with what the figures were made."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PEERS)
    return [
        f"{datetime.date.today().isoformat()}, {_processor()}, one pinned core, CPU time, medians of interleaved"
        " rounds.",
        f"Python {platform.python_version()}; {versions}.",
    ]


def write(path: Path, tables: Sequence[Table]) -> None:
    """Replace what lies between the page's two markers by the tables; the words around them stay."""
    page = path.read_text()
    start, end = "<!-- figures -->", "<!-- end of figures -->"
    head, _, rest = page.partition(start)
    _, _, tail = rest.partition(end)
    body = ["\n".join(environment())]
    body += [f"### {table.title}\n\n" + "\n".join(table.lines()) for table in tables]
    path.write_text(head + start + "\n\n" + "\n\n".join(body) + "\n\n" + end + tail)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
