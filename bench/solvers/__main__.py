"""Solvers beside their peers, in one run on one pinned core.

python bench/solvers [--only transport,matching,step] [--problems N] [--rounds N] [--core K] [--write PAGE]

Needs the extra `bench`. Times are CPU time, medians of interleaved rounds; only their ratios travel.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import clock
import page

SECTIONS = ("transport", "matching", "step")


def main() -> None:
    """Run the sections asked for, print their tables and write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--problems", type=int, default=3200, help="optimal transport problems in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"  # read when a section imports its libraries
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    clock.pin(arguments.core)
    tables: list[page.Table] = []
    for section in arguments.only.split(","):
        for table in _section(section, arguments):
            print(f"\n{table.title}", *table.lines(), sep="\n", flush=True)
            tables.append(table)
    print("", *page.environment(), sep="\n")
    if arguments.write:
        page.write(arguments.write, tables)


def _section(name: str, arguments: argparse.Namespace) -> Iterator[page.Table]:
    if name == "transport":
        import transport

        yield from transport.tables(count=arguments.problems, rounds=arguments.rounds)
    elif name == "matching":
        import matching

        yield from matching.tables(rounds=arguments.rounds)
    elif name == "step":
        import step

        yield from step.tables(rounds=arguments.rounds)
    else:
        raise SystemExit(f"--only {name}: the sections are {', '.join(SECTIONS)}.")


if __name__ == "__main__":
    main()
