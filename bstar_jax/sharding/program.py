"""A program of a run: what it is given, what it needs, what it does, by shapes alone.

Each room that runs programs has a `programs` module with two functions,

    programs(placement) -> list[Program]          what the room runs, at its largest
    resident(placement) -> dict[str, int]         what it keeps on a device between its programs

so that whoever plans a run asks the rooms and repeats nothing of them. Parts of a device's memory
go by name: "parameters", "optimizer", "rollout_weights", "process_model", "cache", "inputs".
Arrays are abstract: they have a shape, a type and a sharding, and no values.

Letters in formulas: t, f, d are the sizes of the mesh axes tensor, fsdp, data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bstar_jax.config import Config, ModelConfig
from bstar_jax.sharding.mesh import SAMPLING, padded_vocab, shardings, spec

Stage = Literal["train", "gather", "sample", "grade", "choose"]
"""What a run is doing while a program runs, in the order of an iteration that starts by training:
`gather` copies the parameters that sampling reads, `choose` scores the cells of the grid."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """A run laid out on devices.

    Attributes:
      config: All settings.
      model: The model that trains, with its vocabulary size known.
      mesh: All devices.
      sampling_mesh: The devices on which one process samples.
    """

    config: Config
    model: ModelConfig
    mesh: Mesh
    sampling_mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Collective:
    """Exchanges of one kind between devices, over the same mesh axes.

    Attributes:
      kind: The HLO operation, such as "all-gather".
      axes: Mesh axes that a group of devices spans, such as ("fsdp",); ("other",) if unknown.
      count: Number of exchanges in one run of the program, or in one turn of its loop.
      received: Bytes that a device receives in all of them.
      largest: Bytes of the largest array in any of them.
    """

    kind: str
    axes: tuple[str, ...]
    count: float
    received: float
    largest: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """The work of one device in one run of a program, or in one turn of its endless loop.

    Attributes:
      flops: Multiplications and additions in matrix products.
      bytes: Bytes read from and written to main memory.
      collectives: Exchanges with other devices, the largest first.
    """

    flops: float
    bytes: float
    collectives: tuple[Collective, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that a run compiles. Bytes are those of one device.

    Attributes:
      name: A short name, such as "decode".
      stage: What the run is doing meanwhile, which decides what else lies on a device.
      phases: The phases that run it, such as ("sft", "improve").
      mesh: The devices that it runs on.
      lower: Lowers it; None where there is no program and only memory counts.
      arguments: Bytes of its arguments, by part.
      temporaries: Estimated bytes that it needs besides its arguments.
      cost: Estimates its work; None where no estimate exists.
      tokens: Tokens that one run, or one decode step, trains on or draws, over all devices.
      turns: Number of turns of its loop whose length the compiler does not know.
    """

    name: str
    stage: Stage
    phases: tuple[str, ...]
    mesh: Mesh
    lower: Callable[[], Any] | None
    arguments: Mapping[str, int]
    temporaries: int
    cost: Callable[[], Cost] | None = None
    tokens: int = 0
    turns: int = 1


@dataclasses.dataclass(frozen=True)
class MatrixSizes:
    """Numbers of parameters in the matrices of a model.

    Attributes:
      layers: Of all layers.
      down: Of these, the last feed-forward matrix of every layer.
      head: Of the vocabulary head, padded.
    """

    layers: int
    down: int
    head: int


def matrix_sizes(placement: Placement) -> MatrixSizes:
    """Returns the sizes of the matrices of the model that trains."""
    model = placement.model
    heads = (2 * model.heads + 2 * model.kv_heads) * model.width_per_head
    down = model.layers * model.width * model.feed_forward
    head = padded_vocab(model, placement.mesh) * model.width
    return MatrixSizes(model.layers * model.width * heads + 3 * down, down, head)


def collective(kind: str, axis: str, size: int, received: float) -> list[Collective]:
    """Returns one collective over a mesh axis; none where the axis has one device."""
    return [Collective(kind, (axis,), 1, received, 0)] if size > 1 else []


def item_bytes(model: ModelConfig) -> int:
    """Returns the bytes of one number in the type that the model computes in."""
    return jnp.dtype(model.dtype).itemsize


# Abstract arrays.

Abstract = Any
"""A `jax.ShapeDtypeStruct` with a sharding; it stands in records whose fields are arrays."""


def bytes_on_device(tree: Any) -> int:
    """Returns the bytes that one device holds of abstract arrays."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def abstract(like: Any, sharding: Any) -> Abstract:
    """Returns an array of the same shape and type with a sharding."""
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)


def abstract_rows(mesh: Mesh, shape: tuple[int, ...], dtype: str) -> Abstract:
    """Returns an array whose first dimension is spread over `data` and `fsdp`."""
    rows = NamedSharding(mesh, spec(("batch",), SAMPLING))
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=rows)


def abstract_copy(mesh: Mesh, shape: tuple[int, ...], dtype: str) -> Abstract:
    """Returns an array of which every device has a whole copy."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=whole)


def spread(mesh: Mesh, tree: Any, axes: list[tuple[str, ...]]) -> Any:
    """Returns arrays as the storage map lays them on a mesh; see `mesh.shardings`."""
    return jax.tree.map(abstract, tree, shardings(mesh, tree, axes))


def lower(mesh: Mesh, function: Any, *arguments: Any, **settings: Any) -> Any:
    """Lowers a jitted function for a mesh."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return function.lower(*arguments, **settings)
