"""The console: plain lines where there is no terminal, a bar where there is one."""

import io
import logging
import os
import re
import subprocess
import sys

import pytest

from bstar_jax.console import Console, silence_libraries


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Screen:
    """A console with its two streams."""

    def __init__(self, stream=io.StringIO, **options):
        self.clock = Clock()
        self.stdout, self.stderr = stream(), stream()
        self.console = Console(stdout=self.stdout, stderr=self.stderr, clock=self.clock, **options)

    def lines(self):
        return self.stderr.getvalue().splitlines()

    def results(self):
        return self.stdout.getvalue()


ROWS = [
    {"iteration": 0, "pass@1": 0.2, "pass@8": 0.6, "pass@32": 0.9, "pass@32-4": 0.3},
    {
        "iteration": 1,
        "temperature": 0.9,
        "top_k": 0,
        "threshold": 1.25,
        "process_weight": 1.0,
        "balance_score": 0.284,
        "balance_low": 0.27,
        "balance_high": 0.298,
        "selected": 12345,
        "correct_fraction": 0.99,
        "loss": None,
        "pass@1": 0.25,
        "pass@8": 0.65,
        "pass@32": 0.95,
        "pass@32-4": 0.35,
        "reward@32-4": 0.41,
        "diversity": 0.5,
    },
]


def test_a_phase_ends_in_one_line_with_its_counts_and_rate():
    screen = Screen()
    with screen.console.progress("generate", 2, 2048, "queries", rate="tokens") as progress:
        for _ in range(32):
            screen.clock.now += 0.25
            progress.advance(64, responses=512, tokens=14_500)
    assert screen.lines() == [
        "iteration 2 generate: 2,048 queries, 16,384 responses in 8.0 s (58,000 tokens/s)"
    ]


def test_without_a_terminal_a_line_comes_at_most_every_ten_seconds():
    screen = Screen()
    with screen.console.progress("improve", 1, 100, "steps") as progress:
        for _ in range(100):
            screen.clock.now += 0.25
            progress.advance(loss=1.23456)
    assert screen.lines() == [
        "iteration 1 improve: 40 of 100 steps in 10.0 s (4.0 steps/s, loss 1.235), 15.0 s left",
        "iteration 1 improve: 80 of 100 steps in 20.0 s (4.0 steps/s, loss 1.235), 5.0 s left",
        "iteration 1 improve: 100 steps in 25.0 s (4.0 steps/s, loss 1.235)",
    ]


def test_a_resumed_phase_counts_what_stood_but_not_in_its_rate():
    screen = Screen()
    with screen.console.progress("sft", 0, 200, "steps", completed=150) as progress:
        screen.clock.now += 10
        progress.advance(40)
        screen.clock.now += 2.5
        progress.advance(10, tokens_per_second=1234.5)
    assert screen.lines() == [
        "iteration 0 sft: 190 of 200 steps in 10.0 s (4.0 steps/s), 2.5 s left",
        "iteration 0 sft: 200 steps in 12.5 s (4.0 steps/s, 1,230 tokens/s)",
    ]


def test_a_phase_that_was_stored_whole_claims_no_speed():
    screen = Screen()
    with screen.console.progress("grade", 1, 50, "responses", completed=50):
        screen.clock.now += 1
    assert screen.lines() == ["iteration 1 grade: 50 responses, nothing of it new"]


def test_a_phase_that_fails_says_how_far_it_came_and_lets_the_failure_through():
    screen = Screen()
    grading = screen.console.progress("grade", 1, 50, "responses")
    with pytest.raises(ZeroDivisionError), grading as progress:
        screen.clock.now += 2
        progress.advance(20)
        raise ZeroDivisionError
    assert screen.lines() == [
        "iteration 1 grade: stopped at 20 of 50 responses in 2.0 s (10.0 responses/s)"
    ]


