"""How far a phase is, how fast it goes, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable


class Progress:
    """How far one phase is. Made by `Console.progress`.

    Attributes:
      title: Iteration and phase.
      total: Units of work in the phase.
      done: Units done, those from before a resume included.
      show: Called with this object after every advance.
    """

    def __init__(
        self,
        phase: str,
        iteration: int | None,
        total: int,
        unit: str,
        rate: str,
        completed: int,
        clock: Callable[[], float],
    ):
        """Starts the clock; `Console.progress` explains the arguments."""
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
            `tokens=512`, and is added up. A float is a reading, such as `loss=1.2`; the newest
            is shown.
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
        counts = [f"{self._fraction()} {self._unit}"]
        counts += [
            f"{count:,} {name}"
            for name, count in self._counts.items()
            if name not in (self._unit, self._rate)
        ]
        state = f"{state} " if state else ""
        if self._counts[self._unit] == 0:
            return f"{self.title}: {state}{counts[0]}, nothing of it new"
        took = f"in {duration(self._seconds())} ({self.rates()})"
        return f"{self.title}: {state}{', '.join(counts)} {took}"

    def rates(self) -> str:
        """The rate, then the readings."""
        count = self._counts.get(self._rate, 0)
        per_second = count / self._seconds() if self._seconds() > 0 else 0.0
        readings = [_reading(name, value) for name, value in self._readings.items()]
        return ", ".join([f"{_three_digits(per_second)} {self._rate}/s", *readings])

    def time_left(self) -> str:
        """How long the rest takes at the speed so far; "" before anything is done."""
        new = self._counts[self._unit]
        if new == 0:
            return ""
        left = self._seconds() * max(self.total - self.done, 0) / new
        return f"{duration(left)} left"

    def _fraction(self) -> str:
        done = f"{self.done:,}"
        return done if self.done == self.total else f"{done} of {self.total:,}"

    def _seconds(self) -> float:
        return self._clock() - self._start


def duration(seconds: float) -> str:
    """A time as a person reads it: 7.94 -> 7.9 s; 80 -> 1 min 20 s; 7500 -> 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _reading(name: str, value: float) -> str:
    label = name.replace("_", " ")
    if name.endswith("_per_second"):
        return f"{_three_digits(value)} {label.removesuffix(' per second')}/s"
    return f"{label} {value:.4g}"


def _three_digits(value: float) -> str:
    """A rate as a person reads it: 58012.3 -> 58,000; 9.81 -> 9.8."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
