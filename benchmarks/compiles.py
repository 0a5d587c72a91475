"""Compiles what a config of a published model runs, for TPUs that need not be there.

    python benchmarks/compiles.py --config=configs/math_mistral7b.py --topology=v5e:8x8 --json=FILE

An optimizer step of as many rows as texts, prefill, and the decode loop, with the config's mesh,
lengths and batches; the model's shape is that of the published `config.json`, copied below. Prints
what the compiler says that a device must hold, in GiB. Needs libtpu, no TPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile
import types

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from tpu_sampling import Programs

from bstar_jax import hub, model, sharding
from bstar_jax.flags import load
from bstar_jax.training import optimizer
from bstar_jax.training.batches import LENGTH_STEP, Batch
from bstar_jax.training.fit import train_step

COMMON = {"hidden_act": "silu", "attention_dropout": 0.0, "num_key_value_heads": 8}
PUBLISHED = {
    "mistralai/Mistral-7B": COMMON | {
        "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
    },
    "meta-llama/Meta-Llama-3-8B": COMMON | {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    },
    "Qwen/Qwen2.5-1.5B": COMMON | {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536,
        "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


def main():
    """Compiles, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--topology", required=True)
    parser.add_argument("--devices", type=int, help="only the first so many of them")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    config = load(args.config)
    devices = topologies.get_topology_desc(args.topology, platform="tpu").devices
    mesh = sharding.make_mesh(config.mesh, devices[: args.devices])
    shape = resolved(config.model)
    sharding.check_model(mesh, shape)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        report = {"step": step(config, shape, mesh), **sampling(config, shape, mesh)}
    for name, figures in report.items():
        held = figures["arguments"] + figures["temporaries"] + figures["outputs_not_arguments"]
        print(
            f"{name:8} compiled in {figures['compile_seconds']:.0f} s, a device holds "
            f"{held / 2**30:.2f} GiB, {figures['temporaries'] / 2**30:.2f} of them temporary"
        )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def resolved(settings):
    """The model of a config, its checkpoint's shape read from the table above."""
    name = next(name for name in PUBLISHED if settings.checkpoint.startswith(name))
    with tempfile.TemporaryDirectory() as room:
        pathlib.Path(room, "config.json").write_text(json.dumps(PUBLISHED[name]))
        return dataclasses.replace(hub.architecture(settings, room), checkpoint="")


def step(config, shape, mesh):
    """One optimizer step of `improve`, its rows as long as texts may be."""
    like = optimizer.shapes(shape, config.optimizer)
    padded = sharding.padded_vocab(shape, mesh)
    like = jax.eval_shape(lambda tree: model.pad_vocab(shape, tree, padded), like)
    places = sharding.shardings(mesh, like, model.axes_of(shape, like))
    state = jax.tree.map(_placed, like, places)
    longest = config.generate.max_prompt_tokens + config.generate.max_tokens
    size = (config.improve.batch, -(-longest // LENGTH_STEP) * LENGTH_STEP)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    whole, part = (
        jax.ShapeDtypeStruct(size, dtype, sharding=rows) for dtype in (jnp.int32, jnp.float32)
    )
    fields = {field.name: whole for field in dataclasses.fields(Batch)}
    batch = Batch(**{**fields, "weights_BL": part})
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    lowered = train_step.lower(
        shape, config.optimizer, state, batch, rate, micro_rows=config.training.micro_rows
    )
    return Programs._report(None, lowered)


def sampling(config, shape, mesh):
    """Prefill and the decode loop of a unit of `generate`."""
    settings = config.generate
    flags = types.SimpleNamespace(
        queries=settings.batch // settings.responses, responses=settings.responses,
        slots=settings.slots, prompt=settings.max_prompt_tokens, response=settings.max_tokens,
    )  # fmt: skip
    programs = Programs(mesh, flags, shape)
    return {"prefill": programs.prefill(), "decode": programs.decode()}


def _placed(shape, place):
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)


if __name__ == "__main__":
    main()
