"""The settings of the model: one decoder, whose settings make it one family or another."""

from __future__ import annotations

import dataclasses
from typing import Any

from bstar_jax.config.errors import UserError
from bstar_jax.config.schema import Section, setting

LORA_TARGETS = ("query", "key", "value", "output", "gate", "up", "down")

_OF_A_FAMILY = (
    "It is part of a model family. Change it only to build a model of that family from random "
    "parameters."
)


def dtype_name(dtype: Any) -> Any:
    """Returns the name of a dtype of JAX or NumPy; anything else as it is.

    Example: "float32", jnp.float32, numpy.float32 and numpy.dtype("float32") -> "float32".
    """
    if isinstance(dtype, type) or hasattr(dtype, "dtype"):  # jnp.float32 is an instance
        return getattr(dtype, "__name__", dtype)
    return getattr(dtype, "name", dtype)


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The decoder: RMSNorm, rotary positions, grouped-query attention, a gated feed-forward.

    With `checkpoint` the architecture is the checkpoint's. The settings that may differ from it on
    "import", such as `dtype`, `remat` and `lora_*`, remain settings of the run.
    """

    prefix = "model."

    checkpoint: str = setting(
        "",
        "Hugging Face directory or hub name of the model to start from; '' starts from random "
        "parameters.",
        when="Set it to teach a pretrained model.",
        may_differ_on=("import",),
    )
    vocab_size: int = setting(
        0,
        "Size of the vocabulary, V; 0 takes the tokenizer's.",
        when="Set it for a model that has more embeddings than its tokenizer has tokens.",
        unit="tokens",
        low=0,
    )
    width: int = setting(
        96, "Width of the residual stream, D.", when="Raise it for a larger model.", low=1
    )
    layers: int = setting(
        3, "Number of layers, Y.", when="Raise it for a larger model.", unit="layers", low=1
    )
    heads: int = setting(
        4,
        "Number of attention heads, A.",
        when="Change it with `width`: a head is usually 64 to 128 wide.",
        unit="heads",
        low=1,
    )
    kv_heads: int = setting(
        2,
        "Number of key-value heads, G; it must divide `heads`.",
        when="Lower it for a smaller cache of keys and values while sampling.",
        unit="heads",
        low=1,
    )
    head_width: int = setting(
        0,
        "Width of a head, E; 0 is width / heads.",
        when="Set it where heads * head width is not the width of the model.",
        low=0,
    )
    feed_forward: int = setting(
        256,
        "Width of the feed-forward layer, F.",
        when="Change it with `width`; three to four times that is usual.",
        low=1,
    )
    rope_theta: float = setting(
        10000.0,
        "Base of the wavelengths of the rotary positions.",
        when="Raise it for texts of many thousand tokens.",
        above=0,
    )
    rope_local_theta: float = setting(
        0.0,
        "The same for windowed layers, whose wavelengths are then not rescaled; 0 treats them like "
        "the other layers.",
        when=_OF_A_FAMILY,
        low=0,
    )
    rope_scaling: str = setting(
        "none",
        "How wavelengths are stretched: linear stretches all alike, llama3 and yarn only the long "
        "ones.",
        when="Change it for texts longer than those that the model was pretrained on.",
        choices=("none", "linear", "llama3", "yarn"),
    )
    rope_factor: float = setting(
        1.0,
        "The factor by which wavelengths are stretched.",
        when="Raise it with `rope_scaling`, to the ratio of the new text length to the old.",
        low=1,
    )
    rope_low_frequency: float = setting(
        1.0,
        "llama3, yarn: a rotation of fewer turns than this within `rope_length` is stretched in "
        "full.",
        when=_OF_A_FAMILY,
        unit="turns",
        above=0,
    )
    rope_high_frequency: float = setting(
        4.0,
        "llama3, yarn: a rotation of at least so many turns within `rope_length` is not stretched; "
        "one between the two is stretched in part.",
        when=_OF_A_FAMILY,
        unit="turns",
        above=0,
    )
    rope_length: int = setting(
        8192,
        "llama3, yarn: the longest text before rotations were stretched.",
        when=_OF_A_FAMILY,
        unit="tokens",
        low=1,
    )
    rope_amplitude: float = setting(
        1.0,
        "What rotated queries and keys are multiplied by, where their wavelengths are stretched.",
        when=_OF_A_FAMILY,
        above=0,
    )
    rope_pattern: str = setting(
        "r",
        "Which layers rotate queries and keys: r for a layer that does, n for one that knows no "
        "positions, repeated over the layers.",
        when=_OF_A_FAMILY,
    )
    window: int = setting(
        0,
        "How many tokens a token of a windowed layer attends to, itself included; 0 is all.",
        when="Set it to make long texts cheaper.",
        unit="tokens",
        low=0,
    )
    window_pattern: str = setting(
        "w",
        "Which layers are windowed: w for a windowed layer, f for a full one, repeated over the "
        "layers.",
        when="Set it with `window`: wf makes every other layer full.",
    )
    activation: str = setting(
        "silu",
        "Activation of the gate; gelu is its tanh approximation.",
        when=_OF_A_FAMILY,
        choices=("silu", "gelu"),
    )
    qkv_bias: bool = setting(
        False, "Whether queries, keys and values have biases.", when=_OF_A_FAMILY
    )
    output_bias: bool = setting(
        False, "Whether the output projection of attention has a bias.", when=_OF_A_FAMILY
    )
    feed_forward_bias: bool = setting(
        False, "Whether gate, up and down projections have biases.", when=_OF_A_FAMILY
    )
    qk_norm: bool = setting(
        False, "Whether the queries and keys of each head are normalised.", when=_OF_A_FAMILY
    )
    qk_norm_whole: bool = setting(
        False,
        "Whether `qk_norm` is over all heads together, instead of over each head.",
        when=_OF_A_FAMILY,
    )
    pre_norms: bool = setting(
        True,
        "Whether the inputs of attention and feed-forward are normalised.",
        when=_OF_A_FAMILY,
    )
    post_norms: bool = setting(
        False,
        "Whether the outputs of attention and feed-forward are normalised, too.",
        when=_OF_A_FAMILY,
    )
    norm_offset: bool = setting(
        False, "Whether norms scale by 1 + their parameter.", when=_OF_A_FAMILY
    )
    norm_epsilon: float = setting(
        1e-6, "What norms add to the mean square.", when=_OF_A_FAMILY, above=0
    )
    embedding_scale: bool = setting(
        False,
        "Whether embeddings are multiplied by the square root of the width.",
        when=_OF_A_FAMILY,
    )
    embedding_multiplier: float = setting(
        1.0,
        "What embeddings are multiplied by, besides `embedding_scale`.",
        when=_OF_A_FAMILY,
        above=0,
    )
    residual_scale: float = setting(
        1.0,
        "What the outputs of attention and feed-forward are multiplied by before they are added.",
        when=_OF_A_FAMILY,
        above=0,
    )
    query_divisor: float = setting(
        0.0,
        "Attention scores are divided by the square root of this; 0 is the head width.",
        when=_OF_A_FAMILY,
        low=0,
    )
    attention_cap: float = setting(
        0.0,
        "Attention scores s become cap * tanh(s / cap) before they are masked; 0 is off.",
        when=_OF_A_FAMILY,
        low=0,
    )
    logit_cap: float = setting(
        0.0, "Logits z become cap * tanh(z / cap); 0 is off.", when=_OF_A_FAMILY, low=0
    )
    logit_divisor: float = setting(
        1.0,
        "Logits are divided by this, before they are capped.",
        when=_OF_A_FAMILY,
        above=0,
    )
    tied: bool = setting(
        True,
        "Whether the head is the transposed embedding.",
        when="Turn it off for a larger model, whose head then has parameters of its own.",
    )
    dtype: str = setting(
        "float32",
        "Precision of the computation; file is that of the checkpoint. Parameters are always f32. "
        "In Python it may be a dtype too, such as jnp.bfloat16.",
        when="Choose bfloat16 on TPUs and GPUs.",
        choices=("float32", "bfloat16", "file"),
        may_differ_on=("import",),
    )
    remat: str = setting(
        "full",
        "What the backward pass computes again instead of keeping it: nothing (none), all but "
        "matrix products (dots), or everything within a layer (full).",
        when="Choose dots or none for faster steps where memory allows it.",
        choices=("none", "dots", "full"),
        may_differ_on=("import",),
    )
    scalar_head: bool = setting(
        False,
        "Whether a second head gives one value per token.",
        when="Leave it off: the process reward model adds its head by itself.",
        may_differ_on=("import",),
    )
    trained: str = setting(
        "all",
        "Which parameters training changes: all, or only the matrices of the layers (weights), "
        "without embeddings, norms and head.",
        when="Choose weights to train what the authors' code trains.",
        choices=("all", "weights"),
        may_differ_on=("import",),
    )
    lora_rank: int = setting(
        0,
        "Rank of low-rank adapters. Only the adapters are then trained; 0 is no adapters.",
        when="Set it to 8 to 64 if the optimizer state of the whole model does not fit.",
        low=0,
        may_differ_on=("import",),
    )
    lora_alpha: float = setting(
        16.0,
        "Adapters are scaled by alpha / rank.",
        when="Change it with `lora_rank`; once or twice the rank is usual.",
        above=0,
        may_differ_on=("import",),
    )
    lora_targets: tuple[str, ...] = setting(
        LORA_TARGETS,
        "The matrices that have adapters.",
        when="Name fewer to train less; query,value is the least that is usual.",
        may_differ_on=("import",),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        super().__post_init__()
        if not self.window_pattern or set(self.window_pattern) - {"w", "f"}:
            raise UserError(
                f"model.window_pattern is {self.window_pattern!r}; it takes the letters w and f, "
                "such as wf, which windows every other layer"
            )
        if not self.rope_pattern or set(self.rope_pattern) - {"r", "n"}:
            raise UserError(
                f"model.rope_pattern is {self.rope_pattern!r}; it takes the letters r and n, such "
                "as rrrn, in which every fourth layer knows no positions"
            )
        unknown = set(self.lora_targets) - set(LORA_TARGETS)
        if unknown:
            raise UserError(
                f"model.lora_targets has {min(unknown)!r}; it takes {', '.join(LORA_TARGETS)}"
            )
        if self.heads % self.kv_heads:
            raise UserError(
                f"model.heads is {self.heads} and model.kv_heads is {self.kv_heads}; each "
                "key-value head serves the same number of heads: kv_heads must divide heads"
            )
        if self.head_width == 0 and self.width % self.heads:
            raise UserError(
                f"model.width is {self.width} and model.heads is {self.heads}; heads must divide "
                "width, or set model.head_width"
            )
        if self.width_per_head % 2:
            raise UserError(
                f"a head is {self.width_per_head} wide, but rotary positions turn pairs of "
                "numbers; make the width of a head even"
            )

    @classmethod
    def architecture(cls) -> dict[str, Any]:
        """The settings that a checkpoint decides, with their defaults.

        The others are settings of the run, whatever the checkpoint.
        """
        return {
            field.name: field.default
            for field in dataclasses.fields(cls)
            if "import" not in field.metadata["may_differ_on"]
        }

    @property
    def width_per_head(self) -> int:
        """E, the width of an attention head."""
        return self.head_width or self.width // self.heads

    @property
    def windowed(self) -> tuple[bool, ...]:
        """Whether each layer is windowed."""
        if not self.window:
            return (False,) * self.layers
        pattern = self.window_pattern
        return tuple(pattern[layer % len(pattern)] == "w" for layer in range(self.layers))

    @property
    def rotated(self) -> tuple[bool, ...]:
        """Whether each layer rotates queries and keys."""
        pattern = self.rope_pattern
        return tuple(pattern[layer % len(pattern)] == "r" for layer in range(self.layers))
