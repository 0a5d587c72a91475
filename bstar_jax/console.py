"""What a person sees while a run works: one progress bar a phase, a table, a summary.

On a terminal a phase shows a bar with its rate and the time left, and leaves one line behind.
Where there is no terminal it prints plain lines: one about every ten seconds, one at its end.
Results (the table, the summary) go to standard output, everything else to standard error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text
from absl import logging as absl_logging

from bstar_jax.libraries import leave_out_absent_tpu

_SECONDS_BETWEEN_LINES = 10.0
_NO_TERMINAL_WIDTH = 1000  # rich would fold tables at 80 columns

# Key of the row, header, format. Keys that carry K and S in their names join by prefix.
_CHOICE_COLUMNS = (
    ("temperature", "temper-\nature", "{:g}"),
    ("top_k", "top-k", "{:d}"),
    ("threshold", "thres-\nhold", "{:g}"),
    ("process_weight", "process\nweight", "{:g}"),
    ("balance_score", "balance score\n[low, high]", "{:.3f}"),
)
_OUTCOME_COLUMNS = (
    ("selected", "selected", "{:,d}"),
    ("correct_fraction", "correct\nfraction", "{:.3f}"),
    ("loss", "loss", "{:.3f}"),
)
_ESTIMATOR_PREFIXES = ("pass@", "reward@")
_ABSENT = "-"


class Console:
    """Speaks to the person who started the run.

    Attributes:
      quiet: Shows warnings, errors and the summary only.
      verbose: Shows details too.
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
          quiet: Shows warnings, errors and the summary only.
          verbose: Shows details too.
          stdout: Takes the table and the summary.
          stderr: Takes progress, notes, warnings and errors.
          clock: Seconds that only grow.
        """
        self.quiet = quiet
        self.verbose = verbose
        self._clock = clock
        self._out = _rich_console(sys.stdout if stdout is None else stdout)
        self._err = _rich_console(sys.stderr if stderr is None else stderr)

    @classmethod
    def nobody(cls) -> Console:
        """A console that nobody reads: of several processes one speaks."""
        sink = open(os.devnull, "w")  # open as long as the process
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
          phase: The phase.
          iteration: The iteration; None where there are none.
          total: Units of work in the phase.
          unit: What one of them is, in the plural.
          rate: The count shown a second; `unit` by default.
          completed: Units that stood already when the phase was resumed.
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

        Args:
          rows: Figures by the names of `metrics.jsonl`, as `journal.iteration_rows` gathers
            them. Absent or None shows as "-". A terminal too narrow gets two tables.
        """
        if self.quiet or not rows:
            return
        outcome = _OUTCOME_COLUMNS + tuple(
            (key, key.replace("@", "\n@"), "{:.3f}") for key in _headline(_estimators(rows))
        )
        whole = _table(rows, _CHOICE_COLUMNS + outcome)
        unbounded = self._out.options.update(width=_NO_TERMINAL_WIDTH)
        if self._out.measure(whole, options=unbounded).maximum <= self._out.width:
            tables = [whole]
        else:
            tables = [_table(rows, _CHOICE_COLUMNS), _table(rows, outcome)]
        for table in tables:
            self._out.print(table)
            self._out.print()

    def summary(
        self,
        rows: Sequence[Mapping],
        places: Mapping[str, str | os.PathLike],
        *,
        seconds: float | None = None,
    ) -> None:
        """Prints the figures at the start and at the end, and where things are.

        Args:
          rows: Figures an iteration, as for `iteration_table`; the first against the last.
          places: Paths or commands, by what is found there.
          seconds: Wall time of the whole run.
        """
        if rows:
            first, last = rows[0], rows[-1]
            table = _plain_table()
            for header in ("", f"iteration {first['iteration']}", f"iteration {last['iteration']}"):
                table.add_column(header, justify="right" if header else "left", no_wrap=True)
            for key in _estimators(rows):
                cells = [_format(row.get(key), "{:.3f}") for row in (first, last)]
                table.add_row(key, *cells)
            self._out.print(table)
            self._out.print()
        if seconds is not None:
            places = {"took": _duration(seconds), **places}
        width = max(map(len, places), default=0)
        for name, place in places.items():
            self._print(self._out, f"{name:<{width}}  {os.fspath(place)}")

    def note(self, message: str) -> None:
        """Says something that a person wants to know; not when quiet."""
        self._say(message)

    def detail(self, message: str) -> None:
        """Says something for a closer look; only when verbose."""
        if self.verbose:
            self._say(message)

    def warn(self, message: str) -> None:
        """Says what a person should look at, always."""
        self._print(self._err, f"warning: {message}", style="yellow")

    def error(self, message: object) -> None:
        """Says why the run ends, always, in one line of its own without a traceback."""
        self._print(self._err, f"error: {message}", style="red")

    def _say(self, message: str) -> None:
        if not self.quiet:
            self._print(self._err, message)

    @staticmethod
    def _print(console: rich.console.Console, message: str, style: str = "") -> None:
        # Soft wrap, so that a path that is copied from the screen is never broken in two.
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


