"""Bytes of keys and values that a unit keeps, with its prompts shared and without.

    python -m benchmarks.compiled.cache_memory --queries=64 --responses=64 --prompt=512

Counted from the shapes of the engine's own arrays, for the shape of Qwen2.5-7B in bf16. Without
sharing every slot holds its prompt and its response, as engines do that prefill each copy.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax.config import ModelConfig
from bstar_jax.sampling import cache as caches
from bstar_jax.sampling.engine import layout

MODEL = ModelConfig(
    vocab_size=152_064, width=3584, layers=28, heads=28, kv_heads=4, head_width=128,
    feed_forward=18_944, tied=False, dtype="bfloat16",
)  # fmt: skip


def kept(queries, responses, prompt, response, slots):
    """Bytes of prompts, of the lanes' prompts, of responses, and what slots of their own need."""
    how = layout(queries, responses, slots)
    prompts = jax.eval_shape(lambda: caches.empty_prompts(MODEL, 1, queries, prompt))
    columns = response - 1
    cache = jax.eval_shape(lambda held: caches.start(MODEL, held, how.shape, columns), prompts)
    lanes = [part for part in (cache.prompt_key, cache.prompt_value) if part is not None]
    token = (
        2 * MODEL.layers * MODEL.kv_heads * MODEL.width_per_head * jnp.dtype(MODEL.dtype).itemsize
    )
    alone = how.lanes * how.slots * (prompt + columns) * token
    return how, size(prompts), size(lanes), size([cache.key, cache.value]), alone


def size(tree) -> int:
    """Bytes of all arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("queries", 64), ("responses", 64), ("prompt", 512), ("response", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    flags = parser.parse_args()
    sizes = (flags.queries, flags.responses, flags.prompt, flags.response)
    print("slots  lanes x slots x prompts  prompts  lanes  responses  together  not shared   (GiB)")
    for slots in (64, 256, 512, 1024, flags.queries * flags.responses):
        how, *parts, alone = kept(*sizes, slots)
        figures = [part / 2**30 for part in (*parts, sum(parts), alone)]
        shape = " x ".join(map(str, how.shape))
        print(f"{slots:5}  {shape:23}", "  ".join(f"{figure:8.2f}" for figure in figures))


if __name__ == "__main__":
    main()
