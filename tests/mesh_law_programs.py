"""Compiles what runs on a mesh of eight devices, and says what its devices exchange.

Run as `python -m tests.mesh_law_programs`, in a process of its own: the compiler's warnings go to
its stderr, behind a line that names the program. Prints one JSON object a line, a program each.
"""

import dataclasses
import json
import re
import sys

import tests.conftest  # noqa: F401  (sets the stage before JAX is imported)

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax import sharding
from bstar_jax.balance import Choice
from bstar_jax.config import OptimizerConfig
from bstar_jax.sampling import Keys, decode, engine, generate
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Batch
from bstar_jax.training.fit import train_step
from tests import builders

SIZES = (2, 2, 2)
# A vocabulary so large that nothing else has as many numbers.
MODEL = dataclasses.replace(builders.MODEL, vocab_size=20_000, tied=False)
_EXCHANGE = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def exchanges(text):
    """[[kind, shape]] of the results of every collective of a compiled program."""
    return [
        [kind, [int(size) for size in shape.split(",") if size]]
        for results, kind in _EXCHANGE.findall(text)
        for shape in re.findall(r"\w+\[([\d,]*)\]", results)
    ]


def report(name, lowered):
    print(f"compiling {name}", file=sys.stderr, flush=True)
    text = lowered.compile().as_text()
    sys.stderr.flush()
    print(json.dumps({"name": name, "exchanges": exchanges(text)}), flush=True)


def plain_gather(mesh):
    """What the compiler warns of: the table read as if it lay whole."""
    params = builders.for_training(MODEL, mesh, builders.params(MODEL))
    tokens_BL, _, _ = batch(mesh)

    def total(table_VD, tokens_BL):
        return jnp.sum(sharding.constrain(table_VD[tokens_BL], "batch", "length", None) ** 2)

    return jax.jit(jax.grad(total)).lower(params["embedding"], tokens_BL)


def batch(mesh):
    tokens_BL = np.random.default_rng(0).integers(2, 50, (16, 32)).astype(np.int32)
    rows = tokens_BL, np.ones(tokens_BL.shape, np.float32), np.ones_like(tokens_BL)
    return sharding.put_rows(mesh, rows)


def step(mesh):
    adam = OptimizerConfig()
    params = builders.for_training(MODEL, mesh, builders.params(MODEL))
    state = optimizer.init_state(MODEL, adam, mesh, params)
    tokens_BL, weights_BL, segments_BL = batch(mesh)
    rows = Batch(tokens_BL, tokens_BL, weights_BL, segments_BL)
    return train_step.lower(MODEL, adam, state, rows, 1e-3, micro_rows=8)


class _Enough(Exception):
    """The last program was compiled; nothing needs to run."""


def sampling(mesh):
    """Reports the programs of a unit as the engine calls them."""
    prefill, draw = engine.prefill, decode.decode

    def reported_prefill(*arguments, **settings):
        report("prefill", prefill.lower(*arguments, **settings))
        return prefill(*arguments, **settings)

    def reported_decode(*arguments, **settings):
        report("decode", draw.lower(*arguments, **settings))
        raise _Enough

    engine.prefill, decode.decode = reported_prefill, reported_decode
    cells = [Choice(1.0, top_k, 0.0, 1.0) for top_k in (0, 8)]
    params = builders.for_sampling(MODEL, mesh, builders.params(MODEL))
    try:
        generate(
            MODEL, params, builders.queries(4), choice=cells, keys=Keys(0, 1, "generate"),
            max_tokens=8, tokenizer=builders.WORDS, mesh=mesh,
        )  # fmt: skip
    except _Enough:
        return
    raise SystemExit("the engine no longer calls decode.decode")


def main():
    mesh = builders.mesh(*SIZES)
    with jax.set_mesh(mesh):
        for name, lower in {"plain": plain_gather, "step": step}.items():
            report(name, lower(mesh))
    sampling(mesh)


if __name__ == "__main__":
    main()
