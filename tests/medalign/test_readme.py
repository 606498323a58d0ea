"""The README is true: its tree is the tree, its links lead somewhere, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tree_in_the_readme_is_the_tree_of_the_sources():
    tree = subprocess.run([sys.executable, ROOT / "scripts" / "tree.py"], capture_output=True, text=True, check=True)
    assert tree.stdout in (ROOT / "README.md").read_text(), "run `python scripts/tree.py --write`"


def test_the_tree_names_every_source_file():
    block = (ROOT / "README.md").read_text().partition("<!-- tree -->")[2].partition("<!-- /tree -->")[0]
    named = [line.split()[0] for line in block.splitlines() if line.split()]
    for folder in ("medalign_core", "platform", "jobs", "cluster", "bench", "scripts"):
        files = [f.name for f in (ROOT / folder).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        assert files, folder
        for name in {name for name in files if name != "__init__.py"}:
            assert named.count(name) >= files.count(name), f"{folder}: {name} is missing from the README's tree"


def test_links_of_the_readme_and_the_docs_lead_to_files():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_that_the_pages_name_exist():
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)\b(?=[`\s])", page.read_text())
        assert {name for name in named if f"`make {name}" in page.read_text()} <= rules