def test_a_terminal_shows_a_bar_that_leaves_the_same_line_behind():
    screen = Screen(Terminal)
    with screen.console.progress("grade", 1, 50, "responses") as progress:
        screen.clock.now += 2
        progress.advance(50)
    shown = screen.stderr.getvalue()
    assert "━" in shown and "50/50" in shown and "0.0 s left" in shown
    assert shown.endswith("iteration 1 grade: 50 responses in 2.0 s (25.0 responses/s)\n")


def test_the_table_shows_every_figure_and_a_dash_for_what_was_not_computed():
    screen = Screen()
    screen.console.iteration_table(ROWS)
    header, first, second = [
        line.split() for line in screen.results().splitlines() if line and "─" not in line
    ][1:]
    assert header[:3] == ["ation", "ature", "top-k"]
    assert first == ["0", *["-"] * 8, "0.200", "0.900", "0.300", "-", "-"]
    assert (
        second
        == (
            "1 0.9 0 1.25 1 0.284 [0.270, 0.298] 12,345 0.990 - 0.250 0.950 0.350 0.410 0.500"
        ).split()
    )
    assert "[low, high]" in screen.results()


def test_a_narrow_terminal_gets_two_tables_with_nothing_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(Terminal)
    screen.console.iteration_table(ROWS)
    shown = re.sub(r"\x1b\[\d*m", "", screen.results())
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    for figure in ("0.284 [0.270, 0.298]", "12,345", "0.410", "0.500"):
        assert figure in shown


def test_the_summary_sets_the_end_beside_the_start_and_says_where_things_are():
    screen = Screen(quiet=True)
    places = {"run": "runs/first", "report": "python -m bstar_jax.report runs/first"}
    screen.console.summary(ROWS, places, seconds=7500)
    lines = [line.split() for line in screen.results().splitlines()]
    assert ["iteration", "0", "iteration", "1"] in lines
    assert ["pass@8", "0.600", "0.650"] in lines
    assert ["diversity", "-", "0.500"] in lines
    assert ["took", "2", "h", "5", "min"] in lines
    assert "report  python -m bstar_jax.report runs/first" in screen.results()


@pytest.mark.parametrize(
    ("options", "heard"),
    [
        ({}, ["note", "warning: warn", "error: error"]),
        ({"quiet": True}, ["warning: warn", "error: error"]),
        ({"verbose": True}, ["note", "detail", "warning: warn", "error: error"]),
    ],
)
def test_how_loud_it_is(options, heard):
    screen = Screen(**options)
    screen.console.note("note")
    screen.console.detail("detail")
    screen.console.warn("warn")
    screen.console.error("error")
    assert screen.lines() == heard
    assert screen.results() == ""


def test_quiet_hides_progress_and_table():
    screen = Screen(quiet=True)
    with screen.console.progress("grade", 1, 50, "responses") as progress:
        screen.clock.now += 30
        progress.advance(50)
    screen.console.iteration_table(ROWS)
    assert screen.lines() == [] and screen.results() == ""


def test_brackets_and_long_paths_are_shown_as_they_are(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    path = "runs/" + "x" * 90
    for stream in (io.StringIO, Terminal):
        screen = Screen(stream)
        screen.console.note(f"[bold]{path}[/bold]")
        assert screen.lines() == [f"[bold]{path}[/bold]"]


@pytest.mark.slow
def test_importing_changes_no_logging_and_silencing_keeps_errors():
    program = """
import logging
before = logging.root.level, list(logging.root.handlers), logging.getLogger("jax").level
from bstar_jax import console
assert before == (logging.root.level, list(logging.root.handlers), logging.getLogger("jax").level)
console.silence_libraries()
import absl.logging, jax
for name in ("absl", "jax", "orbax"):
    logging.getLogger(name).warning("chatter of %s", name)
    logging.getLogger(name).error("failure of %s", name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "chatter" not in done.stderr
    for name in ("absl", "jax", "orbax"):
        assert f"failure of {name}" in done.stderr


def test_verbose_lets_warnings_of_libraries_through():
    levels = {name: logging.getLogger(name).level for name in ("jax", "orbax", "absl")}
    try:
        silence_libraries(verbose=True)
        assert logging.getLogger("jax").level == logging.WARNING
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
