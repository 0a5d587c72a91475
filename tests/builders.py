"""Small real things that many tests start from: a model, its parameters, words, queries, meshes."""

import dataclasses
import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax import model, sharding, tasks, tokenizer
from bstar_jax.config import MeshConfig, ModelConfig
from bstar_jax.records import Query
from bstar_jax.run.checkpoints import place_params

WORDS = tokenizer.word_tokenizer(tasks.arithmetic.VOCABULARY)
MODEL = ModelConfig(
    vocab_size=WORDS.vocab_size, width=16, layers=2, heads=4, kv_heads=2, feed_forward=32
)

# Every field that families differ by, in three models.
GEMMA = dataclasses.replace(
    MODEL, layers=3, head_width=6, window=5, window_pattern="wwf", rope_local_theta=30.0,
    rope_scaling="linear", rope_factor=8.0, activation="gelu", qk_norm=True, post_norms=True,
    norm_offset=True, embedding_scale=True, query_divisor=11.0, attention_cap=3.0, logit_cap=5.0,
)  # fmt: skip
QWEN = dataclasses.replace(
    MODEL, tied=False, qkv_bias=True, output_bias=True, feed_forward_bias=True,
    rope_scaling="llama3", rope_factor=4.0, rope_length=64,
)  # fmt: skip

OLMO = dataclasses.replace(
    MODEL, layers=3, window=5, window_pattern="wf", rope_local_theta=30.0, rope_pattern="rrn",
    rope_scaling="yarn", rope_factor=4.0, rope_length=16, rope_high_frequency=3.0,
    rope_amplitude=1.3, qk_norm=True, qk_norm_whole=True, pre_norms=False, post_norms=True,
    embedding_multiplier=3.0, residual_scale=0.7, logit_divisor=2.0,
)  # fmt: skip


@functools.lru_cache
def params(config: ModelConfig = MODEL, seed: int = 0) -> dict:
    """Parameters with nothing special about them: no norm is 1, no head is 0."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(model.init, config), jax.random.key(0))

    def fill(path, shape):
        is_scale = path[-1].key == "scale"
        scale = 0.2 if is_scale else np.prod(shape.shape[-2:-1]) ** -0.5
        value = is_scale + scale * rng.standard_normal(shape.shape)
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """A mesh over the first devices."""
    count = data * fsdp * tensor
    return sharding.make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[:count])


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of the suite, for a process of its own on so many devices."""
    return re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])


def for_training(config: ModelConfig, where: jax.sharding.Mesh, values: dict) -> dict:
    """Parameters on the storage map of a mesh; copies, so that they may be donated."""
    return place_params(config, where, jax.tree.map(jnp.copy, values))


def for_sampling(config: ModelConfig, where: jax.sharding.Mesh, values: dict) -> dict:
    """Parameters on the sampling map of a mesh."""
    stored = place_params(config, where, values)
    axes = model.logical_axes(config, stored)
    return jax.device_put(stored, sharding.shardings(where, stored, axes, sharding.SAMPLING))


def queries(count: int, seed: int = 0) -> list[Query]:
    """Questions of 1 to 8 words out of the vocabulary."""
    rng = np.random.default_rng(seed)
    prompts = [
        " ".join(rng.choice(tasks.arithmetic.VOCABULARY, 1 + place % 8)) for place in range(count)
    ]
    return [
        Query(f"train/{place}", "train", prompt, reference="0")
        for place, prompt in enumerate(prompts)
    ]