class Progress:
    """How far one phase is. Made by `Console.progress`.

    Attributes:
      title: Iteration and phase.
      total: Units of work in the phase.
      done: Units done, those of before a resume included.
      show: Called with this object after every advance.
    """

    def __init__(self, phase, iteration, total, unit, rate, completed, clock):
        """Starts the clock; see `Console.progress` for the arguments."""
        self.title = phase if iteration is None else f"iteration {iteration} {phase}"
        self.total = total
        self.done = completed
        self.show: Callable[[Progress], None] = lambda progress: None
        self._unit = unit
        self._rate = rate
        self._counts = {unit: 0}  # since the clock started, which makes rates honest
        self._readings: dict[str, float] = {}
        self._clock = clock
        self._start = clock()

    def advance(self, n: int = 1, **figures: int | float) -> None:
        """Counts work as done.

        Args:
          n: Units done since the last call.
          **figures: An int counts something else that was done since the last call, such as
            `tokens=512`, and adds up; a float is a reading, such as `loss=1.2`, and the
            newest is shown.
        """
        self.done += n
        self._counts[self._unit] += n
        for name, value in figures.items():
            if isinstance(value, int):
                self._counts[name] = self._counts.get(name, 0) + value
            else:
                self._readings[name] = value
        self.show(self)

    def line(self, state: str = "") -> str:
        """One plain line, such as `iteration 1 improve: 100 steps in 10.2 s (9.8 steps/s)`."""
        counts = [f"{self._share()} {self._unit}"]
        counts += [
            f"{count:,} {name}"
            for name, count in self._counts.items()
            if name not in (self._unit, self._rate)
        ]
        state = f"{state} " if state else ""
        if self._counts[self._unit] == 0:
            return f"{self.title}: {state}{counts[0]}, nothing of it new"
        took = f"in {_duration(self._seconds())} ({self.rates()})"
        return f"{self.title}: {state}{', '.join(counts)} {took}"

    def rates(self) -> str:
        """The rate, then the readings."""
        count = self._counts.get(self._rate, 0)
        a_second = count / self._seconds() if self._seconds() > 0 else 0.0
        readings = [_reading(name, value) for name, value in self._readings.items()]
        return ", ".join([f"{_three_digits(a_second)} {self._rate}/s", *readings])

    def time_left(self) -> str:
        """What the rest takes at the speed so far; "" before anything is done."""
        new = self._counts[self._unit]
        if new == 0:
            return ""
        left = self._seconds() * max(self.total - self.done, 0) / new
        return f"{_duration(left)} left"

    def _share(self) -> str:
        done = f"{self.done:,}"
        return done if self.done == self.total else f"{done} of {self.total:,}"

    def _seconds(self) -> float:
        return self._clock() - self._start


