"""The console: where a run writes what a person reads."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

import rich.console
import rich.progress
import rich.text

from bstar_jax.console import tables
from bstar_jax.console.progress import Progress, duration

_SECONDS_BETWEEN_LINES = 10.0
_NO_TERMINAL_WIDTH = 1000  # rich would fold tables at 80 columns


class Console:
    """Speaks to the person who started the run.

    Attributes:
      quiet: Whether only warnings, errors and the summary are shown.
      verbose: Whether details are shown too.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Writes results to `stdout` and the rest to `stderr`, the process's own by default.

        Args:
          quiet: Whether only warnings, errors and the summary are shown.
          verbose: Whether details are shown too.
          stdout: Receives the table and the summary.
          stderr: Receives progress, notes, warnings and errors.
          clock: Returns seconds that never decrease.
        """
        self.quiet = quiet
        self.verbose = verbose
        self._clock = clock
        self._out = _rich_console(sys.stdout if stdout is None else stdout)
        self._err = _rich_console(sys.stderr if stderr is None else stderr)

    @classmethod
    def nobody(cls) -> Console:
        """A silent console. Of several processes only one speaks; the others get this one."""
        sink = open(os.devnull, "w")  # noqa: SIM115  (open as long as the process)
        return cls(quiet=True, stdout=sink, stderr=sink)

    @contextlib.contextmanager
    def progress(
        self,
        phase: str,
        iteration: int | None,
        total: int,
        unit: str,
        *,
        rate: str = "",
        completed: int = 0,
    ) -> Iterator[Progress]:
        """Shows how far a phase is, until the block ends.

            with console.progress("generate", 2, 2048, "queries", rate="tokens") as progress:
                for unit in units:
                    ...
                    progress.advance(64, responses=512, tokens=14_208)

        ends in `iteration 2 generate: 2,048 queries, 16,384 responses in 7.9 s (58,000 tokens/s)`.

        Args:
          phase: Name of the phase.
          iteration: Number of the iteration; None outside a run.
          total: Units of work in the phase.
          unit: What a unit is, in the plural.
          rate: The count whose rate per second is shown; `unit` by default.
          completed: Units that were already stored when the phase was resumed.
        """
        progress = Progress(phase, iteration, total, unit, rate or unit, completed, self._clock)
        with self._bar(progress):
            try:
                yield progress
            except BaseException:
                self._say(progress.line("stopped at"))
                raise
        self._say(progress.line())

    def iteration_table(self, rows: Sequence[Mapping]) -> None:
        """Prints one line an iteration: what was chosen, and what came of it.

        A terminal that is too narrow gets two tables.

        Args:
          rows: Figures under their names in `metrics.jsonl`, as `journal.iteration_rows` gathers
            them. A value that is absent or None is shown as "-".
        """
        if self.quiet or not rows:
            return
        outcome = tables.outcome_columns(rows)
        wide = tables.iteration_table(rows, tables.CHOICE_COLUMNS + outcome)
        unbounded = self._out.options.update(width=_NO_TERMINAL_WIDTH)
        parts = [wide]
        if self._out.measure(wide, options=unbounded).maximum > self._out.width:
            parts = [tables.iteration_table(rows, tables.CHOICE_COLUMNS)]
            parts += [tables.iteration_table(rows, outcome)]
        for table in parts:
            self._out.print(table)
            self._out.print()

    def summary(
        self,
        rows: Sequence[Mapping],
        locations: Mapping[str, str | os.PathLike],
        *,
        seconds: float | None = None,
    ) -> None:
        """Prints the figures at the start and at the end, and where results are stored.

        Args:
          rows: Figures of each iteration, as for `iteration_table`; the first is set against the
            last.
          locations: Paths or commands, by what is found there.
          seconds: Wall time of the whole run.
        """
        if rows:
            self._out.print(tables.summary_table(rows))
            self._out.print()
        if seconds is not None:
            locations = {"took": duration(seconds), **locations}
        width = max(map(len, locations), default=0)
        for name, location in locations.items():
            self._print(self._out, f"{name:<{width}}  {os.fspath(location)}")

    def note(self, message: str) -> None:
        """Prints a message of interest, unless quiet."""
        self._say(message)

    def detail(self, message: str) -> None:
        """Prints a message for a closer look; only when verbose."""
        if self.verbose:
            self._say(message)

    def warn(self, message: str) -> None:
        """Prints a warning, always."""
        self._print(self._err, f"warning: {message}", style="yellow")

    def error(self, message: object) -> None:
        """Prints why the run ends, always, on one line and without a traceback."""
        self._print(self._err, f"error: {message}", style="red")

    def _say(self, message: str) -> None:
        if not self.quiet:
            self._print(self._err, message)

    @staticmethod
    def _print(console: rich.console.Console, message: str, style: str = "") -> None:
        # Soft wrap: a path that is copied from the screen must not be broken in two.
        console.print(rich.text.Text(message, style=style), soft_wrap=True)

    @contextlib.contextmanager
    def _bar(self, progress: Progress) -> Iterator[None]:
        """Shows `progress` as a bar on a terminal, as lines elsewhere, and not when quiet."""
        if self.quiet:
            yield
        elif not self._err.is_terminal:
            progress.show = _every(_SECONDS_BETWEEN_LINES, self._clock, self._say)
            yield
        else:
            bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[rates]}"),
                rich.progress.TextColumn("{task.fields[left]}", style="dim"),
                console=self._err,
                transient=True,
                refresh_per_second=4,
            )
            with bar:
                task = bar.add_task(
                    progress.title, total=progress.total, completed=progress.done, rates="", left=""
                )

                def show(progress: Progress) -> None:
                    rates, left = progress.rates(), progress.time_left()
                    bar.update(task, completed=progress.done, rates=rates, left=left)

                progress.show = show
                yield


def _rich_console(stream: TextIO) -> rich.console.Console:
    terminal = stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    return rich.console.Console(
        file=stream,
        force_terminal=terminal,
        width=None if terminal else _NO_TERMINAL_WIDTH,
        highlight=False,
        markup=False,
    )


def _every(
    seconds: float, clock: Callable[[], float], say: Callable[[str], None]
) -> Callable[[Progress], None]:
    """A `show` that prints at most one line every `seconds`, the first one `seconds` from now."""
    next_time = clock() + seconds

    def show(progress: Progress) -> None:
        nonlocal next_time
        if clock() >= next_time:
            next_time = clock() + seconds
            say(f"{progress.line()}, {progress.time_left()}")

    return show
