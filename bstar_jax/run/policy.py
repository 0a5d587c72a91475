"""The policy: the model that answers and is trained, as the run's settings make it."""

from __future__ import annotations

import functools
import pathlib

import jax
from jax.sharding import Mesh

from bstar_jax import hub
from bstar_jax import model as models
from bstar_jax.config import Config, ModelConfig
from bstar_jax.model import adapters
from bstar_jax.run.checkpoints import Checkpoints, place_params
from bstar_jax.sampling.weights import rollout_params
from bstar_jax.sharding import SamplingMesh
from bstar_jax.tokenizer import Tokenizer


class Policy:
    """The model that answers and is trained.

    Training changes some of its parameters, or all of them. The others, *frozen*, are loaded when
    they are first needed and stay.

    Attributes:
      model: The model as it trains, its vocabulary size resolved.
      tokenizer: Text to tokens and back.
      mesh: The devices.
      sampling_mesh: The devices that this process samples on.
      checkpoints: Parameters and training state on disk.
      source: The folder that keeps all of the checkpoint that the run starts from but its weights;
        None for a run that starts from random parameters.
    """

    def __init__(
        self,
        config: Config,
        model: ModelConfig,
        tokenizer: Tokenizer,
        mesh: Mesh,
        sampling_mesh: SamplingMesh,
        checkpoints: Checkpoints,
        source: pathlib.Path | None,
    ):
        """Describes the policy; nothing is loaded. Arguments are as the attributes of the class.

        Args:
          config: The seed, the checkpoint to start from, and the dtype of weights that sample.
          model: The model.
          tokenizer: The tokenizer.
          mesh: The devices.
          sampling_mesh: The devices that sample.
          checkpoints: The checkpoints.
          source: The folder of the run that keeps files of the checkpoint.
        """
        self._config = config
        self.model, self.tokenizer, self.mesh, self.sampling_mesh = (
            model,
            tokenizer,
            mesh,
            sampling_mesh,
        )
        self.checkpoints, self.source = checkpoints, source

    @property
    def merged_model(self) -> ModelConfig:
        """The model with its adapters merged into the weights: what answers."""
        return adapters.merged_model(self.model)

    def initial_params(self) -> dict:
        """The trained parameters before warm-up, on the storage map.

        They are all parameters, from the checkpoint or random; or adapters that change nothing yet.

        Raises:
          UserError: If the checkpoint is gone.
        """
        if not self.model.lora_rank:
            return adapters.trained(self.model, self._base("float32"))
        init = jax.jit(functools.partial(adapters.init_adapters, self.model))
        return place_params(self.model, self.mesh, init(jax.random.key(self._config.seed)))

    @functools.cached_property
    def frozen(self) -> dict:
        """The parameters that training does not change, in the compute dtype; {} if it changes all.

        Raises:
          UserError: If the checkpoint is gone, or its weights are not those of before.
        """
        if adapters.all_train(self.model):
            return {}
        return adapters.frozen(self.model, self._base(self.model.dtype))

    def merged(self, params: dict, dtype: str = "") -> dict:
        """Joins trained and frozen parameters into those of `merged_model`.

        Args:
          params: The trained parameters.
          dtype: The dtype of the frozen ones; "" is the compute dtype.
        """
        if adapters.all_train(self.model):
            return params
        frozen = adapters.frozen(self.model, self._base(dtype)) if dtype else self.frozen
        return adapters.merge_into_weights(self.model, adapters.combine(frozen, params))

    def rollout_weights(self, params: dict) -> dict:
        """The weights that sample: merged, cast, and gathered over fsdp without the host.

        Args:
          params: The trained parameters, on the storage map. With `generate.weights` "same" the
            result may share their buffers.
        """
        weights = self._config.generate.weights
        return rollout_params(self.merged_model, self.merged(params), self.mesh, weights=weights)

    def keep_source(self, directory: pathlib.Path) -> None:
        """Copies all of the checkpoint that the run starts from, but its weights, to a folder."""
        hub.keep_source(hub.locate(self._config.model.checkpoint), directory)

    def _base(self, dtype: str) -> dict:
        """The parameters that the run starts from, without adapters."""
        name = self._config.model.checkpoint
        if name:
            checkpoint = hub.locate(name)
            if self.source is not None and self.source.is_dir():
                hub.check_same(checkpoint, self.source)
            return hub.import_checkpoint(checkpoint, self.mesh, dtype)[1]
        init = jax.jit(functools.partial(models.init, self.merged_model))
        return place_params(self.model, self.mesh, init(jax.random.key(self._config.seed)))
