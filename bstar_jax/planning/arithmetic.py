"""What programs do, by arithmetic: for GPUs, which nothing compiles for here, and to rank meshes.

W weights of the layers, V D those of the head, T tokens a device, t, f, d the sizes of the mesh:

    step      2 T (W (3 + again) + 3 V D) / t multiplications and additions, of attention 11 halves
              of T L A E / t twice, 9 without recomputing; weights in the type of the computation
              twice from f - 1 of f devices and their gradient back, each pass; over t the sum of
              a layer's two results, in five passes; over d the sum of the gradient, twice
    decode    2 S (W + V D) / t and attention; reads all weights and the whole cache; over t two
              sums a layer

where `again` is what remat computes twice, without the last product, whose result nobody needs.
"""

from __future__ import annotations

import dataclasses

from bstar_jax import sharding
from bstar_jax.config import Config, ModelConfig
from bstar_jax.planning import loads
from bstar_jax.planning.loads import Unit
from bstar_jax.planning.moments import Moment
from bstar_jax.planning.programs import Programs
from bstar_jax.planning.shapes import bytes_on_device
from bstar_jax.planning.work import Exchange, Work


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Parameters of a model's products.

    Attributes:
      layers: W, of all layers.
      down: Of these the last product of each layer.
      head: V D, the vocabulary padded.
    """

    layers: int
    down: int
    head: int


def sizes(programs: Programs) -> Sizes:
    """The products of a config's model."""
    model = programs.model
    heads = (2 * model.heads + 2 * model.kv_heads) * model.width_per_head
    down = model.layers * model.width * model.feed_forward
    head = sharding.padded_vocab(model, programs.mesh) * model.width
    return Sizes(model.layers * model.width * heads + 3 * down, down, head)


def work_of(programs: Programs, moment: Moment) -> Work | None:
    """What a program does on a device, or None for one that is not reckoned."""
    units = loads.units(programs.config, sharding.row_shards(programs.mesh))
    if moment.name.startswith("decode"):
        unit = next(unit for unit in units if unit.phase == moment.phases)
        return decode(programs, unit)
    if moment.name.startswith(("prefill", "score")):
        return _forward(programs, moment)
    if moment.name == "gather":
        return _gather(programs)
    phase = {"step": "improve", "sft_step": "sft", "prm_step": "prm"}.get(moment.name)
    return step(programs, phase) if phase else None


def _item(model: ModelConfig) -> int:
    return 2 if model.dtype == "bfloat16" else 4


def _exchange(kind: str, axis: str, size: int, received: float) -> list[Exchange]:
    return [Exchange(kind, (axis,), 1, received, 0)] if size > 1 else []


def step(programs: Programs, phase: str) -> Work:
    """One optimizer step."""
    model, mesh = programs.model, dict(programs.mesh.shape)
    data, fsdp, tensor = (mesh[axis] for axis in sharding.MESH_AXES)
    load, weights = loads.step(programs.config, phase, data * fsdp), sizes(programs)
    item = _item(model)
    tokens = load.tokens / (data * fsdp)
    passes = load.rows // load.micro_rows
    again = weights.layers - weights.down if model.remat == "full" else 0
    products = 2 * tokens * (3 * weights.layers + again + 3 * weights.head) / tensor
    width = model.heads * model.width_per_head / tensor
    products += (11 if again else 9) * tokens * load.length * width * model.layers
    own = weights.layers / tensor
    state = bytes_on_device(programs.state(phase == "prm"))
    activations = (
        tokens * model.layers * item * (30 * model.width + 20 * model.feed_forward / tensor)
    )
    moved = passes * 4 * own * item + 2.5 * state + activations
    sums = 5 * 2 * (tensor - 1) / tensor * tokens * model.width * item * model.layers
    exchanges = [
        *_exchange("all-gather", "fsdp", fsdp, passes * 2 * own * item * (fsdp - 1) / fsdp),
        *_exchange("reduce-scatter", "fsdp", fsdp, passes * own * item * (fsdp - 1) / fsdp),
        *_exchange("all-reduce", "tensor", tensor, sums),
        *_exchange("all-reduce", "data", data, 8 * own / fsdp * (data - 1) / data),
    ]
    return Work(products, moved, tuple(exchanges))


def decode(programs: Programs, unit: Unit) -> Work:
    """One decode step with the cache at its largest."""
    model, tensor = programs.rollout, programs.mesh.shape["tensor"]
    weights, item = sizes(programs), _item(programs.rollout)
    stored = bytes_on_device(programs.weights())
    embedding = 0 if model.tied else weights.head * item / tensor
    cache, prompts = (bytes_on_device(part(unit)) for part in (programs.cache, programs.prompts))
    context = unit.prompt * unit.layout.sides + unit.columns
    attention = 4 * unit.slots * context * model.heads * model.width_per_head * model.layers
    products = (2 * unit.slots * (weights.layers + weights.head) + attention) / tensor
    read = cache if unit.layout.sides > 1 else cache + prompts
    sums = 2 * model.layers * unit.slots * model.width * item * 2 * (tensor - 1) / tensor
    exchanges = _exchange("all-reduce", "tensor", tensor, sums)
    return Work(products, stored - embedding + read, tuple(exchanges))


def _forward(programs: Programs, moment: Moment) -> Work:
    """Prefill of some prompts, or a batch of responses scored."""
    model, mesh = programs.rollout, dict(programs.mesh.shape)
    site, tensor = dict(programs.site.shape), mesh["tensor"]
    weights, item = sizes(programs), _item(model)
    tokens = moment.tokens / (mesh["data"] * mesh["fsdp"])
    is_score = moment.name == "score"
    stored = bytes_on_device(programs.process_model() if is_score else programs.weights())
    gathered = stored * (site["fsdp"] - 1) if is_score else 0
    sums = 2 * model.layers * tokens * model.width * item * 2 * (tensor - 1) / tensor
    exchanges = [
        *_exchange("all-reduce", "tensor", tensor, sums),
        *_exchange("all-gather", "fsdp", site["fsdp"], gathered),
    ]
    exchanges = [each for each in exchanges if each.received]
    return Work(2 * tokens * weights.layers / tensor, stored + gathered, tuple(exchanges))


def _gather(programs: Programs) -> Work:
    fsdp = programs.mesh.shape["fsdp"]
    stored = bytes_on_device(programs.weights())
    exchanges = _exchange("all-gather", "fsdp", fsdp, stored * (fsdp - 1) / fsdp)
    return Work(0.0, bytes_on_device(programs.state().params) + 3.0 * stored, tuple(exchanges))


def with_changes(config: Config, changes: dict[str, object]) -> Config:
    """The config with some settings changed, by their dotted names.

    Raises:
      UserError: If they do not go together.
    """
    sections: dict[str, dict] = {}
    for name, value in changes.items():
        section, field = name.split(".")
        sections.setdefault(section, {})[field] = value
    parts = {
        section: dataclasses.replace(getattr(config, section), **fields)
        for section, fields in sections.items()
    }
    return dataclasses.replace(config, **parts)
