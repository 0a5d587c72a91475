"""What programs need beside their arguments, by arithmetic."""

from __future__ import annotations

from bstar_jax import sharding
from bstar_jax.planning import loads
from bstar_jax.planning.loads import Unit
from bstar_jax.planning.programs import Programs
from bstar_jax.planning.shapes import bytes_on_device

_SCRATCH = 1.25
"""What compiled optimizer steps of 7 billion parameters needed, by what arithmetic explains."""


def step(programs: Programs, size: loads.Step, params: int) -> int:
    """Bytes that an optimizer step needs beside its state and batch, by arithmetic.

    Inputs of every layer, or what remat keeps; of one layer what it computes; the gradient, and
    the update; of the head its gradient over `fsdp`, and a chunk of scores.
    """
    model, mesh = programs.model, programs.mesh
    tensor, item = mesh.shape["tensor"], 2 if model.dtype == "bfloat16" else 4
    tokens = size.micro_rows // sharding.row_shards(mesh) * size.length
    width, inner = model.width, model.feed_forward // tensor
    heads = (model.heads + 2 * model.kv_heads) * model.width_per_head // tensor
    of_a_layer = tokens * item * (4 * width + 4 * inner + 2 * heads)
    kept = {"full": width, "dots": width + 3 * inner + 2 * heads + width}.get(model.remat, 0)
    kept = kept or 4 * width + 4 * inner + 2 * heads
    vocab = sharding.padded_vocab(model, mesh) // tensor
    head = 2 * 4 * vocab * width + 2 * min(2**28, 4 * tokens * vocab)
    layer = bytes_on_device(programs.state().params["blocks"]) * mesh.shape["fsdp"] // model.layers
    exact = model.layers * tokens * item * kept + 2 * of_a_layer + 2 * params + head + layer
    return int(_SCRATCH * exact)


def decode(programs: Programs, unit: Unit, lanes: int) -> int:
    """Bytes that decoding needs beside weights and cache, by arithmetic.

    What the compiler keeps in another layout: the prompts of lanes, and the weights of queries,
    keys and values; the scores of the next token.
    """
    model, tensor = programs.rollout, programs.mesh.shape["tensor"]
    heads = (model.heads + 2 * model.kv_heads) * model.width_per_head // tensor
    copied = 2 * model.layers * model.width * heads
    scores = 3 * 4 * unit.slots * sharding.padded_vocab(model, programs.mesh) // tensor
    return lanes + copied + scores
