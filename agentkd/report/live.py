"""A run as it goes: a live view on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentkd.coordinator.watching import Activity, Snapshot
from agentkd.networks.families import title
from agentkd.pipeline.stages import TABLE_STAGES
from agentkd.report.texts import measure_shown
from agentkd.search.study import Trial, TrialOutcome
from agentkd.visible import visible_line

NUM_LINES = 6
PLAIN_STATUS_EVERY_S = 30.0
SOON_S = 10.0
"""Below this an estimate says nothing more: agents that start and end take as long."""


class PlainWatcher:
    """One line for each thing that happens, and a status line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._last_status = time.monotonic()
        self._has_ended = False

    def __enter__(self) -> "PlainWatcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def show(self, snapshot: Snapshot) -> None:
        """A status line, every half minute and at the end."""
        is_new_end = snapshot.outlook.is_finished and not self._has_ended
        if self._has_ended or (time.monotonic() - self._last_status < PLAIN_STATUS_EVERY_S and not is_new_end):
            return
        self._has_ended = is_new_end
        self._last_status = time.monotonic()
        self._print(status_line(snapshot))

    def tell(self, line: str) -> None:
        """Prints the line with the time since the start."""
        self._print(line)

    def _print(self, line: str) -> None:
        text = f"[{clock(time.monotonic() - self._started)}] {visible_line(line)}"
        self._console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


class LiveWatcher:
    """A view that is redrawn in place: table, agents, latest events, time left."""

    def __init__(self, console: Console) -> None:
        self._lines: list[str] = []
        self._snapshot: Snapshot | None = None
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render, transient=False)

    def __enter__(self) -> "LiveWatcher":
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, snapshot: Snapshot) -> None:
        """Keeps the snapshot for the next redraw."""
        self._snapshot = snapshot

    def tell(self, line: str) -> None:
        """Adds to the latest events."""
        self._lines = [*self._lines, visible_line(line)][-NUM_LINES:]

    def _render(self) -> RenderableType:
        if self._snapshot is None:
            return Text("starting agents ...")
        return render(self._snapshot, self._lines)


Watching = PlainWatcher | LiveWatcher


def watcher_for(console: Console) -> AbstractContextManager[Watching]:
    """The live view on a terminal, plain lines elsewhere."""
    return LiveWatcher(console) if console.is_terminal else PlainWatcher(console)


def render(snapshot: Snapshot, lines: list[str]) -> RenderableType:
    """The live view of a snapshot."""
    events = Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")
    progress = Table.grid(expand=True)
    progress.add_row(ProgressBar(total=max(1, snapshot.num_expected), completed=snapshot.num_recorded))
    progress.add_row(status_line(snapshot))
    body = Group(_stages(snapshot), Text(), _agents(snapshot.activities), Text(), events, Text(), progress)
    return Panel(body, title=f"agentkd: {snapshot.experiment}", border_style="blue")


def status_line(snapshot: Snapshot) -> str:
    """Counts and times on one line."""
    best = snapshot.outlook.winner
    champion = f"; best {title(best.family)} {100 * best.result.judged_by:.2f} %" if best else ""
    if snapshot.outlook.is_finished:
        return f"all {snapshot.num_recorded:,} tasks are done, {clock(snapshot.elapsed_s)} in this sitting{champion}"
    counts = f"{snapshot.num_recorded:,} of at most {snapshot.num_expected:,} tasks"
    return f"{counts}, {clock(snapshot.elapsed_s)} so far, {left_text(snapshot.left_s)}{champion}"


def left_text(left_s: float | None) -> str:
    """The time left in words.

    Example:
        >>> left_text(None), left_text(3.2), left_text(200)
        ('time left not known yet', 'less than 10 s left', 'about 3:20 left')
    """
    if left_s is None:
        return "time left not known yet"
    return f"about {clock(left_s)} left" if left_s >= SOON_S else f"less than {SOON_S:.0f} s left"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss.

    Example:
        >>> clock(75), clock(3700)
        ('1:15', '1:01:40')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _stages(snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("family", style="bold")
    for stage in TABLE_STAGES:
        table.add_column(stage.value, justify="right")
    table.add_column("trials", justify="right")
    table.add_column("taught by", overflow="fold")
    shown = {(row.family, row.stage): row for row in snapshot.outlook.rows}
    score = measure_shown(snapshot.outlook).must_be_of
    for family, trials in snapshot.outlook.trials.items():
        cells = []
        for stage in TABLE_STAGES:
            row = shown.get((family, stage))
            cells.append(f"{100 * score(row.entrant.result):.2f} %" if row else "-")
        taught = ", ".join(
            " + ".join(teacher.label for teacher in lesson.teachers)
            for lesson in snapshot.outlook.lessons
            if lesson.student.family == family
        )
        table.add_row(title(family), *cells, searched_text(trials, snapshot.num_trials.get(family, 0)), taught or "-")
    return table


def searched_text(trials: Sequence[Trial], num_trials: int) -> str:
    """How far a search is: feasible trials that are finished, of how many at most; and, apart, those that were infeasible.

    Args:
        trials: so far.
        num_trials: feasible ones at most; 0 if that is not known.
    """
    if not trials:
        return "-"
    num_infeasible = sum(trial.outcome is TrialOutcome.INFEASIBLE for trial in trials)
    finished = [trial for trial in trials if trial.outcome not in (TrialOutcome.RUNNING, TrialOutcome.INFEASIBLE)]
    best = max((trial.judged_by for trial in finished if trial.outcome is TrialOutcome.COMPLETED), default=0.0)
    parts = [f"{len(finished)}/{num_trials}" if num_trials else f"{len(finished)}"]
    parts += [f"and {num_infeasible} infeasible"] if num_infeasible else []
    parts += [f"best {100 * best:.1f}"] if best else []
    return ", ".join(parts)


def _agents(activities: tuple[Activity, ...]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("agent", "device", "doing", "step", "loss", "score"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=4 if name == "doing" else 1)
    for a in activities:
        step = f"{a.step}/{a.steps}" if a.steps else ""
        loss = f"{a.loss:.3f}" if a.loss is not None else ""
        table.add_row(a.agent, a.device, a.doing, step, loss, f"{100 * a.score:.1f} %" if a.score is not None else "")
    return table
