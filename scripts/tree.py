"""The README's tree: every source file with the first words of its own docstring, so that it cannot grow stale.

python scripts/tree.py           print it
python scripts/tree.py --write   put it into README.md between its two marks
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("medalign_core", "platform/medalign", "jobs", "cluster", "bench", "scripts")
BEGIN, END = "<!-- tree -->\n```\n", "```\n<!-- /tree -->"
WIDTH = 110


def main() -> int:
    """Print the tree, or write it."""
    if "--write" in sys.argv[1:]:
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        readme.write_text(f"{before}{BEGIN}{tree()}{END}{after}")
        return 0
    print(tree(), end="")  # noqa: T201
    return 0


def tree() -> str:
    """Return the tree, one line per folder and file."""
    return "".join(line for folder in FOLDERS for line in _folder(ROOT / folder, folder, 0))


def _folder(path: Path, name: str, depth: int) -> list[str]:
    own = path / "__init__.py"
    lines = [_line(f"{name}/", _first_words(own) if own.exists() else "", depth)]
    for entry in sorted(path.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        if entry.is_dir() and entry.name != "__pycache__":
            lines += _folder(entry, entry.name, depth + 1)
        elif entry.is_file() and entry.name != "__init__.py" and not entry.name.startswith("."):
            lines.append(_line(entry.name, _first_words(entry), depth + 1))
    return lines


def _line(name: str, words: str, depth: int) -> str:
    start = f"{'  ' * depth}{name}".ljust(30) + " "
    room = WIDTH - len(start)
    if len(words) > room:  # end with a clause, or else with a word
        clauses = [words[: m.start()] for m in re.finditer(r"[,;:] | -> ", words[: room + 2]) if m.start() > room // 3]
        whole = [clause for clause in clauses if clause.count("(") == clause.count(")")]
        words = whole[-1] if whole else words[: room - 4].rsplit(" ", 1)[0] + " ..."
    return f"{start}{words}".rstrip() + "\n"


def _first_words(path: Path) -> str:
    """Return the first sentence that a file says of itself: its docstring, or its first comment."""
    text = path.read_text()
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = next((m.group(1) for m in re.finditer(r"^(?:#|\{#|/\*)\s*([^!\s].*?)(?:#\}|\*/)?$", text, re.M)), "")
    return re.split(r"(?<=\.)\s(?=[A-Z])|\n", said.strip(), maxsplit=1)[0].rstrip(".;:")


if __name__ == "__main__":
    sys.exit(main())
