"""Times `kernels.sample` against what it replaces, on whatever device is the default.

    python benchmarks/kernels.py --json kernels.json
    python benchmarks/kernels.py --repeats 9 --shapes 64x32000 --dtype bfloat16

Every repeat times each program once, in turn, so that a load on the machine falls on all of them.
Ratios are taken within a repeat; reported are their median and their range. `categorical` is
`jax.random.categorical` on the same logits, `top_k_categorical` is `jax.lax.top_k` of 64 and a
`categorical` over them: both without per-row settings, and without log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax import kernels

KMAX = 64
BASELINES = ("categorical", "top_k_categorical")


def programs(rows: int, vocab: int, dtype) -> dict:
    """Returns a function a name, compiled, that draws a token for every row."""
    rng = np.random.default_rng(0)
    logits_BV = jnp.asarray(3 * rng.standard_normal((rows, vocab), np.float32)).astype(dtype)
    key = jax.random.key(0)
    keys_B2 = jax.random.bits(key, (rows, 2), jnp.uint32)
    temperature_B = jnp.linspace(0.5, 1.2, rows)
    top_k_B = jnp.asarray(rng.choice([1, 10, 20, 50, KMAX], rows), jnp.int32)
    off_B = jnp.zeros_like(top_k_B)
    mixed_B = jnp.where(jnp.arange(rows) % 2 == 0, top_k_B, off_B)
    beyond_B = jnp.where(jnp.arange(rows) % 8 == 0, 2 * KMAX, top_k_B)
    top_p_B = jnp.full((rows,), 0.9)

    @jax.jit
    def categorical(logits_BV):
        return jax.random.categorical(key, logits_BV)

    @jax.jit
    def top_k_categorical(logits_BV):
        value_BK, column_BK = jax.lax.top_k(logits_BV, KMAX)
        place_B = jax.random.categorical(key, value_BK)
        return jnp.take_along_axis(column_BK, place_B[:, None], axis=1)

    def sample(*cuts, **options):
        return lambda: (
            kernels.sample(logits_BV, keys_B2, temperature_B, *cuts, kmax=KMAX, **options).token_B
        )

    return {
        "categorical": lambda: categorical(logits_BV),
        "top_k_categorical": lambda: top_k_categorical(logits_BV),
        "top_k": sample(top_k_B),
        "off": sample(),
        "off_by_value": sample(off_B),
        "off_icdf": sample(noise="icdf"),
        "mixed": sample(mixed_B),
        "top_k_one_row_in_eight_beyond_kmax": sample(beyond_B),
        "top_k_top_p": sample(top_k_B, top_p_B),
        "off_top_p": sample(None, top_p_B),
    }


def measure(rows: int, vocab: int, dtype, repeats: int) -> list[dict]:
    """Times every program in turns; returns a record a program."""
    draws = programs(rows, vocab, dtype)
    for draw in draws.values():
        jax.block_until_ready(draw())
    seconds = {name: [] for name in draws}
    for _ in range(repeats):
        for name, draw in draws.items():
            start = time.perf_counter()
            jax.block_until_ready(draw())
            seconds[name].append(time.perf_counter() - start)
    records = []
    for name, times in seconds.items():
        record = {
            "name": name,
            "rows": rows,
            "vocab": vocab,
            "dtype": jnp.dtype(dtype).name,
            "milliseconds": 1e3 * statistics.median(times),
            "repeats": repeats,
        }
        for baseline in BASELINES:
            ratios = [a / b for a, b in zip(times, seconds[baseline], strict=True)]
            record[f"ratio_to_{baseline}"] = statistics.median(ratios)
            record[f"ratio_to_{baseline}_range"] = [min(ratios), max(ratios)]
        records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description="Times kernels.sample against JAX's own sampling.")
    parser.add_argument("--json", type=pathlib.Path, help="write the records to this file")
    parser.add_argument("--repeats", type=int, default=9, help="alternating repeats, 5 or more")
    parser.add_argument("--shapes", nargs="+", default=["64x32000", "64x151936"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        parser.error(f"--repeats is {arguments.repeats}; medians need 5 or more")
    records = []
    for shape in arguments.shapes:
        rows, vocab = map(int, shape.split("x"))
        print(f"{shape} {arguments.dtype}: ms, ratio to categorical [range], to top_k_categorical")
        for record in measure(rows, vocab, arguments.dtype, arguments.repeats):
            low, high = record["ratio_to_categorical_range"]
            print(
                f"  {record['name']:36s} {record['milliseconds']:8.2f}"
                f"  {record['ratio_to_categorical']:.3f} [{low:.3f}, {high:.3f}]"
                f"  {record['ratio_to_top_k_categorical']:.2f}",
                flush=True,
            )
            records.append(record)
    if arguments.json:
        device = jax.devices()[0].device_kind
        arguments.json.write_text(json.dumps({"device": device, "records": records}, indent=1))


if __name__ == "__main__":
    main()
