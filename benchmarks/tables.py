"""A run on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .figures import Answer, Measure, Promise, Row, Run

SURVIVES: dict[Promise, str] = {"none": "–", "memory": "nothing", "process": "a kill", "disk": "a power cut"}
_COLUMNS = ("what", "survives", "sealed", "calls", "p50", "p99", "p99.9", "longest", "× floor", "× ours p50", "p99")


def show(run: Run, console: Console) -> None:
    """Print a run: every row, what was left out, and what follows."""
    machine = run.machine
    console.print(
        f"{machine.processor}, {machine.cores} cores, {machine.memory_mb} MB, {machine.file_system},"
        f" Python {machine.python}, SQLite {machine.sqlite}, load {machine.load[0]:.1f}; {run.size} run"
    )
    for name, answer in run.answers.items():
        console.print(f"\n[bold]{name}[/bold] ({run.seconds[name]:g} s)")
        _show(answer, console)


def _show(answer: Answer, console: Console) -> None:
    for condition, rows in by_condition(answer.rows):
        console.print(_times(condition, rows))
    if answer.measures:
        console.print(_measures(answer.measures))
    for skipped in answer.skipped:
        console.print(f"left out: {skipped.subject}: {skipped.reason}", markup=False)
    for conclusion in answer.conclusions:
        console.print(f"· {conclusion.text}", markup=False)


def by_condition(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that were timed together, in the order in which they were."""
    groups: list[tuple[str, list[Row]]] = []
    for row in rows:
        if not groups or groups[-1][0] != row.condition or any(r.subject == row.subject for r in groups[-1][1]):
            groups.append((row.condition, []))
        groups[-1][1].append(row)
    return groups


def _times(condition: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{condition}: microseconds a call", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in _COLUMNS[:3] else "right", no_wrap=True)
    for row in rows:
        ratio = "" if row.floor_ratio is None else f"{row.floor_ratio:g}"
        figures = (f"{value:,.0f}" for value in (row.p50, row.p99, row.p999, row.max))
        sealed = "yes" if row.sealed else "no"
        table.add_row(
            row.subject, SURVIVES[row.promise], sealed, f"{row.calls:,}", *figures, ratio, *_beside(row, rows)
        )
    return table


def _beside(row: Row, rows: Sequence[Row]) -> tuple[str, str]:
    """How many times as long as ours it takes."""
    ours = next((one for one in rows if one.subject == row.versus), None)
    ratio = None if ours is None else ours.against.get(row.subject)
    return ("", "") if ratio is None else (f"{ratio.p50:g}", f"{ratio.p99:g}")


def _measures(measures: Sequence[Measure]) -> Table:
    table = Table(title="Figures", title_justify="left")
    for column in ("what", "when", "figure", "unit", "of the floor"):
        table.add_column(column, justify="right" if column in ("figure", "of the floor") else "left")
    for one in measures:
        share = "" if one.floor_share is None else f"{one.floor_share:.1%}"
        figure = f"{one.value:,.0f}" if abs(one.value) >= 100 else f"{one.value:,.3g}"
        table.add_row(one.subject, one.condition, figure, one.unit, share)
    return table
