"""The model of a config without its weights: from its checkpoint's config.json, or from a table.

The table repeats the published config.json of the models that files in configs/ name, so that a
run can be planned before a checkpoint is fetched. A directory with a config.json takes precedence.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Collection

from bstar_jax import hub, tasks, tokenizer
from bstar_jax.config import Config, ModelConfig, UserError

_COMMON = {"hidden_act": "silu", "attention_dropout": 0.0, "num_key_value_heads": 8}

# Beginning of a hub name -> the fields of config.json that determine the sizes.
PUBLISHED = {
    "mistralai/Mistral-7B": _COMMON | {
        "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
    },
    "meta-llama/Meta-Llama-3-8B": _COMMON | {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    },
    "Qwen/Qwen2.5-1.5B": _COMMON | {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536,
        "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PlannedModel:
    """The model that a config trains, by its sizes.

    Attributes:
      model: The sizes, with the vocabulary; `checkpoint` is "".
      source: Where the sizes are from, for people.
    """

    model: ModelConfig
    source: str


def planned_model(config: Config, stated: Collection[str] = ()) -> PlannedModel:
    """Returns the model of a config; reads neither weights nor task files.

    Args:
      config: All settings.
      stated: Settings that a checkpoint may not contradict; see `hub.adopt_architecture`.

    Raises:
      UserError: If `model.checkpoint` is neither a directory nor in the table.
    """
    settings = config.model
    if not settings.checkpoint:
        return _random(config)
    directory = pathlib.Path(settings.checkpoint).expanduser()
    if directory.is_dir():
        model = hub.adopt_architecture(settings, directory, stated)
        source = f"{directory / 'config.json'}"
    else:
        name = next((name for name in PUBLISHED if settings.checkpoint.startswith(name)), None)
        if name is None:
            raise UserError(
                f"model.checkpoint is {settings.checkpoint!r}, which is not a directory, and its "
                f"shape is not known; known are {', '.join(PUBLISHED)}: give a directory with its "
                "config.json, --config.model.checkpoint=DIR; the weights are not needed"
            )
        model, source = _known(settings, name, stated), f"the published config.json of {name}"
    return PlannedModel(dataclasses.replace(model, checkpoint=""), source)


def _known(settings: ModelConfig, name: str, stated: Collection[str]) -> ModelConfig:
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "config.json").write_text(json.dumps(PUBLISHED[name]))
        return hub.adopt_architecture(settings, directory, stated)


def _random(config: Config) -> PlannedModel:
    """A randomly initialised model; its vocabulary is that of the tokenizer it would have."""
    if config.model.vocab_size:
        return PlannedModel(config.model, "the config")
    if config.tokenizer.path:
        size, source = tokenizer.load(config.tokenizer.path).vocab_size, config.tokenizer.path
    elif config.task.name == "arithmetic":
        task = tasks.load(
            name="arithmetic", path="", seed=config.seed, train_queries=1,
            sft_examples=1, calibration_queries=1, heldout_queries=1,
        )  # fmt: skip
        size, source = tokenizer.word_tokenizer(task.vocabulary).vocab_size, "the task's words"
    else:
        size, source = config.tokenizer.vocab_size, "tokenizer.vocab_size words"
    model = dataclasses.replace(config.model, vocab_size=size)
    return PlannedModel(model, f"the config, {source}")
