"""The door test: where a third party may be imported; import-linter cannot tell ray.data from ray.train."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = ROOT / "platform" / "medalign"
DOORS = {
    "ray.data": (PLATFORM / "data",),
    "ray.train": (PLATFORM / "launch",),
    "ray.tune": (PLATFORM / "tune",),
    "deepspeed": (PLATFORM / "training" / "engine.py",),
}
JOBS_MAY_IMPORT = {"medalign", "medalign_core"} | set(sys.stdlib_module_names)


def main() -> int:
    """Print what is wrong and return the number of faults."""
    faults = [*_wrong_doors(), *_wrong_jobs(), *_packages_that_shadow()]
    for fault in faults:
        print(fault)  # noqa: T201
    return len(faults)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of every import of a file that is not only for type checkers."""
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _wrong_doors() -> Iterator[str]:
    for path in sorted([*PLATFORM.rglob("*.py"), *(ROOT / "medalign_core").rglob("*.py")]):
        for module, line in imports(path):
            for name, doors in DOORS.items():
                behind = module == name or module.startswith(f"{name}.")
                if behind and not any(path.is_relative_to(door) for door in doors):
                    yield f"{path.relative_to(ROOT)}:{line}: imports {module}; the door is {doors[0].relative_to(ROOT)}"


def _wrong_jobs() -> Iterator[str]:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        if len(path.read_text().splitlines()) > 40:
            yield f"{path.relative_to(ROOT)}: more than 40 lines"
        for module, line in imports(path):
            if module.partition(".")[0] not in JOBS_MAY_IMPORT:
                yield f"{path.relative_to(ROOT)}:{line}: a job imports {module}; jobs import medalign only"


def _packages_that_shadow() -> Iterator[str]:
    if (ROOT / "platform" / "__init__.py").exists():
        yield "platform/__init__.py: shadows the standard library's module on every worker; remove it"
    for path in (ROOT / "tests").rglob("__init__.py"):
        yield f"{path.relative_to(ROOT)}: tests are no package; remove it"


if __name__ == "__main__":
    sys.exit(min(main(), 1))
