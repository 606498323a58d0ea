"""What the commands print: results as tables that fit 80 columns on a terminal, and never fold elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from medalign.banks import Bank, Findings
    from medalign.banks.generate import Generated
    from medalign.data.chat import Checked
    from medalign.data.show import Summary
    from medalign.data.shuffle_quality import Quality
    from medalign.data.validate import Report
    from medalign.evaluation.embed import EmbedResult
    from medalign.evaluation.result import EvaluationResult, Score
    from medalign.launch import TrainResult
    from medalign.plan import RunPlan
    from medalign.recipe import Recipe

T = TypeVar("T")
UNFOLDED = 10_000  # columns of what is no terminal: whatever reads it wants whole lines
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_f1": "macro-F1", "auroc": "AUROC"}


def show_note(text: str) -> None:
    """Print to stderr what a user should know and did not ask for."""
    _console(sys.stderr).print(f"note: {text}")


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = _table(*head)
    for row in rows:
        table.add_row(*row)
    _show(table)


def show_line(text: str) -> None:
    """Print a line."""
    _line(text)


def show_corpus(corpus: Summary, *, whole: bool = False) -> None:
    """Print a corpus: splits and classes, and with `whole` also its columns and origin."""
    table = _table("split", "rows", "groups", "shards", "size")
    for name, split in _in_order(corpus.splits).items():
        table.add_row(name, f"{split.rows:,}", f"{split.groups:,}", f"{split.shards:,}", _size(split.bytes))
    _show(table)
    if whole:
        _show(_class_table(corpus))
        _show(_pairs(corpus.columns))
        origin = {f"source {key}": value for key, value in corpus.source.items()}
        steps = {"transforms": "\n".join(corpus.transforms)}
        _show(_pairs({"schema": corpus.schema, "licence": corpus.licence, **origin, **steps}))
    if corpus.quarantined:
        _line(f"{corpus.quarantined:,} images quarantined; the manifest names each, with the reason.")
    if corpus.contact_sheet:
        _line(f"contact sheet: {corpus.contact_sheet}")
    _line(f"{corpus.rows:,} rows, {len(corpus.classes)} classes: {corpus.uri}")


def show_order(measured: Sequence[Quality]) -> None:
    """Print how well the training split is shuffled, a line for each `data.shuffle_rows`."""
    table = _table("data.shuffle_rows", "displacement", "parting", "row groups in a micro-batch", "if uniform")
    for found in measured:
        shares = (f"{found.displacement:.3f}", f"{found.parting:.3f}")
        table.add_row(f"{found.shuffle_rows:,}", *shares, f"{found.row_groups:.1f}", f"{found.uniform_row_groups:.1f}")
    _show(table)
    _line("displacement and parting: shares of all rows that a row travels, and that neighbours part; uniform is 0.333")


def show_problems(report: Report) -> None:
    """Print what a validation found, a problem per line."""
    for problem in report.problems:
        _line(f"- {problem}")
    for note in report.notes:
        _line(f"note: {note}")
    verdict = "valid" if report.is_valid else f"{len(report.problems)} problems"
    copies = f", {report.duplicates:,} duplicates within a split" if report.duplicates else ""
    _line(f"{report.rows:,} rows in {report.shards:,} shards read{copies}: {verdict}: {report.uri}")


def show_lengths(found: Mapping[str, Checked], *, max_length: int) -> None:
    """Print how long the conversations of each split are, and how many of them a limit cuts."""
    table = _table("split", "conversations", "longest", f"cut at {max_length:,}")
    for name, split in _in_order(found).items():
        table.add_row(name, f"{split.samples:,}", f"{split.longest:,}", f"{split.cut:,}")
    _show(table)


def show_plan(recipe: Recipe, plan: RunPlan) -> None:
    """Print the resolved recipe, then what it means for its corpus."""
    from medalign import config

    _line(config.dump_yaml(config.resolve(recipe)))
    _show(_pairs(plan.describe()))


def show_end(result: TrainResult, *, best: str) -> None:
    """Print how a run ended; the last line holds the steps and the run's URI.

    Args:
        result: of the run.
        best: the figure that named its best checkpoint, as the recipe has it: a leading minus means lower is better.
    """
    if result.best is not None:
        _line(f"best {best.removeprefix('-')}: {-result.best if best.startswith('-') else result.best:.4g}")
    if result.skipped:
        _line(f"{result.skipped:,} steps skipped: their loss or gradient was not finite")
    rest = "" if result.step >= result.total_steps else " (the same command goes on from there)"
    _line(f"{result.step:,} of {result.total_steps:,} steps done{rest}: {result.uri}")


def show_scores(result: EvaluationResult) -> None:
    """Print an evaluation: every score with its interval beneath, the comparisons, what to know about them."""
    table = _table("head", "encoder", "seed", *METRICS.values(), left=2)
    for score in sorted(result.scores, key=lambda score: score.head != "logistic"):
        cells = (_cell(score, metric) for metric in METRICS)
        table.add_row(score.head, score.method, str(score.seed), *cells)
    _show(table)
    if result.comparisons:
        _show(_comparison_table(result))
    for note in result.notes:
        _words(f"note: {note}")
    groups, images = result.groups.get("test", 0), result.rows.get("test", 0)
    _words(f"{result.level:.0%} intervals; {images:,} test images of {groups:,} groups")
    _line(result.uri)


def show_features(result: EmbedResult) -> None:
    """Print where features went."""
    table = _table("split", "rows", "files")
    for name, files in _in_order(result.splits).items():
        table.add_row(name, f"{sum(file.rows for file in files):,}", f"{len(files):,}")
    _show(table)
    _line(f"{result.feature_size:,} features of each image at {result.image_size} px: {result.uri}")


@contextlib.contextmanager
def bank_progress() -> Iterator[Callable[[int, int, str, str], None]]:
    """Show on stderr how the writing of a bank goes: a bar on a terminal, elsewhere a line for each class."""
    console = _console(sys.stderr)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal or console.is_dumb_terminal)
    task = bar.add_task("asking", total=None)

    def advance(done: int, total: int, name: str, problem: str) -> None:
        bar.update(task, completed=done, total=total)
        if bar.disable or problem:
            bar.console.print(f"{done}/{total} {name}: {problem or 'answered'}", soft_wrap=True)

    with bar:
        yield advance


def show_generated(result: Generated) -> None:
    """Print what came of writing a bank; the last line holds its URI, or where the answers are."""
    for name, problem in result.quarantined.items():
        _line(f"- {name}: {problem}")
    asked = f"{result.requests:,} answers asked for"
    if result.bank is not None:
        count = sum(map(len, result.bank.classes.values()))
        _line(f"{len(result.bank.classes):,} classes, {count:,} sentences, {asked}: {result.uri}")
        return
    without = f"{len(result.quarantined):,} classes have no answer that can be used, so no bank is written"
    _line(f"{without} ({asked}); --ask-again asks about them once more: {result.answers}")


def show_bank(bank: Bank, *, uri: str) -> None:
    """Print a bank: its origin, then each class with its sentences."""
    origin = {key: value for key, value in asdict(bank.provenance).items() if value not in (None, "")}
    reviewer = bank.provenance.reviewer or "nobody"
    _show(_pairs({"name": bank.name, "template": bank.template, **origin, "reviewer": reviewer}))
    for name, sentences in bank.classes.items():
        display = bank.display(name)
        _line(name if display == name else f"{name} ({display})")
        for sentence in sentences:
            _words(f"  - {sentence}")
    _line(f"\n{len(bank.classes):,} classes, {sum(map(len, bank.classes.values())):,} sentences: {uri}")


def show_findings(bank: Bank, findings: Findings, *, uri: str) -> None:
    """Print what the check of a bank found, a problem per line."""
    for problem in findings.problems:
        _line(f"- {problem}")
    for note in findings.notes:
        _line(f"note: {note}")
    verdict = f"{len(findings.problems)} problems" if findings.problems else "valid"
    count = sum(map(len, bank.classes.values()))
    _line(f"{len(bank.classes):,} classes, {count:,} sentences: {verdict}: {uri}")


def _class_table(corpus: Summary) -> Table:
    splits = _in_order(corpus.splits)
    table = _table("class", *splits)
    for label in corpus.classes:
        table.add_row(label, *(f"{split.classes.get(label, 0):,}" for split in splits.values()))
    return table


def _comparison_table(result: EvaluationResult) -> Table:
    table = _table(METRICS[result.comparisons[0].metric], "head", "difference", "p", "verdict", left=2)
    for c in sorted(result.comparisons, key=lambda c: c.role != "primary"):
        mark = "\n(primary)" if c.role == "primary" else ""
        spread = f"{c.difference.estimate:+.3f}\n{c.difference.low:+.2f} to {c.difference.high:+.2f}"
        p_value = f"{c.adjusted:.3f}" if c.adjusted >= 0.001 else "< 0.001"
        table.add_row(f"{c.method} - {c.against}{mark}", c.head, spread, p_value, c.verdict)
    return table


def _cell(score: Score, metric: str) -> str:
    found = score.metrics[metric]
    if not math.isfinite(found.estimate):
        return "undefined"
    spread = f"{_short(found.low)}-{_short(found.high)}" if math.isfinite(found.low) else "no interval"
    return f"{found.estimate:.3f}\n{spread}"


def _short(share: float) -> str:
    return f"{share:.2f}".removeprefix("0")


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table


def _pairs(values: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return table


def _in_order(splits: Mapping[str, T]) -> dict[str, T]:
    """Return splits as people name them: train, val, test, then others."""
    known = ("train", "val", "test")
    return {name: splits[name] for name in (*known, *sorted(splits)) if name in splits}


def _show(table: Table) -> None:
    """Print a table and an empty line; elsewhere than on a terminal without the blanks that fill its last column."""
    if sys.stdout.isatty():
        _console().print(table, end="\n\n")
        return
    console = _console()
    with console.capture() as captured:
        console.print(table)
    _line("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def _line(text: str) -> None:
    """Print words; what a user copies, a path or a URI, is never broken."""
    _console().print(text, soft_wrap=True)


def _words(text: str) -> None:
    """Print a sentence, which a terminal may break between words."""
    _console().print(text)


def _console(file: TextIO | None = None) -> Console:
    file = file or sys.stdout
    width = None if file.isatty() else UNFOLDED
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
