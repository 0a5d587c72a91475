"""Run directories that one revision was stopped in, and whether another one goes on with them.

    python -m benchmarks.fidelity.stopped stop --root=OLD --python=PYTHON --output=DIR_OLD
    python -m benchmarks.fidelity.stopped continue --stopped=DIR_OLD --root=NEW --python=PYTHON \
        --output=DIR_NEW

`stop` makes one undisturbed run of each kind, and runs of the same settings that it ends with
SIGKILL: in the middle of a phase that samples, with units in partial/; in the middle of a training
phase, with a checkpoint of it; and between two iterations. They stay as DIR_OLD/stopped-MOMENT.
`continue` copies them, gives the same command in NEW, and compares what comes out with the
undisturbed run. Exit code 3 where something differs. What stands already is not made again.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import sys
import time
from collections.abc import Callable

from benchmarks import figures
from benchmarks.fidelity.cases import Runner
from benchmarks.fidelity.matrix import ARITHMETIC, PRM, TINY, Case, flags, train

POLL_SECONDS = 0.002
OFTEN = flags(log__every=1, checkpoint__minutes=0.0001, improve__steps=24, calibrate__queries=32)
KINDS = {
    "tiny": train("run", ARITHMETIC, *TINY, *OFTEN),
    "prm": train("run", f"{ARITHMETIC}:prm", *TINY, *OFTEN, *PRM),
}


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a run is stopped.

    Attributes:
      name: Short.
      kind: Which run of `KINDS`.
      has_come: Whether a run directory shows that the moment has come.
      is_past: Whether it shows that the moment was missed.
    """

    name: str
    kind: str
    has_come: Callable[[pathlib.Path], bool]
    is_past: Callable[[pathlib.Path], bool]


def _holds(pattern: str, least: int = 1) -> Callable[[pathlib.Path], bool]:
    """Whether so many files of a run match a pattern."""
    return lambda run: sum(1 for _ in run.glob(pattern)) >= least


def _saved(folder: str) -> Callable[[pathlib.Path], bool]:
    """Whether a whole training state is stored under a name such as 200000006: iteration, step."""
    return _holds(f"checkpoints/{folder}/commit_success.txt")


MOMENTS = (
    Moment(
        "calibrate", "tiny", _holds("iterations/0002/partial/calibrate-*.parquet", 2),
        _holds("iterations/0002/balance.json"),
    ),
    Moment(
        "generate", "tiny", _holds("iterations/0001/partial/generate-*.parquet", 2),
        _holds("iterations/0001/generate.parquet"),
    ),
    Moment("sft", "tiny", _saved("training/[1-4]?"), _holds("checkpoints/params/0")),
    Moment("improve", "tiny", _saved("training/2000000[01]?"), _holds("checkpoints/params/2")),
    Moment(
        "between", "tiny", _holds("iterations/0001/monitor.parquet"),
        _holds("iterations/0002/partial/*"),
    ),
    Moment(
        "labels", "prm", _holds("iterations/0000/partial/*-continued-*.parquet", 2),
        _holds("iterations/0000/prm.parquet"),
    ),
    Moment("prm", "prm", _saved("prm/training/[1-9]"), _holds("iterations/0000/prm.json")),
)  # fmt: skip


class Stopper:
    """Makes runs of one revision."""

    def __init__(self, runner: Runner):
        self.runner, self.output = runner, runner.output

    def whole(self, kind: str) -> pathlib.Path:
        """The folder of the undisturbed run of a kind."""
        folder = self.output / f"undisturbed-{kind}"
        if not self.runner.run(Case(folder.name, (KINDS[kind],))):
            raise SystemExit(f"{folder} did not end as it must")
        return folder

    def stop(self, moment: Moment) -> None:
        """Starts a run and kills it at a moment; again where it got past it."""
        whole, folder = self.whole(moment.kind), self.output / f"stopped-{moment.name}"
        if (folder / "stopped.json").exists():
            return
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            run = folder / "run"
            shutil.copytree(whole / "run" / "cache", run / "cache")  # nothing compiles twice
            if self._strike(moment, folder) and not moment.is_past(run):
                found = sorted(str(path.relative_to(run)) for path in run.glob("iterations/*/**/*"))
                record = {"moment": moment.name, "iterations": found}
                figures.write_json(folder / "stopped.json", record)
                print(f"stopped in {moment.name}", flush=True)
                return
        raise SystemExit(f"the moment {moment.name!r} was missed 20 times")

    def _strike(self, moment: Moment, folder: pathlib.Path) -> bool:
        (process,) = self.runner.start(Case(folder.name, ()), KINDS[moment.kind])
        while process.poll() is None:
            if moment.has_come(folder / "run"):
                process.kill()
                process.wait()
                return True
            time.sleep(POLL_SECONDS)
        return False

    def resume(self, moment: Moment, stopped: pathlib.Path) -> list[str]:
        """Goes on with a copy of a stopped run: what it differs in from the undisturbed one."""
        folder = self.output / f"stopped-{moment.name}"
        if not (folder / "continued.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(stopped / folder.name, folder)
            (process,) = self.runner.start(Case(folder.name, ()), KINDS[moment.kind])
            if process.wait():
                return [f"ended with exit code {process.returncode}, see {folder}/run.log"]
            figures.write_json(folder / "continued.json", {})
        from benchmarks.fidelity.results import compare  # and with it JAX

        found, counts = compare(stopped / f"undisturbed-{moment.kind}" / "run", folder / "run")
        amounts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
        print(f"stopped in {moment.name}: {found[0] if found else 'alike'} ({amounts})", flush=True)
        return found


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("action", choices=("stop", "continue"))
    parser.add_argument("--root", type=pathlib.Path, required=True, help="the checkout to run")
    parser.add_argument("--python", required=True, help="an interpreter with its requirements")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--stopped", type=pathlib.Path, help="output of `stop`, to go on from")
    parser.add_argument("--moments", default=",".join(moment.name for moment in MOMENTS))
    parser.add_argument("--cpus", default="", help="cores such as 0-1; all by default")
    arguments = parser.parse_args()
    runner = Runner(arguments.root, arguments.python, arguments.output, arguments.cpus)
    stopper = Stopper(runner)
    moments = [moment for moment in MOMENTS if moment.name in arguments.moments.split(",")]
    if arguments.action == "stop":
        for moment in moments:
            stopper.stop(moment)
        return
    if not arguments.stopped:
        parser.error("--stopped is missing: the folder that `stop` wrote")
    stopped = arguments.stopped.absolute()
    wrong = [moment.name for moment in moments if stopper.resume(moment, stopped)]
    if wrong:
        print(f"DIFFERS: {', '.join(wrong)}")
        sys.exit(3)


if __name__ == "__main__":
    main()
