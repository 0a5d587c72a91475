"""One iteration on a mesh of eight virtual CPU devices against one device.

    python benchmarks/mesh.py --workdir=runs/mesh --json=runs/mesh.json
    python benchmarks/mesh.py --workdir=DIR --mesh=8,1,1 --overrides='--config.sft.steps=50'

The run is made on one device. Then every phase is done again on the mesh (data, fsdp, tensor),
each from what the one device stored before it, so that differences do not pile up:

    sft                    20 optimizer steps from the same initial parameters
    monitor 0, calibrate   sampled with the one device's parameters after warm-up
    generate               the same, at the cell that the one device chose
    improve                20 optimizer steps on the one device's generate.parquet
    monitor 1              sampled with the one device's parameters after improve

Rows: every row's first token that differs is a flip, at most 1 in 10,000 tokens compared; for
each flip the gap between the scores (logit / T + noise) of the two tokens in a plain forward
pass says how close it was. Rows without a flip must agree in every discrete column, and within
1e-4 in float columns. Parameters: ||a - b|| / ||b|| at most 1e-5 for every tensor. With --full
also training of full length, which has no limit: rounding grows with the steps.

Exit code 1 where a limit is passed. Some ten minutes for the default run on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time

import launching

MOST_FLIPS = 1e-4  # a token
MOST_NORM = 1e-5
MOST_FLOAT = 1e-4
STEPS = 20
PARAMS_0, PARAMS_1, TRAINING = (
    f"checkpoints/{name}" for name in ("params/0", "params/1", "training")
)
MONITOR_0, MONITOR_1 = (f"iterations/{iteration}/monitor.parquet" for iteration in ("0000", "0001"))
CALIBRATE, BALANCE, GENERATE = (
    f"iterations/0001/{name}" for name in ("calibrate.parquet", "balance.json", "generate.parquet")
)
# Of what is sampled on the mesh: name, its file, what it starts from, key phase, iteration of
# the parameters.
SAMPLED = (
    ("monitor 0", MONITOR_0, (), "monitor", 0),
    ("calibrate", CALIBRATE, (MONITOR_0,), "calibrate", 0),
    ("generate", GENERATE, (MONITOR_0, CALIBRATE, BALANCE), "generate", 0),
    (
        "monitor 1",
        MONITOR_1,
        (MONITOR_0, CALIBRATE, BALANCE, GENERATE, PARAMS_1, TRAINING),
        "monitor",
        1,
    ),
)


def devices(count):
    """Environment of a process with this many CPU devices."""
    flag = "--xla_force_host_platform_device_count"
    kept = [word for word in os.environ.get("XLA_FLAGS", "").split() if not word.startswith(flag)]
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*kept, f"{flag}={count}"])}


class Bench:
    """Where the runs are, and how they are made."""

    def __init__(self, arguments):
        self.workdir = arguments.workdir.absolute()
        self.config = arguments.config
        self.overrides = shlex.split(arguments.overrides)
        self.sizes = arguments.mesh
        self.cpus = arguments.cpus

    def run(self, name, *, on_mesh, overrides=(), iterations=1, until=None):
        """Runs, or resumes, to the end, or until a file of the run stands."""
        sizes = self.sizes if on_mesh else (1, 1, 1)
        axes = zip(("data", "fsdp", "tensor"), sizes, strict=True)
        flags = [*self.overrides, f"--config.loop.iterations={iterations}", *overrides]
        flags += [f"--config.mesh.{axis}={size}" for axis, size in axes]
        run, log = self.workdir / name, self.workdir / f"{name}.log"
        command = launching.pinned(launching.main_command(self.config, run, flags), self.cpus)
        began = time.monotonic()
        process = launching.start(command, log, devices(math.prod(sizes)))
        while process.poll() is None and not (until and (run / until).exists()):
            time.sleep(0.05)
        is_ours = process.poll() is None
        if is_ours:
            process.kill()
        code = process.wait()
        if code and not (is_ours and code == -signal.SIGKILL):
            raise SystemExit(f"{name} ended with exit code {code}, see {log}")
        print(f"made {name} in {time.monotonic() - began:.0f} s", flush=True)
        return run

    def copy(self, source, name, files):
        """A run directory that holds only these files of another, as far as it has them."""
        for file in ("tokenizer", PARAMS_0, *files):
            old, new = source / file, self.workdir / name / file
            new.parent.mkdir(parents=True, exist_ok=True)
            if old.is_dir():
                shutil.copytree(old, new)
            elif old.exists():  # a single cell has no balance.json
                shutil.copy(old, new)


def compare_params(one, mesh, name):
    """||a - b|| / ||b|| of every tensor of one checkpoint."""
    import numpy as np
    import stored

    ours, theirs = (stored.arrays(run / name) for run in (one, mesh))
    if ours.keys() != theirs.keys():
        raise SystemExit(f"{one} and {mesh} hold other parameters in {name}")
    norm = np.linalg.norm
    return {
        path: float(
            norm((theirs[path] - ours[path]).astype(float)) / norm(ours[path].astype(float))
        )
        for path in ours
    }


def compare_training(bench, one, full):
    """{what: {tensor: relative norm}}, all from the same start."""
    warm_up = [f"--config.sft.{name}={STEPS}" for name in ("steps", "warmup_steps")]
    before = (MONITOR_0, CALIBRATE, BALANCE, GENERATE)
    norms, runs = {}, {}
    for where, on_mesh in (("one", False), ("mesh", True)):
        runs["sft", where] = bench.run(
            f"sft-{where}", on_mesh=on_mesh, overrides=warm_up, iterations=0
        )
        bench.copy(one, f"improve-{where}", before)
        steps = [f"--config.improve.steps={STEPS}"]
        runs["improve", where] = bench.run(f"improve-{where}", on_mesh=on_mesh, overrides=steps)
    for phase, params in (("sft", PARAMS_0), ("improve", PARAMS_1)):
        label = f"{phase}, {STEPS} steps"
        norms[label] = compare_params(runs[phase, "one"], runs[phase, "mesh"], params)
    if full:
        whole = bench.run("full-sft", on_mesh=True, iterations=0)
        norms["sft, full length"] = compare_params(one, whole, PARAMS_0)
        bench.copy(one, "full-improve", before)
        whole = bench.run("full-improve", on_mesh=True)
        norms["improve, full length"] = compare_params(one, whole, PARAMS_1)
    return norms


def compare_sampling(bench, one):
    """{phase: figures}, each sampled on the mesh with what the one device stored."""
    import flips

    config = launching.read_config(one)
    scorer = flips.Scorer(one, config)
    results = {}
    for name, file, before, phase, iteration in SAMPLED:
        if not (one / file).exists():
            continue  # a single cell samples nothing to calibrate
        directory = f"sampled-{name.replace(' ', '-')}"
        bench.copy(one, directory, before)
        mesh = bench.run(directory, on_mesh=True, until=file)
        figures, found = flips.compare_rows(one / file, mesh / file, scorer.words)
        figures["score_gaps"] = scorer.gaps(found, phase, iteration)
        if phase == "calibrate":
            figures["scores"] = compare_scores(
                one, bench.run(directory, on_mesh=True, until=BALANCE)
            )
        results[name] = figures
    return results


def compare_scores(one, mesh):
    """The choice of both, and the largest difference of a cell's score."""
    ours, theirs = (json.loads((run / BALANCE).read_text()) for run in (one, mesh))
    pairs = zip(_flat(ours["score"]), _flat(theirs["score"]), strict=True)
    return {
        "chosen": [ours["chosen"], theirs["chosen"]],
        "largest_difference": max(abs(a - b) for a, b in pairs),
    }


