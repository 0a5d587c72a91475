r"""Compares one iteration on a mesh of eight virtual CPU devices with the same on one device.

    python -m benchmarks.fidelity.mesh --workdir=runs/mesh --json=runs/mesh.json
    python -m benchmarks.fidelity.mesh --workdir=DIR --mesh=8,1,1 \
        --overrides='--config.sft.steps=50'
    python -m benchmarks.fidelity.mesh --workdir=DIR --mesh=all \
        --overrides='--config.model.heads=8 --config.model.kv_heads=8'

The run is made on one device. Then every phase is done again on the mesh (data, fsdp, tensor),
each from what the one device stored before it, so that differences do not add up:

    sft                    20 optimizer steps from the same initial parameters
    monitor 0, calibrate   sampled with the one device's parameters after warm-up
    generate               the same, at the cell that the one device chose
    improve                20 optimizer steps on the one device's generate.parquet
    monitor 1              sampled with the one device's parameters after improve

Rows: the first token of a row that differs is a flip. At most 1 in 10,000 tokens may be one; the
gap between the scores (logit / T + noise) of its two tokens in a plain forward pass says how close
it was. Rows without a flip must agree in every discrete column, and within 1e-4 in float columns.
Parameters: ||a - b|| / ||b|| is at most 1e-5 for every tensor. `--full` also trains at full length,
without a limit, because rounding grows with the steps. `--mesh=all` goes through all ten (data,
fsdp, tensor) of eight devices beside the same one device; the overrides must give the model heads
and a feed-forward width that eight divides.

The exit code is 1 where a limit is passed. The default takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import figures, launching

if TYPE_CHECKING:
    from benchmarks.fidelity import flips

MOST_NORM = 1e-5
STEPS = 20
ONE = (1, 1, 1)
ALL = [sizes for sizes in itertools.product((8, 4, 2, 1), repeat=3) if math.prod(sizes) == 8]
PARAMS_0, PARAMS_1, TRAINING = (
    f"checkpoints/{name}" for name in ("params/0", "params/1", "training")
)
SAVED_0, SAVED_1 = (f"{params}/commit_success.txt" for params in (PARAMS_0, PARAMS_1))
MONITOR_0, MONITOR_1 = (f"iterations/{iteration}/monitor.parquet" for iteration in ("0000", "0001"))
CALIBRATE, BALANCE, GENERATE = (
    f"iterations/0001/{name}" for name in ("calibrate.parquet", "balance.json", "generate.parquet")
)
BEFORE_IMPROVE = (MONITOR_0, CALIBRATE, BALANCE, GENERATE)
# Of what is sampled: its file, key phase, and the iteration of its parameters.
SAMPLED = {
    "monitor 0": (MONITOR_0, "monitor", 0),
    "calibrate": (CALIBRATE, "calibrate", 0),
    "generate": (GENERATE, "generate", 0),
    "monitor 1": (MONITOR_1, "monitor", 1),
}
Norms = dict[str, dict[str, float]]  # {what was trained: {tensor: relative norm}}
Sampled = dict[str, dict[str, Any]]  # {phase: what its rows differ in}


def devices(count: int) -> dict[str, str]:
    """Environment of a process with this many CPU devices."""
    flag = "--xla_force_host_platform_device_count"
    kept = [word for word in os.environ.get("XLA_FLAGS", "").split() if not word.startswith(flag)]
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*kept, f"{flag}={count}"])}


class MeshRuns:
    """Where the runs are, and how they are made."""

    def __init__(self, arguments: argparse.Namespace):
        """Takes the flags of the script."""
        self.workdir: pathlib.Path = arguments.workdir.absolute()
        self.config: str = arguments.config
        self.overrides = shlex.split(arguments.overrides)
        self.cpus: str = arguments.cpus
        self.meshes: list[tuple[int, ...]] = arguments.meshes

    def run(
        self,
        name: str,
        sizes: Sequence[int],
        *,
        overrides: Sequence[str] = (),
        iterations: int = 1,
        until: str = "",
    ) -> pathlib.Path:
        """Runs, or resumes, to the end, or until a file of the run is there.

        Raises:
          SystemExit: If the run fails.
        """
        flags = [*self.overrides, f"--config.loop.iterations={iterations}", *overrides]
        flags += launching.mesh_flags(sizes)
        run, log = self.workdir / name, self.workdir / f"{name}.log"
        self._share_cache(run, sizes)
        command = launching.pinned(launching.main_command(self.config, run, flags), self.cpus)
        began = time.monotonic()
        process = launching.start(command, log, devices(math.prod(sizes)))
        while process.poll() is None and not (until and (run / until).exists()):
            time.sleep(0.05)
        if is_ours := process.poll() is None:
            process.kill()
        code = process.wait()
        if code and not (is_ours and code == -signal.SIGKILL):
            raise SystemExit(f"{name} ended with exit code {code}, see {log}")
        print(f"made {name} in {time.monotonic() - began:.0f} s", flush=True)
        return run

    def _share_cache(self, run: pathlib.Path, sizes: Sequence[int]) -> None:
        """Lets runs on the same mesh share what they compile."""
        cache = self.workdir / "-".join(["cache", *map(str, sizes)])
        for folder in (cache, run):
            folder.mkdir(parents=True, exist_ok=True)
        if not (run / "cache").exists():
            (run / "cache").symlink_to(cache)

    def copy(self, source: pathlib.Path, name: str, files: Sequence[str]) -> None:
        """Makes a run directory that holds only these files of another, as far as it has them."""
        for file in ("tokenizer", PARAMS_0, *files):
            old, new = source / file, self.workdir / name / file
            new.parent.mkdir(parents=True, exist_ok=True)
            if old.is_dir():
                shutil.copytree(old, new)
            elif old.exists():  # a single cell has no balance.json
                shutil.copy(old, new)


def train(
    runs: MeshRuns, one: pathlib.Path, sizes: Sequence[int]
) -> tuple[pathlib.Path, pathlib.Path]:
    """STEPS steps of sft and of improve, from what the one device started them from: both runs."""
    label = "x".join(map(str, sizes))
    warm_up = [f"--config.sft.{name}={STEPS}" for name in ("steps", "warmup_steps")]
    sft = runs.run(f"sft-{label}", sizes, overrides=warm_up, iterations=0, until=SAVED_0)
    runs.copy(one, f"improve-{label}", BEFORE_IMPROVE)
    steps = [f"--config.improve.steps={STEPS}"]
    return sft, runs.run(f"improve-{label}", sizes, overrides=steps, until=SAVED_1)


def compare_training(
    runs: MeshRuns,
    one: pathlib.Path,
    short: Sequence[pathlib.Path],
    sizes: Sequence[int],
    full: bool,
) -> Norms:
    """Trains on a mesh and compares every tensor; `short` is what `train` made on one device."""
    from benchmarks.fidelity import stored

    norms = {}
    for phase, params, ours, theirs in zip(
        ("sft", "improve"), (PARAMS_0, PARAMS_1), short, train(runs, one, sizes), strict=True
    ):
        name = f"{phase}, {STEPS} steps"
        norms[name] = stored.relative_norms(ours / params, theirs / params)
    if full:
        label = "x".join(map(str, sizes))
        long = runs.run(f"full-sft-{label}", sizes, iterations=0)
        norms["sft, full length"] = stored.relative_norms(one / PARAMS_0, long / PARAMS_0)
        runs.copy(one, f"full-improve-{label}", BEFORE_IMPROVE)
        long = runs.run(f"full-improve-{label}", sizes)
        norms["improve, full length"] = stored.relative_norms(one / PARAMS_1, long / PARAMS_1)
    return norms


def sample(runs: MeshRuns, one: pathlib.Path, sizes: Sequence[int]) -> dict[str, pathlib.Path]:
    """Samples with the parameters that the one device stored: {phase: run that holds it}."""
    from benchmarks.fidelity import flips

    label = "x".join(map(str, sizes))
    runs.copy(one, f"sampled-{label}", ())
    run = runs.run(f"sampled-{label}", sizes, until=GENERATE)
    found: dict[str, pathlib.Path] = {"monitor 0": run, "calibrate": run, "generate": run}
    if flips.chosen(run / BALANCE) != flips.chosen(one / BALANCE):
        # So close that rounding decides: generate starts from the one device's choice.
        runs.copy(one, f"generate-{label}", (MONITOR_0, CALIBRATE, BALANCE))
        found["generate"] = runs.run(f"generate-{label}", sizes, until=GENERATE)
    runs.copy(one, f"monitor-{label}", (*BEFORE_IMPROVE, PARAMS_1, TRAINING))
    found["monitor 1"] = runs.run(f"monitor-{label}", sizes, until=MONITOR_1)
    return found


def compare_sampling(
    runs: MeshRuns, one: pathlib.Path, scorer: flips.Scorer, sizes: Sequence[int]
) -> tuple[Sampled, list[str]]:
    """Samples on a mesh and compares the rows: what each phase differs in, what passed a limit."""
    from benchmarks.fidelity import flips

    results, wrong = {}, []
    for name, run in sample(runs, one, sizes).items():
        file, phase, iteration = SAMPLED[name]
        if not (one / file).exists():
            continue  # a single cell samples nothing to calibrate
        differences, found = flips.compare_rows(one / file, run / file, scorer.tokenizer)
        wrong += [f"{name}: {each}" for each in differences.beyond_limits()]
        results[name] = {
            **vars(differences),
            "flips_per_token": differences.flips_per_token,
            "score_gaps": scorer.gaps(found, phase, iteration),
        }
        if phase == "calibrate" and (one / BALANCE).exists():
            results[name]["scores"] = flips.compare_scores(one / BALANCE, run / BALANCE)
    return results, wrong


def beyond_limits(norms: Norms) -> list[str]:
    """Tensors that passed the limit; training of full length has none."""
    return [
        f"{what}: {path} {norm:.1e}"
        for what, tensors in norms.items()
        for path, norm in tensors.items()
        if "full" not in what and not norm <= MOST_NORM
    ]


def show(norms: Norms, sampled: Sampled, sizes: Sequence[int]) -> None:
    """Prints what one mesh differs in, as Markdown."""
    from benchmarks.fidelity import flips

    rows = []
    for what, tensors in norms.items():
        worst = max(tensors, key=lambda path: tensors[path])
        rows.append([what, len(tensors), f"{tensors[worst]:.1e}", worst])
    print(f"\nmesh {sizes} against one device\n")
    print(figures.table(["training", "tensors", "largest norm", "of"], rows))
    flips.show(sampled)


def show_all(results: Sequence[Mapping[str, Any]]) -> None:
    """Prints a line a mesh."""
    from benchmarks.fidelity import flips

    rows = []
    for result in results:
        sampled = result["sampling"].values()
        counts = [sum(found[name] for found in sampled) for name in ("rows", "tokens", "flips")]
        norms = [f"{max(tensors.values()):.1e}" for tensors in result["training"].values()]
        gaps = flips.gaps_text([gap for found in sampled for gap in found["score_gaps"]][:5])
        worst = max(found["largest_float_difference"]["logprob"] for found in sampled)
        counts = [f"{count:,}" for count in counts]
        rows.append([result["mesh"], *norms, *counts, gaps, f"{worst:.1e}"])
    training = list(results[0]["training"])
    header = ["mesh", *training, "rows", "tokens", "flips", "score gaps", "log-probabilities"]
    print(figures.table(header, rows))


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    launching.add_run_flags(parser)
    parser.add_argument("--mesh", default="2,2,2", help="data,fsdp,tensor; or all")
    parser.add_argument("--full", action="store_true", help="also train at full length")
    parser.add_argument("--cpus", default="", help="cores of all runs, such as 0 or 0-1")
    arguments = parser.parse_args()
    try:
        is_all = arguments.mesh == "all"
        arguments.meshes = ALL if is_all else [launching.mesh_sizes(arguments.mesh)]
    except argparse.ArgumentTypeError as error:
        parser.error(f"--mesh: {error}; or all")
    launching.require_empty(parser, arguments.workdir)
    return arguments


def compare(runs: MeshRuns, full: bool) -> Iterator[dict[str, Any]]:
    """Yields what each mesh gave beside one device."""
    from benchmarks.fidelity import flips

    one = runs.run("one", ONE)
    short = train(runs, one, ONE)
    scorer = flips.Scorer(one, launching.read_config(one))
    for sizes in runs.meshes:
        norms = compare_training(runs, one, short, sizes, full)
        sampled, wrong = compare_sampling(runs, one, scorer, sizes)
        wrong = beyond_limits(norms) + wrong
        show(norms, sampled, sizes)
        launching.show_limits(wrong)
        yield {"mesh": sizes, "training": norms, "sampling": sampled, "wrong": wrong}


def main() -> None:
    """Compares every mesh that is asked for; the exit code says whether all limits hold."""
    arguments = parse()
    with launching.SameSource():
        results = list(compare(MeshRuns(arguments), arguments.full))
    if len(results) > 1:
        show_all(results)
    figures.write(arguments.json, {"meshes": results} if len(results) > 1 else results[0])
    sys.exit(1 if any(result["wrong"] for result in results) else 0)


if __name__ == "__main__":
    main()
