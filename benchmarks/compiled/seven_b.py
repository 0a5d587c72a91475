"""The shape of Qwen2.5-7B in bf16, which several scripts compile or count."""

from bstar_jax.config import ModelConfig

SEVEN_B = ModelConfig(
    vocab_size=152_064, width=3584, layers=28, heads=28, kv_heads=4, head_width=128,
    feed_forward=18_944, tied=False, dtype="bfloat16",
)  # fmt: skip
