"""Times to kill a run at, drawn from the timeline of an undisturbed one."""

from __future__ import annotations

import dataclasses
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.survival.watching import CLAIMED, Timeline

PHASES = ("sft", "calibrate", "generate", "grade", "select", "improve", "monitor")
TORN = "torn line"
Kinds = Mapping[str, list["Kill"]]


@dataclasses.dataclass(frozen=True)
class Kill:
    """A time to kill at.

    Attributes:
      kind: "uniform", "phase <name>", "rename <kind of file>", "remove ..." or "torn line".
      seconds: When it was in the undisturbed run, since its start.
      after: Event of the undisturbed run that it follows; "" for a rename.
      delay: Seconds from that event.
      path: What is about to be replaced or removed, relative to the run; "" for other kinds.
    """

    kind: str
    seconds: float
    after: str = ""
    delay: float = 0.0
    path: str = ""


def kill_at(kind: str, seconds: float, timeline: Timeline) -> Kill:
    """A kill at a time of the undisturbed run."""
    at, event = [entry for entry in timeline if entry[0] <= seconds][-1]
    return Kill(kind, seconds, after=event, delay=seconds - at)


def phase_spans(timeline: Timeline) -> dict[str, list[tuple[float, float]]]:
    """The (begin, end) of every phase in seconds, one pair an iteration."""
    times = {event: at for at, event in timeline}
    spans = defaultdict(list)
    begin = times[CLAIMED]
    for iteration in range(sum(event.endswith(" monitor") for event in times)):
        sampled = f"iterations/{iteration:04d}/partial/monitor-"
        trained = [times[event] for event in times if event.startswith(sampled)]
        trained.append(times[f"checkpoints/params/{iteration}"])
        for phase in PHASES[1:] if iteration else ("sft", "monitor"):
            is_training = phase in ("sft", "improve")
            end = min(trained) if is_training else times[f"row {iteration} {phase}"]
            spans[phase].append((begin, end))
            begin = end
    return spans


def kinds(renames: Iterable[tuple[float, str, str]], timeline: Timeline) -> Kinds:
    """Kills by kind, one for every rename, removal and row of the undisturbed run.

    Paths that differ in numbers alone are of one kind, such as all units of a phase.
    """
    found = defaultdict(list)
    for seconds, verb, path in renames:
        if not path.startswith(("cache/", "tensorboard/")):
            kind = f"{verb} " + re.sub(r"\d+", "N", path)
            found[kind].append(Kill(kind, seconds, path=path))
    for seconds, event in timeline:
        if event.endswith((" calibrate", " select", " monitor")):  # work follows, not a row
            found[TORN].append(Kill(TORN, seconds, after=event))
    return found


def plan(
    timeline: Timeline, by_kind: Kinds, duration: float, uniform: int, rng: random.Random
) -> list[Kill]:
    """All kills in order of time: `uniform` of them anywhere, two a phase, one a kind."""
    planned = [kill_at("uniform", rng.uniform(0, duration), timeline) for _ in range(uniform)]
    for phase, spans in phase_spans(timeline).items():
        for begin, end in rng.sample(spans, 2) if len(spans) > 1 else 2 * spans:
            planned.append(kill_at(f"phase {phase}", rng.uniform(begin, end), timeline))
    for kills in by_kind.values():
        # Never the last if there are others: should the time not come, there is a next one.
        planned.append(rng.choice(kills[:-1] or kills))
    return in_order(planned)


def in_order(kills: Sequence[Kill]) -> list[Kill]:
    """By time; before all the tokenizer, which the first start alone writes."""
    return sorted(kills, key=lambda kill: (kill.path != "tokenizer", kill.seconds))
