"""The programs of a run by shapes alone, to be lowered and compiled for devices that are not there.

Each is the function that the run itself calls, with arguments that say how large they are and
where they lie. Nothing is allocated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from bstar_jax import balance, model, sharding
from bstar_jax.balance import surface
from bstar_jax.config import Config, ModelConfig
from bstar_jax.kernels.int8 import Int8
from bstar_jax.model import adapters
from bstar_jax.planning import loads, shapes
from bstar_jax.planning.loads import Unit
from bstar_jax.process_reward.model import columns_for, step_rewards
from bstar_jax.sampling import cache as caches
from bstar_jax.sampling import decode as decoding
from bstar_jax.sampling.decode import Work
from bstar_jax.sampling.prefill import prefill
from bstar_jax.sampling.weights import as_computed, rollout_config, rollout_params
from bstar_jax.training.batches import Batch, StepBatch
from bstar_jax.training.fit import train_step
from bstar_jax.training.losses import response_loss, step_loss
from bstar_jax.training.optimizer import TrainState


@dataclasses.dataclass(frozen=True)
class Programs:
    """Lowers the programs of a config.

    Attributes:
      config: All settings.
      model: The model as it trains, its vocabulary size known.
      mesh: All devices.
      site: Those on which one process samples.
    """

    config: Config
    model: ModelConfig
    mesh: Mesh
    site: Mesh

    @functools.cached_property
    def whole(self) -> ModelConfig:
        """The model without adapters: what answers."""
        return adapters.merged_model(self.model)

    @functools.cached_property
    def rollout(self) -> ModelConfig:
        """The model as sampling computes it."""
        return rollout_config(self.whole, self.config.generate.weights)

    @functools.cached_property
    def judge(self) -> ModelConfig:
        """The process model."""
        return dataclasses.replace(self.whole, scalar_head=True)

    # What lies on the devices.

    def state(self, is_judge: bool = False) -> TrainState:
        """Parameters that are trained, and their moments, on the storage map."""
        shape = self.judge if is_judge else self.model
        return self._spread(shape, shapes.state(shape, self.config.optimizer, self._words(shape)))

    def params(self) -> dict:
        """All parameters of the model that answers, on the storage map."""
        return self._spread(self.whole, shapes.parameters(self.whole, self._words(self.whole)))

    def frozen(self) -> dict:
        """Parameters that no training changes; {} where there are none."""
        if adapters.all_train(self.model):
            return {}
        left = adapters.frozen(self.model, shapes.parameters(self.model, self._words(self.model)))
        left = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, self.model.dtype), left)
        return self._spread(self.model, left)

    def weights(self) -> dict:
        """What sampling reads, on the sampling map of its site."""
        kind = self.config.generate.weights
        tree = shapes.rollout(self.whole, kind, self._words(self.whole))
        return self._on_site(self.whole, tree, sharding.SAMPLING)

    def process_model(self) -> dict:
        """The process model, as it is computed with, spread over the site as training spreads."""
        tree = shapes.parameters(self.judge, self._words(self.judge))
        return self._on_site(self.judge, as_computed(self.judge, tree), sharding.STORAGE)

    def _words(self, shape: ModelConfig) -> int:
        """The vocabulary as it lies on the mesh."""
        return sharding.padded_vocab(shape, self.mesh)

    def _spread(self, shape: ModelConfig, tree):
        places = sharding.shardings(self.mesh, tree, model.logical_axes(shape, tree))
        return jax.tree.map(shapes.placed, tree, places)

    def _on_site(self, shape: ModelConfig, tree: dict, table) -> dict:
        axes = model.logical_axes(shape, shapes.parameters(shape, shape.vocab_size))
        leaves, structure = jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, Int8))
        place = lambda names: NamedSharding(self.site, sharding.spec(names, table))  # noqa: E731

        def one(leaf, names):
            if not isinstance(leaf, Int8):
                return shapes.placed(leaf, place(names))
            sizes = zip(names, leaf.scale.shape, strict=True)
            channels = [None if size == 1 else axis for axis, size in sizes]
            values = shapes.placed(leaf.values, place(names))
            return Int8(values, shapes.placed(leaf.scale, place(tuple(channels))))

        return jax.tree.unflatten(structure, list(map(one, leaves, axes)))

    # Training.

    def batch(self, phase: str) -> Batch | StepBatch:
        """The rows of a step of phase "sft", "prm" or "improve"."""
        size = loads.step(self.config, phase, sharding.row_shards(self.mesh))
        kind = StepBatch if phase == "prm" else Batch
        floats = ("weights_BL", "labels_BL", "language_BL")
        fields = {
            field.name: shapes.rows(
                self.mesh, (size.rows, size.length), "float32" if field.name in floats else "int32"
            )
            for field in dataclasses.fields(kind)
        }
        if not size.packed:
            fields["positions_BL"] = None
        return kind(**fields)

    def step(self, phase: str):
        """One optimizer step of phase "sft", "prm" or "improve", lowered."""
        is_judge = phase == "prm"
        objective = response_loss
        if is_judge:
            weight = self.config.prm.language_weight
            objective = functools.partial(step_loss, language_weight=weight)
        frozen = {} if is_judge else self.frozen()
        return self._lower(
            self.mesh, train_step, self.judge if is_judge else self.model, self.config.optimizer,
            self.state(is_judge), self.batch(phase), shapes.copy(self.mesh, (), "float32"),
            loss=objective, micro_rows=self.config.training.micro_rows, frozen=frozen or None,
        )  # fmt: skip

    # Sampling.

    def gather(self):
        """The parameters that sampling reads from those that train, lowered."""
        params, kind = self.params(), self.config.generate.weights
        take = functools.partial(rollout_params, self.whole, mesh=self.mesh, weights=kind)
        return self._lower(self.mesh, jax.jit(take), params)

    def prefill(self, unit: Unit):
        """A call of prefill, lowered."""
        shards = sharding.row_shards(self.site)
        return self._lower(
            self.site, prefill, self.rollout, self.weights(), self.prompts(unit),
            shapes.rows(self.site, (shards, unit.turn, unit.prompt), "int32"),
            shapes.rows(self.site, (shards, unit.turn), "int32"),
            shapes.copy(self.site, (), "int32"),
        )  # fmt: skip

    def decode(self, unit: Unit):
        """The loop of decode steps with the cache at its largest, lowered."""
        return self._lower(
            self.site, decoding.decode, self.rollout, self.weights(), self.work(unit),
            self.decode_state(unit), shapes.copy(self.site, (), "int32"), end_id=1,
        )  # fmt: skip

    def decode_state(self, unit: Unit):
        """What a decode step hands to the next, where the compiler puts it before the first."""
        settings = {
            "shape": unit.layout.shape, "columns": unit.columns, "max_tokens": unit.columns + 1
        }  # fmt: skip
        work = self.work(unit)
        like = jax.eval_shape(functools.partial(decoding.start, self.rollout, **settings), work)
        compiled = self._lower(self.site, decoding.start, self.rollout, work, **settings).compile()
        return jax.tree.map(shapes.placed, like, compiled.output_shardings)

    def cache(self, unit: Unit) -> caches.Cache:
        """Keys and values of a unit's lanes and slots, at their largest."""
        start = lambda prompts: caches.start(  # noqa: E731
            self.rollout, prompts, unit.layout.shape, unit.columns
        )
        cache = jax.eval_shape(start, self.prompts(unit))
        return caches.Cache(
            self._lanes(cache.prompt_key, caches.LANE_AXES),
            self._lanes(cache.prompt_value, caches.LANE_AXES),
            self._lanes(cache.key, caches.SLOT_AXES),
            self._lanes(cache.value, caches.SLOT_AXES),
        )

    def prompts(self, unit: Unit) -> caches.Prompts:
        """Keys and values of the prompts of a unit."""
        shards = sharding.row_shards(self.site)
        make = functools.partial(
            caches.empty_prompts, self.rollout, shards, unit.queries, unit.prompt
        )
        like = jax.eval_shape(make)
        return jax.tree.map(lambda part: self._lanes(part, caches.PROMPT_AXES), like)

    def work(self, unit: Unit) -> Work:
        """What a unit samples."""
        shards, settings = sharding.row_shards(self.site), self.config.generate
        rows = functools.partial(shapes.rows, self.site)
        each = (shards, unit.queries, unit.samples)
        alike = lambda is_on, dtype: shapes.copy(self.site, (), dtype) if is_on else None  # noqa: E731
        return Work(
            real_D=rows((shards,), "int32"),
            lengths_DQ=rows((shards, unit.queries), "int32"),
            last_DQ=rows((shards, unit.queries), "int32"),
            keys_DQN2=rows((*each, 2), "uint32"),
            limit_DQN=rows(each, "int32"),
            temperature_N=shapes.copy(self.site, (unit.samples,), "float32"),
            top_k_N=shapes.copy(self.site, (unit.samples,), "int32"),
            top_p=alike(settings.top_p != 1, "float32"),
            min_p=alike(settings.min_p != 0, "float32"),
            stop_AV=None,
            prompts=self.prompts(unit),
        )

    def _lanes(self, part, axes):
        if part is None:
            return None
        return shapes.placed(part, NamedSharding(self.site, sharding.spec(axes, sharding.SAMPLING)))

    # Rewards and the balance score.

    def score(self):
        """A batch of responses scored by the process model, lowered."""
        settings = self.config.generate
        rows = self.config.prm.score_batch * sharding.row_shards(self.site)
        rows //= sharding.row_shards(self.mesh)
        length = columns_for(settings.max_prompt_tokens + settings.max_tokens)
        tokens = shapes.rows(self.site, (rows, length), "int32")
        return self._lower(
            self.site, step_rewards, self.judge, self.process_model(), tokens, tokens
        )

    def balance(self):
        """The balance score of every cell, on one device, lowered."""
        grid, rules = self.config.calibrate, self.config.balance
        cells = balance.Grid(grid.temperatures, grid.top_ks, grid.thresholds, grid.process_weights)
        times, tops, heights, widths = cells.shape
        shape = (times, tops, grid.queries, grid.responses)
        place = SingleDeviceSharding(self.mesh.devices.flat[0])
        like = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=place)  # noqa: E731
        mask, number = like(shape, "bool"), like(shape, "int32")
        search = surface._Search(
            pool=balance.Pool(mask, like(shape, "float32"), mask, mask, number),
            reward_TKWQN=like((times, tops, widths, *shape[2:]), "int32"),
            threshold_H=like((heights,), "int32"),
            cap=like((), "int32"),
            target_correct=like((), "int32"),
            rules=rules.rules,
        )
        block = surface._slabs_a_block(cells, grid.queries, rules.bootstrap, 256 * 2**20)
        counts = like((rules.bootstrap, grid.queries), "int32")
        return surface._bootstrap.lower(search, counts, (like((), "int32"),) * 2, block)

    def _lower(self, mesh: Mesh, function, *arguments, **settings):
        return self._on(mesh, lambda: function.lower(*arguments, **settings))

    @staticmethod
    def _on(mesh: Mesh, make: Callable):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return make()