def silence_libraries(*, verbose: bool = False) -> None:
    """Keeps the libraries' own log lines off the screen, errors apart.

    Call it before they are imported, where possible: some read the environment at import. JAX is
    also told not to start the TPU library where there can be no TPU.

    Args:
      verbose: Leaves their warnings on the screen.
    """
    leave_out_absent_tpu()
    level = logging.WARNING if verbose else logging.ERROR
    absl_logging.set_verbosity(absl_logging.WARNING if verbose else absl_logging.ERROR)
    for name in ("jax", "jax._src", "flax", "orbax", "tensorboardX", "wandb", "transformers"):
        logging.getLogger(name).setLevel(level)
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _rich_console(stream: TextIO) -> rich.console.Console:
    terminal = stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    return rich.console.Console(
        file=stream,
        force_terminal=terminal,
        width=None if terminal else _NO_TERMINAL_WIDTH,
        highlight=False,
        markup=False,
    )


def _every(seconds: float, clock: Callable[[], float], say: Callable[[str], None]):
    """Lets a line through when the last one, or the start, is `seconds` ago."""
    next_time = clock() + seconds

    def show(progress: Progress) -> None:
        nonlocal next_time
        if clock() >= next_time:
            next_time = clock() + seconds
            say(f"{progress.line()}, {progress.time_left()}")

    return show


def _plain_table() -> rich.table.Table:
    return rich.table.Table(
        box=rich.box.SIMPLE_HEAD, show_edge=False, padding=(0, 0), header_style="bold"
    )


def _table(rows: Sequence[Mapping], columns: Sequence[tuple[str, str, str]]) -> rich.table.Table:
    table = _plain_table()
    for header in ("iter-\nation", *(header for _, header, _ in columns)):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        cells = [_cell(row, key, form) for key, _, form in columns]
        table.add_row(str(row["iteration"]), *cells)
    return table


def _cell(row: Mapping, key: str, form: str) -> str:
    text = _format(row.get(key), form)
    low, high = row.get("balance_low"), row.get("balance_high")
    if key != "balance_score" or low is None or high is None:
        return text
    return f"{text} [{_format(low, form)}, {_format(high, form)}]"


def _format(value: object, form: str) -> str:
    return _ABSENT if value is None else form.format(value)


def _estimators(rows: Sequence[Mapping]) -> list[str]:
    """The keys of pass@..., reward@... and diversity, in the order in which they appear."""
    keys = [key for row in rows for key in row if key.startswith(_ESTIMATOR_PREFIXES)]
    keys += ["diversity"] if any("diversity" in row for row in rows) else []
    return list(dict.fromkeys(keys))


def _headline(keys: Sequence[str]) -> list[str]:
    """Of many K, those that a table has room for: the smallest and the largest of each kind.

    Example: pass@1 pass@4 pass@32 pass@8-4 pass@32-4 -> pass@1 pass@32 pass@32-4
    """
    kinds: dict[tuple[str, bool], list[str]] = {}
    for key in keys:
        kinds.setdefault((key.partition("@")[0], "-" in key), []).append(key)
    chosen = set()
    for (_, with_s), members in kinds.items():
        members.sort(key=lambda key: [int(number) for number in re.findall(r"\d+", key)])
        chosen.update(members[-1:] if with_s else (members[0], members[-1]))
    return [key for key in keys if key in chosen]


def _reading(name: str, value: float) -> str:
    words = name.replace("_", " ")
    if name.endswith("_per_second"):
        return f"{_three_digits(value)} {words.removesuffix(' per second')}/s"
    return f"{words} {value:.4g}"


def _three_digits(value: float) -> str:
    """58012.3 -> 58,000; 9.81 -> 9.8; what a person reads of a rate."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _duration(seconds: float) -> str:
    """7.94 -> 7.9 s; 80 -> 1 min 20 s; 7500 -> 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