def _flat(nested):
    return [nested] if not isinstance(nested, list) else [x for part in nested for x in _flat(part)]


def verdicts(norms, sampled):
    """What passed a limit."""
    wrong = []
    for what, tensors in norms.items():
        if "full" not in what:
            wrong += [
                f"{what}: {path} {norm:.1e}"
                for path, norm in tensors.items()
                if not norm <= MOST_NORM
            ]
    for name, figures in sampled.items():
        if figures["flips_per_token"] > MOST_FLIPS:
            wrong.append(f"{name}: {figures['flips']} flips in {figures['tokens']} tokens")
        wrong += [f"{name}: {text} differs" for text in figures["discrete_differences"]]
        for column, value in figures["largest_float_difference"].items():
            if value > MOST_FLOAT:
                wrong.append(f"{name}: {column} differs by {value:.1e}")
    return wrong


def show(norms, sampled, sizes):
    """Prints Markdown."""
    print(f"\nmesh {sizes} against one device\n\n| training | tensors | largest norm | of |")
    print("|---|---|---|---|")
    for what, tensors in norms.items():
        worst = max(tensors, key=tensors.get)
        print(f"| {what} | {len(tensors)} | {tensors[worst]:.1e} | {worst} |")
    print("\n| sampling | rows | tokens | flips | a token | score gaps | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for name, figures in sampled.items():
        gaps = ", ".join("?" if gap is None else f"{gap:.1e}" for gap in figures["score_gaps"][:10])
        floats = ", ".join(f"{k} {v:.1e}" for k, v in figures["largest_float_difference"].items())
        print(
            f"| {name} | {figures['rows']:,} | {figures['tokens']:,} | {figures['flips']} | "
            f"{figures['flips_per_token']:.1e} | {gaps or '-'} | {floats} |"
        )
        if "scores" in figures:
            choices = [
                {axis: chosen[axis] for axis in ("temperature", "top_k", "threshold")}
                for chosen in figures["scores"]["chosen"]
            ]
            difference = figures["scores"]["largest_difference"]
            print(f"\nchoices {choices}, balance scores within {difference:.1e}\n")
    print()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/arithmetic.py")
    parser.add_argument("--overrides", default="", help="further flags of main, in one string")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="holds all runs")
    parser.add_argument("--mesh", default="2,2,2", help="data,fsdp,tensor")
    parser.add_argument("--full", action="store_true", help="also training of full length")
    parser.add_argument("--cpus", default="", help="cores of all runs, such as 0 or 0-1")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.mesh = tuple(int(size) for size in arguments.mesh.split(","))
    if len(arguments.mesh) != 3:
        parser.error("--mesh takes three sizes: data,fsdp,tensor")
    if arguments.workdir.exists() and any(arguments.workdir.iterdir()):
        parser.error(f"{arguments.workdir} is not empty: mesh starts from nothing")
    return arguments


def main():
    arguments = parse()
    sys.path.insert(0, str(launching.ROOT))  # `flips` reads parameters with the package
    bench = Bench(arguments)
    source = launching.source_digest()
    one = bench.run("one", on_mesh=False)
    norms = compare_training(bench, one, arguments.full)
    sampled = compare_sampling(bench, one)
    if launching.source_digest() != source:
        raise SystemExit("the source changed meanwhile: these runs are not of one program")
    show(norms, sampled, arguments.mesh)
    wrong = verdicts(norms, sampled)
    print("\n".join(f"ABOVE ITS LIMIT: {line}" for line in wrong) or "all within their limits")
    if arguments.json:
        result = {"mesh": arguments.mesh, "training": norms, "sampling": sampled, "wrong": wrong}
        launching.write_json(arguments.json, result)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
