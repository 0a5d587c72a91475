"""Times `kernels.sample` beside what it replaces, on the default device.

    python -m benchmarks.speed.kernels --json kernels.json
    python -m benchmarks.speed.kernels --repeats 9 --shapes 64x32000 --dtype bfloat16
    python -m benchmarks.speed.kernels --impl pallas_gpu --calls 100 --shapes 64x151936 256x151936

Every repeat times each program once, in turn, so that load on the machine falls on all of them.
Ratios are taken within a repeat; their median and their range are reported. `categorical` is
`jax.random.categorical` on the same logits, `top_k_categorical` is `jax.lax.top_k` of 64 and a
`categorical` over them: both without settings for each row, and without log-probabilities. The
other programs draw by `impl="auto"`, and with `--impl` also by the implementation that it names, as
`top_k@pallas_gpu`.

The floor is the time in which memory can give the logits once: their bytes by the bandwidth of a
copy of 256 MiB, timed in the same turns. Short programs need `--calls`: so many draws, each with
its own noise, run in one program, and a time is that of all of them by their number. With one call
the time includes what the host takes to start a program.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import figures
from benchmarks.figures import Spread
from bstar_jax import kernels

KMAX = 64
BASELINES = ("categorical", "top_k_categorical")
IMPLEMENTATIONS = ("auto", "xla", "pallas_tpu", "pallas_gpu")
COPIED_BYTES = 256 << 20
Draw = Callable[[jax.Array, Any], jax.Array]  # (logits_BV, number of the call) -> token_B
Run = Callable[[], jax.Array]


def programs(rows: int, vocab: int, impl: str) -> dict[str, Draw]:
    """The ways to draw a token a row, by name."""
    rng = np.random.default_rng(0)
    key = jax.random.key(0)
    keys_B2 = jax.random.bits(key, (rows, 2), jnp.uint32)
    temperature_B = jnp.linspace(0.5, 1.2, rows)
    top_k_B = jnp.asarray(rng.choice([1, 10, 20, 50, KMAX], rows), jnp.int32)
    off_B = jnp.zeros_like(top_k_B)
    mixed_B = jnp.where(jnp.arange(rows) % 2 == 0, top_k_B, off_B)
    beyond_B = jnp.where(jnp.arange(rows) % 8 == 0, 2 * KMAX, top_k_B)
    top_p_B = jnp.full((rows,), 0.9)

    def categorical(logits_BV: jax.Array, call: Any) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, call), logits_BV)

    def top_k_categorical(logits_BV: jax.Array, call: Any) -> jax.Array:
        value_BK, column_BK = jax.lax.top_k(logits_BV, KMAX)
        index_B = jax.random.categorical(jax.random.fold_in(key, call), value_BK)
        return jnp.take_along_axis(column_BK, index_B[:, None], axis=1)[:, 0]

    def sample(*cuts: jax.Array | None, **options: Any) -> Draw:
        def draw(logits_BV: jax.Array, call: Any) -> jax.Array:
            arguments = (logits_BV, keys_B2 + jnp.uint32(call), temperature_B, *cuts)
            return kernels.sample(*arguments, kmax=KMAX, **options).token_B

        return draw

    plain: dict[str, tuple[jax.Array, ...]] = {
        "top_k": (top_k_B,),
        "off": (),
        "off_by_value": (off_B,),
        "mixed": (mixed_B,),
        "top_k_one_row_in_eight_beyond_kmax": (beyond_B,),
    }
    draws: dict[str, Draw] = {"categorical": categorical, "top_k_categorical": top_k_categorical}
    draws |= {name: sample(*cuts) for name, cuts in plain.items()}
    if impl != "auto":
        draws |= {f"{name}@{impl}": sample(*cuts, impl=impl) for name, cuts in plain.items()}
    return draws | {
        "off_icdf": sample(noise="icdf"),
        "top_k_top_p": sample(top_k_B, top_p_B),
        "off_top_p": sample(None, top_p_B),
    }


def repeated(draw: Draw, calls: int) -> Callable[[jax.Array], jax.Array]:
    """Compiles `calls` draws as one program, which returns the sum of their tokens."""
    if calls == 1:
        return jax.jit(lambda logits_BV: draw(logits_BV, 0))

    def add(logits_BV: jax.Array, call: jax.Array, total_B: jax.Array) -> jax.Array:
        # Tied to the call, or the compiler hoists out what does not depend on the noise.
        logits_BV, call = jax.lax.optimization_barrier((logits_BV, call))
        return total_B + draw(logits_BV, call)

    @jax.jit
    def run(logits_BV: jax.Array) -> jax.Array:
        start_B = jnp.zeros(logits_BV.shape[:1], jnp.int32)
        return jax.lax.fori_loop(0, calls, functools.partial(add, logits_BV), start_B)

    return run


def copying(calls: int) -> Run:
    """Compiles a program that reads and writes COPIED_BYTES `calls` times."""
    x = jnp.ones(COPIED_BYTES // 4)
    run = jax.jit(lambda x: jax.lax.fori_loop(0, calls, lambda call, x: -x, x))
    return lambda: run(x)


def measure(
    rows: int, vocab: int, dtype: str, repeats: int, calls: int, impl: str
) -> list[dict[str, Any]]:
    """Times every program in turns; returns a record a program."""
    rng = np.random.default_rng(0)
    logits_BV = jnp.asarray(3 * rng.standard_normal((rows, vocab), np.float32)).astype(dtype)
    runs: dict[str, Run] = {
        name: functools.partial(repeated(draw, calls), logits_BV)
        for name, draw in programs(rows, vocab, impl).items()
    }
    seconds = times_in_turns(runs | {"copy": copying(calls)}, repeats, calls)
    bytes_a_second = 2 * COPIED_BYTES / statistics.median(seconds.pop("copy"))
    floor = logits_BV.nbytes / bytes_a_second
    records = []
    for name, times in seconds.items():
        record: dict[str, Any] = {
            "name": name,
            "rows": rows,
            "vocab": vocab,
            "dtype": jnp.dtype(dtype).name,
            "milliseconds": 1e3 * statistics.median(times),
            "repeats": repeats,
            "calls": calls,
            "copy_gigabytes_per_second": bytes_a_second / 1e9,
            "ratio_to_floor": statistics.median(times) / floor,
        }
        for baseline in BASELINES:
            ratio = Spread.of_ratios(times, seconds[baseline])
            record |= ratio.entries(f"ratio_to_{baseline}")
        records.append(record)
    return records


def times_in_turns(runs: Mapping[str, Run], repeats: int, calls: int) -> dict[str, list[float]]:
    """Seconds a call of every program, one value a repeat; compiles before it times."""
    for run in runs.values():
        jax.block_until_ready(run())
    seconds = {name: list[float]() for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="alternating repeats, 5 or more")
    parser.add_argument(
        "--shapes", nargs="+", default=["64x32000", "64x151936"], help="rows x vocabulary"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the logits"
    )
    parser.add_argument("--calls", type=int, default=1, help="draws a program; 100 on a GPU")
    parser.add_argument(
        "--impl", choices=IMPLEMENTATIONS, default="auto", help="measure this one beside auto"
    )
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        parser.error(f"--repeats is {arguments.repeats}; medians need 5 or more")
    if arguments.calls < 1:
        parser.error(f"--calls is {arguments.calls}; it must be at least 1")
    return arguments


def table(records: list[dict[str, Any]]) -> str:
    """The programs of one shape beside each other."""
    rows = []
    for record in records:
        ratios = [Spread.from_entries(record, f"ratio_to_{name}") for name in BASELINES]
        cells = [f"{ratios[0]:.3f}", f"{ratios[1]:.2f}", f"{record['ratio_to_floor']:.1f}"]
        rows.append([record["name"], f"{record['milliseconds']:.2f}", *cells])
    return figures.table(["program", "ms", *(f"to {name}" for name in BASELINES), "to floor"], rows)


def main() -> None:
    """Measures every shape, prints a table each and writes the records."""
    arguments = parse()
    records = []
    for shape in arguments.shapes:
        rows, vocab = map(int, shape.split("x"))
        settings = (arguments.dtype, arguments.repeats, arguments.calls, arguments.impl)
        found = measure(rows, vocab, *settings)
        print(f"\n{shape} {arguments.dtype}\n\n{table(found)}", flush=True)
        records += found
    device = jax.devices()[0].device_kind
    figures.write(arguments.json, {"device": device, "records": records})


if __name__ == "__main__":
    main()
