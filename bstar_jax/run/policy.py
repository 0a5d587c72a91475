"""The policy: the model that answers and is trained."""

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

    Training changes some or all of its parameters. The others are *frozen*: they are loaded when
    they are first needed, and stay on the devices.

    Attributes:
      model: The model that is trained, with its final vocabulary size.
      tokenizer: Turns text into tokens and back.
      mesh: The devices.
      sampling_mesh: The devices that this process samples on.
      checkpoints: Parameters and training states on disk.
      source: The folder with the files of the checkpoint that the run starts from, without the
        weights; None for a run that starts from random parameters.
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
        """Describes the policy; nothing is loaded yet.

        Args:
          config: The seed, the checkpoint to start from, and the dtype of weights that sample.
          model: As the attribute.
          tokenizer: As the attribute.
          mesh: As the attribute.
          sampling_mesh: As the attribute.
          checkpoints: As the attribute.
          source: As the attribute.
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
        """The model with its adapters merged into the weights. It answers."""
        return adapters.merged_model(self.model)

    def initial_params(self) -> dict:
        """Makes the trained parameters before warm-up, sharded as training stores them.

        They come from the checkpoint, or are random. With adapters they are only the adapters,
        which change nothing yet.

        Raises:
          UserError: If the checkpoint does not exist any more.
        """
        if not self.model.lora_rank:
            return adapters.trained(self.model, self._base("float32"))
        init = jax.jit(functools.partial(adapters.init_adapters, self.model))
        return place_params(self.model, self.mesh, init(jax.random.key(self._config.seed)))

    @functools.cached_property
    def frozen(self) -> dict:
        """The parameters that training does not change, in the compute dtype; {} if it changes all.

        Raises:
          UserError: If the checkpoint does not exist any more, or its weights have changed.
        """
        if adapters.all_train(self.model):
            return {}
        return adapters.frozen(self.model, self._base(self.model.dtype))

    def merged(self, params: dict, dtype: str = "") -> dict:
        """Joins trained and frozen parameters into the parameters of `merged_model`.

        Args:
          params: The trained parameters.
          dtype: The dtype of the frozen parameters; "" is the compute dtype.
        """
        if adapters.all_train(self.model):
            return params
        frozen = adapters.frozen(self.model, self._base(dtype)) if dtype else self.frozen
        return adapters.merge_into_weights(self.model, adapters.combine(frozen, params))

    def rollout_weights(self, params: dict) -> dict:
        """Makes the weights that sample: merged, cast, and gathered over fsdp without the host.

        Args:
          params: The trained parameters, sharded as training stores them. With `generate.weights`
            "same" the result may share their buffers.
        """
        weights = self._config.generate.weights
        return rollout_params(self.merged_model, self.merged(params), self.mesh, weights=weights)

    def keep_source(self, directory: pathlib.Path) -> None:
        """Copies the checkpoint that the run starts from to a folder, without its weights."""
        hub.keep_source(hub.locate(self._config.model.checkpoint), directory)

    def _base(self, dtype: str) -> dict:
        """Loads or makes the parameters that the run starts from, without adapters."""
        name = self._config.model.checkpoint
        if name:
            checkpoint = hub.locate(name)
            if self.source is not None and self.source.is_dir():
                hub.check_same(checkpoint, self.source)
            return hub.import_checkpoint(checkpoint, self.mesh, dtype)[1]
        init = jax.jit(functools.partial(models.init, self.merged_model))
        return place_params(self.model, self.mesh, init(jax.random.key(self._config.seed)))
