"""Hugging Face checkpoints in and out: one table of tensor names, read in both directions.

    config, params = hub.import_checkpoint("/models/Qwen3-0.6B", mesh)
    hub.export_checkpoint(config, params, "/models/Qwen3-0.6B", "/models/mine")

Families: Llama, Mistral, Qwen, Gemma, OLMo, SmolLM, Granite, Phi; docs/checkpoints.md says which.
Each is one entry of `families`. Importing a checkpoint and exporting it again is the identity.
"""

from bstar_jax.hub.architecture import adopt_architecture, read_architecture
from bstar_jax.hub.directory import TOKENIZER_FILES, locate
from bstar_jax.hub.exporting import export_checkpoint
from bstar_jax.hub.importing import import_checkpoint
from bstar_jax.hub.kept import check_same, keep_source
from bstar_jax.hub.peft import export_adapter

__all__ = [
    "TOKENIZER_FILES",
    "adopt_architecture",
    "check_same",
    "export_adapter",
    "export_checkpoint",
    "import_checkpoint",
    "keep_source",
    "locate",
    "read_architecture",
]
