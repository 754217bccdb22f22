"""``mec history``, ``mec rollback`` and ``mec promote``: what was in service, and what is to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mec.config import TrackingConfig
from mec.tracking.generations import HistoryRow, history
from mec.tracking.registry import CHAMPION, ModelRegistry
from mec.tracking.runs import connected
from mec.tracking.switching import Switched, promote, rollback
from mec.tracking.waiting import Waiting, waiting_rows

_RUN_CHARACTERS = 8
_DATA_CHARACTERS = 12
_WIDTH = 110


def show_history(model: str, store: Path, uri: str | None) -> None:
    """Print the generations of a model and every change of champion."""
    with connected(_tracking(uri), store=store) as server:
        registry = ModelRegistry(server, model, create=False)
        rows, champion = history(registry), registry.champion()
        waiting = [] if champion is None else waiting_rows(registry, champion)
    console = Console()
    console.width = max(console.width, _WIDTH)  # cut columns would tell nothing
    console.print(generations_table(model, rows))
    for line in [*switch_lines(rows), *waiting_lines(waiting)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def roll_back(model: str, wanted: str | None, store: Path, uri: str | None, *, full: bool) -> str:
    """Go back; what was done, for a person."""
    return _told(rollback(model, wanted, tracking=_tracking(uri), store=store, full=full))


def put_in_service(model: str, wanted: str, store: Path, uri: str | None, *, full: bool) -> str:
    """Promote by hand; what was done, for a person."""
    return _told(promote(model, wanted, tracking=_tracking(uri), store=store, full=full))


def generations_table(model: str, rows: list[HistoryRow]) -> Table:
    """One line per version, oldest first; ``codes`` is the generation, ``from`` the version that was refreshed."""
    table = Table(title=f"{model}: generations", title_justify="left", title_style="bold")
    for head in ("version", "codes", "from", "registered (UTC)", "run"):
        table.add_column(head, no_wrap=True)
    for head in ("AUC stale", "refreshed", "rewritten"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("alias", no_wrap=True)
    for row in rows:
        aucs = [f"{row.measured[name]:.4f}" if name in row.measured else "" for name in ("auc_stale", "auc_refreshed")]
        table.add_row(
            f"v{row.version}",
            "?" if row.generation is None else str(row.generation),
            f"v{row.parent}" if row.parent else "",
            row.registered[:16].replace("T", " "),
            row.decided_by[:_RUN_CHARACTERS],
            *aucs,
            "" if row.rows_rewritten is None else f"{row.rows_rewritten:,}",
            ", ".join(row.aliases),
        )
    return table


def switch_lines(rows: list[HistoryRow]) -> list[str]:
    """Who replaced whom, oldest first, and whether the champion waits for a new training."""
    switches = sorted((switch for row in rows for switch in row.switches), key=lambda s: s.number)
    lines = [
        f"{s.when}  v{s.version} replaced {f'v{s.replaced}' if s.replaced else 'nothing'}: {s.why} (run {s.run})"
        for s in switches
    ]
    waiting = [row for row in rows if row.escalated_by and CHAMPION in row.aliases]
    return lines + [f"v{row.version} needs a new training (run {row.escalated_by})" for row in waiting]


def waiting_lines(waiting: Sequence[Waiting]) -> list[str]:
    """New rows that were not learned from when they came, oldest first, and what has become of them."""
    lines = [
        f"{rows.when}  {rows.decision}: rows {rows.data_version[:_DATA_CHARACTERS]} of {', '.join(rows.paths)} "
        + (f"waited until v{rows.learned_by}" if rows.learned_by else "wait")
        + f": {rows.reason} (run {rows.run})"
        for rows in waiting
    ]
    if any(rows.learned_by is None for rows in waiting):
        lines.append("no version has learned from rows that wait: `mec refresh --with-waiting` adds them to new ones")
    return lines


def _tracking(uri: str | None) -> TrackingConfig:
    return TrackingConfig(uri=uri)


def _told(done: Switched) -> str:
    replaced = f", in place of v{done.replaced}" if done.replaced else ", as it was before"
    rows = "its codes are not published online" if done.written_rows is None else f"{done.written_rows:,} rows written"
    return f"{done.model} v{done.version} (generation {done.generation}) is in service{replaced}; {rows}"
