"""The plain causal forward pass over whole texts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, Int, jaxtyped

from bstar_jax.config import ModelConfig
from bstar_jax.kernels import attention
from bstar_jax.model.decoder import Decoder
from bstar_jax.model.layers import Attend
from bstar_jax.model.parameters import merge
from bstar_jax.model.rotary import Flag


def attend_whole(
    config: ModelConfig,
    segments_BL: jax.Array,
    *,
    keep_state: bool = False,
    packed: bool = True,
) -> Attend:
    """Causal attention among the tokens of a batch: each token attends to its own text only.

    Args:
      config: The model.
      segments_BL: Which text a token belongs to, from 1; 0 is padding, which attends to itself
        alone.
      keep_state: Whether each layer returns its (keys, values), as prefill needs them.
      packed: Whether rows may hold several texts; see `attention.attend_segments`.
    """
    # A window as wide as the row leaves nothing out.
    window = config.window if config.window < segments_BL.shape[1] else 0

    def attend(
        query: jax.Array, key: jax.Array, value: jax.Array, state: Any, is_windowed: Flag
    ) -> tuple[jax.Array, Any]:
        def mix(window: int) -> jax.Array:
            return attention.attend_segments(
                query, key, value, segments_BL,
                packed=packed, window=window, cap=config.attention_cap,
            )  # fmt: skip

        if not window or isinstance(is_windowed, bool):
            mixed = mix(window if is_windowed is not False else 0)
        else:
            mixed = jax.lax.cond(is_windowed, lambda: mix(window), lambda: mix(0))
        return mixed, ((key, value) if keep_state else state)

    return attend


@jaxtyped(typechecker=beartype)
def forward(
    config: ModelConfig,
    params: dict,
    tokens_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"] | None = None,
    positions_BL: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L V"]:
    """Logits of the token after every token, by a plain causal pass.

    Args:
      config: The model; `config.vocab_size` is the true V, whatever padding `params` has.
      params: Parameters as `init` makes them.
      tokens_BL: Token ids in [0, V).
      segments_BL: Which text a token belongs to, from 1; 0 is padding. Tokens attend to their own
        text only. By default each row is one text.
      positions_BL: Position of each token in its text, from 0. By default its column.

    Returns:
      f32 logits, no unit; entry [b, l] scores token l + 1.
    """
    hidden, decoder = forward_hidden(config, params, tokens_BL, segments_BL, positions_BL)
    return decoder.logits(hidden)[..., : config.vocab_size]


def forward_hidden(
    config: ModelConfig,
    params: dict,
    tokens_BL: jax.Array,
    segments_BL: jax.Array | None = None,
    positions_BL: jax.Array | None = None,
    *,
    packed: bool = True,
) -> tuple[jax.Array, Decoder]:
    """Final hidden states [B, L, D] of a plain causal pass, and the module that made them.

    Args:
      config: As in `forward`.
      params: As in `forward`.
      tokens_BL: As in `forward`.
      segments_BL: As in `forward`.
      positions_BL: As in `forward`.
      packed: Whether rows may hold several texts; see `attention.attend_segments`.
    """
    if segments_BL is None:
        segments_BL, packed = jnp.ones_like(tokens_BL), False
    if positions_BL is None:
        positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1])[None], tokens_BL.shape)
    decoder = merge(config, params)
    attend = attend_whole(config, segments_BL, packed=packed)
    hidden, _ = decoder.hidden(tokens_BL, positions_BL, attend, None, is_stored=True)
    return hidden, decoder
