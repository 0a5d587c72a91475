"""The settings of the model: one decoder, whose fields make it one family or another."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.errors import UserError
from bstar_jax.config.schema import Checked, setting

LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class ModelConfig(Checked):
    """The decoder: RMSNorm, rotary positions, grouped-query attention, a gated feed-forward.

    With `checkpoint` the architecture is that of the checkpoint; `dtype`, `remat` and `lora_*` stay
    settings.
    """

    prefix = "model."

    checkpoint: str = setting(
        "", "Hugging Face directory, or hub name, to start from; '' is random parameters"
    )
    vocab_size: int = setting(0, "tokens; 0 takes the tokenizer's", low=0)
    width: int = setting(96, "D, of the residual stream", low=1)
    layers: int = setting(3, "Y", low=1)
    heads: int = setting(4, "A, attention heads", low=1)
    kv_heads: int = setting(2, "G, key-value heads; divides heads", low=1)
    head_width: int = setting(0, "E; 0 is width / heads", low=0)
    feed_forward: int = setting(256, "F", low=1)
    rope_theta: float = setting(10000.0, "base of the rotary wavelengths", above=0)
    rope_local_theta: float = setting(
        0.0, "that of windowed layers, which are not rescaled then; 0 is as the others", low=0
    )
    rope_scaling: str = setting(
        "none",
        "how wavelengths are stretched: all alike, or the long ones as Llama 3 does",
        choices=("none", "linear", "llama3"),
    )
    rope_factor: float = setting(1.0, "by how much", low=1)
    rope_low_frequency: float = setting(
        1.0, "llama3: fewest turns within rope_length that are stretched in part", above=0
    )
    rope_high_frequency: float = setting(
        4.0, "llama3: turns within rope_length from which nothing is stretched", above=0
    )
    rope_length: int = setting(8192, "llama3: tokens of a text before it was stretched", low=1)
    window: int = setting(
        0, "tokens that one of a windowed layer reads, itself included; 0 is all", low=0
    )
    window_pattern: str = setting(
        "w", "w for a windowed layer, f for a full one; repeated over the layers"
    )
    activation: str = setting(
        "silu", "of the gate; gelu is its tanh form", choices=("silu", "gelu")
    )
    qkv_bias: bool = setting(False, "queries, keys and values have biases")
    output_bias: bool = setting(False, "the output of attention has a bias")
    feed_forward_bias: bool = setting(False, "gate, up and down have biases")
    qk_norm: bool = setting(False, "each head's queries and keys are normed")
    post_norms: bool = setting(False, "attention and feed-forward are normed after, too")
    norm_offset: bool = setting(False, "norms scale by 1 + their parameter")
    norm_epsilon: float = setting(1e-6, "added to the mean square", above=0)
    embedding_scale: bool = setting(False, "embeddings are multiplied by the root of D")
    query_divisor: float = setting(0.0, "scores are divided by its root; 0 is E", low=0)
    attention_cap: float = setting(
        0.0, "scores s become cap * tanh(s / cap), before they are masked; 0 is off", low=0
    )
    logit_cap: float = setting(0.0, "as attention_cap, of the logits; 0 is off", low=0)
    tied: bool = setting(True, "the head is the transposed embedding")
    dtype: str = setting(
        "float32", "of the computation; parameters are f32", choices=("float32", "bfloat16")
    )
    remat: str = setting(
        "full", "what the backward pass computes again", choices=("none", "dots", "full")
    )
    scalar_head: bool = setting(False, "a second head with one value a token")
    trained: str = setting(
        "all",
        "what training changes; weights: the products of the layers, no embedding, norm or head",
        choices=("all", "weights"),
    )
    lora_rank: int = setting(0, "of low-rank adapters, which alone are trained; 0 is none", low=0)
    lora_alpha: float = setting(16.0, "adapters are multiplied by alpha / rank", above=0)
    lora_targets: tuple[str, ...] = setting(LORA_TARGETS, "weights that have adapters")

    def __post_init__(self):
        super().__post_init__()
        if not self.window_pattern or set(self.window_pattern) - {"w", "f"}:
            raise UserError(
                f"model.window_pattern is {self.window_pattern!r}; it takes the letters w and f, "
                "such as wf, where every other layer is windowed"
            )
        unknown = set(self.lora_targets) - set(LORA_TARGETS)
        if unknown:
            raise UserError(
                f"model.lora_targets has {min(unknown)!r}; it takes {', '.join(LORA_TARGETS)}"
            )
        if self.heads % self.kv_heads:
            raise UserError(
                f"model.heads is {self.heads} and model.kv_heads {self.kv_heads}; every "
                "key-value head serves the same number of heads: kv_heads must divide heads"
            )
        if self.head_width == 0 and self.width % self.heads:
            raise UserError(
                f"model.width is {self.width} and model.heads {self.heads}; heads must divide "
                "width, or model.head_width be given"
            )
        if self.width_per_head % 2:
            raise UserError(
                f"a head is {self.width_per_head} wide; rotary positions turn pairs: make it even"
            )

    @property
    def width_per_head(self) -> int:
        """E, the width of one attention head."""
        return self.head_width or self.width // self.heads

    @property
    def windowed(self) -> tuple[bool, ...]:
        """Whether each layer is windowed."""
        if not self.window:
            return (False,) * self.layers
        pattern = self.window_pattern
        return tuple(pattern[layer % len(pattern)] == "w" for layer in range(self.layers))
