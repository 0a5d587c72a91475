"""Runs the cases that two revisions are compared by, each in a folder of its own.

    python -m benchmarks.fidelity.cases --root=CHECKOUT --python=PYTHON --output=DIR
    python -m benchmarks.fidelity.cases --root=... --python=... --output=DIR --cases=tiny,prm

Every command runs in CHECKOUT with PYTHON and leaves its files in DIR/CASE, its output in
DIR/CASE/STEP.log. Only the doors are used, so that any revision can be run. What has finished is
skipped when the command is given again; a step that was interrupted starts over. A case that needs
another one brings it in. The cases, `default` aside, take 5 s to 2 min each on two quiet cores.

Floating-point sums depend on how many cores XLA may use: compare only what ran with as many, which
is noted in DIR/CASE/done.json. --data names the folder of the published files (see `inputs.FILES`).
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from benchmarks import figures, launching
from benchmarks.fidelity import inputs
from benchmarks.fidelity.matrix import CASES, Case, Step

TOOLS = pathlib.Path(__file__).resolve().parents[2]


class Runner:
    """Runs the steps of cases with one checkout."""

    def __init__(self, root: pathlib.Path, python: str, output: pathlib.Path, cpus: str):
        self.root, self.output = root.absolute(), output.absolute()
        self.python = os.path.abspath(shutil.which(python) or python)
        self.cpus = cpus

    def run(self, case: Case) -> bool:
        """Runs what is left of a case: whether every step ended as it must."""
        folder = self.output / case.name
        if (folder / "done.json").exists():
            print(f"{case.name}: stands already", flush=True)
            return True
        folder.mkdir(parents=True, exist_ok=True)
        began, codes = time.monotonic(), self._finished(folder)
        for step in case.steps:
            if step.name not in codes:
                code = self._step(case, step)
                if code < 0 or step.code not in (None, code):
                    print(
                        f"{case.name}: {step.name} ended with {code}, see {folder}/{step.name}.log"
                    )
                    return False
                codes[step.name] = code
                figures.write_json(folder / "steps.json", codes)
        seconds = round(time.monotonic() - began, 1)
        record = {"codes": codes, "cores": self._cores(), "seconds": seconds}
        figures.write_json(folder / "done.json", record)
        print(f"{case.name}: {seconds} s", flush=True)
        return True

    def _finished(self, folder: pathlib.Path) -> dict[str, int]:
        record = folder / "steps.json"
        return json.loads(record.read_text()) if record.exists() else {}

    def _cores(self) -> int:
        count = "import os; print(len(os.sched_getaffinity(0)))"
        command = launching.pinned([sys.executable, "-c", count], self.cpus)
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def start(self, case: Case, step: Step) -> list[subprocess.Popen[bytes]]:
        """Starts the process of a step, or all of them."""
        words = [word.format_map(self._places(case)) for word in step.words]
        address, processes = f"--coordinator=127.0.0.1:{launching.free_port()}", []
        for index in range(step.processes):
            more = [address, f"--processes={step.processes}", f"--process={index}"]
            command = [self.python, *words, *(more if step.processes > 1 else [])]
            log = self.output / case.name / f"{step.name}{f'.{index}' if index else ''}.log"
            with open(log, "wb") as file:
                processes.append(
                    subprocess.Popen(
                        launching.pinned(command, self.cpus),
                        cwd=self.root, env=self._environment(step), stdout=file, stderr=file,
                    )
                )  # fmt: skip
        return processes

    def _step(self, case: Case, step: Step) -> int:
        """Runs a step from its start: the first exit code that is not 0."""
        for made in step.makes:
            _remove(pathlib.Path(made.format_map(self._places(case))))
        codes = [process.wait() for process in self.start(case, step)]
        return next(filter(None, codes), 0)

    def _places(self, case: Case) -> dict[str, str]:
        return {
            "out": str(self.output),
            "case": str(self.output / case.name),
            "inputs": str(self.output / "inputs"),
        }

    def _environment(self, step: Step) -> dict[str, str]:
        """Of a step; the checkout's own tools come before these, as they fit its package."""
        path = os.pathsep.join(map(str, [self.root, TOOLS]))
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
        environment.pop("XLA_FLAGS", None)
        if step.devices:
            devices = f"--xla_force_host_platform_device_count={step.devices}"
            environment["XLA_FLAGS"] = f"{devices} {launching.PATIENT}"
        return environment


def _remove(place: pathlib.Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def with_needs(names: list[str]) -> list[Case]:
    """The cases of these names and those that they need, in the order of `CASES`."""
    by_name = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SystemExit(f"there is no case {unknown[0]!r}; there are {', '.join(by_name)}")
    wanted = {*names, *(need for name in names for need in by_name[name].needs)}
    return [case for case in CASES if case.name in wanted]


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("--root", type=pathlib.Path, required=True, help="the checkout to run")
    parser.add_argument("--python", required=True, help="an interpreter with its requirements")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a folder for results")
    parser.add_argument("--cases", default="", help="names, with commas; all cases by default")
    parser.add_argument("--data", type=pathlib.Path, help="the published files; made once")
    parser.add_argument("--cpus", default="", help="cores such as 0-1; all by default")
    arguments = parser.parse_args()
    cases = with_needs(
        [name for name in arguments.cases.split(",") if name] or [case.name for case in CASES]
    )
    output = arguments.output.absolute()
    if not (output / "inputs").exists():
        if not arguments.data:
            parser.error("--data is missing: the folder of the published files")
        inputs.make(arguments.data, output / "inputs.tmp")
        (output / "inputs.tmp").replace(output / "inputs")
    runner = Runner(arguments.root, arguments.python, output, arguments.cpus)
    failed = [case.name for case in cases if not runner.run(case)]
    if failed:
        raise SystemExit(f"did not end as they must: {', '.join(failed)}")


if __name__ == "__main__":
    main()
