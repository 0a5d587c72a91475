"""One iteration on a mesh of eight virtual CPU devices against one device.

    python -m benchmarks.fidelity.mesh --workdir=runs/mesh --json=runs/mesh.json
    python -m benchmarks.fidelity.mesh --workdir=DIR --mesh=8,1,1 --overrides=...
    python -m benchmarks.fidelity.mesh --workdir=DIR --mesh=all \
        --overrides='--config.model.heads=8 --config.model.kv_heads=8'

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
also training of full length, which has no limit: rounding grows with the steps. --mesh=all goes
through every (data, fsdp, tensor) of eight devices, ten of them, beside the same one device; the
overrides must give the model heads and a feed-forward width that eight divides.

Exit code 1 where a limit is passed. Some ten minutes for the default run on two cores.
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

from benchmarks import launching

MOST_FLIPS = 1e-4  # a token
MOST_NORM = 1e-5
MOST_FLOAT = 1e-4
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
        self.cpus = arguments.cpus
        self.meshes = arguments.meshes

    def run(self, name, sizes, *, overrides=(), iterations=1, until=None):
        """Runs, or resumes, to the end, or until a file of the run stands."""
        flags = [*self.overrides, f"--config.loop.iterations={iterations}", *overrides]
        for axis, size in zip(("data", "fsdp", "tensor"), sizes, strict=True):
            flags.append(f"--config.mesh.{axis}={size}")
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

    def _share_cache(self, run, sizes):
        """Runs on the same mesh share what they compile."""
        cache = self.workdir / "-".join(["cache", *map(str, sizes)])
        for folder in (cache, run):
            folder.mkdir(parents=True, exist_ok=True)
        if not (run / "cache").exists():
            (run / "cache").symlink_to(cache)

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

    from benchmarks.fidelity import stored

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


def train(bench, one, sizes):
    """STEPS steps of sft and of improve, from what the one device started them from: both runs."""
    label = "x".join(map(str, sizes))
    warm_up = [f"--config.sft.{name}={STEPS}" for name in ("steps", "warmup_steps")]
    sft = bench.run(f"sft-{label}", sizes, overrides=warm_up, iterations=0, until=SAVED_0)
    bench.copy(one, f"improve-{label}", BEFORE_IMPROVE)
    steps = [f"--config.improve.steps={STEPS}"]
    return sft, bench.run(f"improve-{label}", sizes, overrides=steps, until=SAVED_1)


def compare_training(bench, one, short, sizes, full):
    """{what: {tensor: relative norm}}, from the same start; `short` is `train` of one device."""
    norms = {}
    for phase, params, ours, theirs in zip(
        ("sft", "improve"), (PARAMS_0, PARAMS_1), short, train(bench, one, sizes), strict=True
    ):
        norms[f"{phase}, {STEPS} steps"] = compare_params(ours, theirs, params)
    if full:
        label = "x".join(map(str, sizes))
        whole = bench.run(f"full-sft-{label}", sizes, iterations=0)
        norms["sft, full length"] = compare_params(one, whole, PARAMS_0)
        bench.copy(one, f"full-improve-{label}", BEFORE_IMPROVE)
        whole = bench.run(f"full-improve-{label}", sizes)
        norms["improve, full length"] = compare_params(one, whole, PARAMS_1)
    return norms


def sample(bench, one, sizes):
    """{phase: run that holds it}, sampled with the parameters that the one device stored."""
    from benchmarks.fidelity import flips

    label = "x".join(map(str, sizes))
    bench.copy(one, f"sampled-{label}", ())
    run = bench.run(f"sampled-{label}", sizes, until=GENERATE)
    runs = dict.fromkeys(("monitor 0", "calibrate", "generate"), run)
    if flips.chosen(run / BALANCE) != flips.chosen(
        one / BALANCE
    ):  # so close that rounding decides: generate starts from one's
        bench.copy(one, f"generate-{label}", (MONITOR_0, CALIBRATE, BALANCE))
        runs["generate"] = bench.run(f"generate-{label}", sizes, until=GENERATE)
    bench.copy(one, f"monitor-{label}", (*BEFORE_IMPROVE, PARAMS_1, TRAINING))
    runs["monitor 1"] = bench.run(f"monitor-{label}", sizes, until=MONITOR_1)
    return runs


def compare_sampling(bench, one, scorer, sizes):
    """{phase: figures} of what each phase sampled."""
    from benchmarks.fidelity import flips

    results = {}
    for name, run in sample(bench, one, sizes).items():
        file, phase, iteration = SAMPLED[name]
        if not (one / file).exists():
            continue  # a single cell samples nothing to calibrate
        figures, found = flips.compare_rows(one / file, run / file, scorer.words)
        figures["score_gaps"] = scorer.gaps(found, phase, iteration)
        if phase == "calibrate":
            figures["scores"] = flips.compare_scores(one / BALANCE, run / BALANCE)
        results[name] = figures
    return results


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
    from benchmarks.fidelity import flips

    print(f"\nmesh {sizes} against one device\n\n| training | tensors | largest norm | of |")
    print("|---|---|---|---|")
    for what, tensors in norms.items():
        worst = max(tensors, key=tensors.get)
        print(f"| {what} | {len(tensors)} | {tensors[worst]:.1e} | {worst} |")
    flips.show(sampled)


def show_all(results):
    """Prints a line a mesh."""
    print("| mesh | sft | improve | rows | tokens | flips | score gaps | log-probabilities |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        sampled = result["sampling"].values()
        counts = [sum(figures[name] for figures in sampled) for name in ("rows", "tokens", "flips")]
        norms = " | ".join(f"{max(of.values()):.1e}" for of in result["training"].values())
        gaps = [gap for figures in sampled for gap in figures["score_gaps"]]
        gaps = ", ".join("?" if gap is None else f"{gap:.1e}" for gap in gaps[:5])
        far = max(figures["largest_float_difference"]["logprob"] for figures in sampled)
        counts = " | ".join(f"{count:,}" for count in counts)
        print(f"| {result['mesh']} | {norms} | {counts} | {gaps or '-'} | {far:.1e} |")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/arithmetic.py")
    parser.add_argument("--overrides", default="", help="further flags of main, in one string")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="holds all runs")
    parser.add_argument("--mesh", default="2,2,2", help="data,fsdp,tensor; or all")
    parser.add_argument("--full", action="store_true", help="also training of full length")
    parser.add_argument("--cpus", default="", help="cores of all runs, such as 0 or 0-1")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    one = lambda: [tuple(int(size) for size in arguments.mesh.split(","))]  # noqa: E731
    arguments.meshes = ALL if arguments.mesh == "all" else one()
    if any(len(sizes) != 3 for sizes in arguments.meshes):
        parser.error("--mesh takes three sizes: data,fsdp,tensor; or all")
    if arguments.workdir.exists() and any(arguments.workdir.iterdir()):
        parser.error(f"{arguments.workdir} is not empty: mesh starts from nothing")
    return arguments


def compare(bench, full):
    """Yields what each mesh gave beside one device."""
    from benchmarks.fidelity import flips

    one = bench.run("one", ONE)
    short = train(bench, one, ONE)
    scorer = flips.Scorer(one, launching.read_config(one))
    for sizes in bench.meshes:
        norms = compare_training(bench, one, short, sizes, full)
        sampled = compare_sampling(bench, one, scorer, sizes)
        show(norms, sampled, sizes)
        wrong = verdicts(norms, sampled)
        print("\n".join(f"ABOVE ITS LIMIT: {line}" for line in wrong) or "all within their limits")
        yield {"mesh": sizes, "training": norms, "sampling": sampled, "wrong": wrong}


def main():
    arguments = parse()
    source = launching.source_digest()
    results = list(compare(Bench(arguments), arguments.full))
    if launching.source_digest() != source:
        raise SystemExit("the source changed meanwhile: these runs are not of one program")
    if len(results) > 1:
        show_all(results)
    if arguments.json:
        launching.write_json(arguments.json, results if len(results) > 1 else results[0])
    sys.exit(1 if any(result["wrong"] for result in results) else 0)


if __name__ == "__main__":
    main()
