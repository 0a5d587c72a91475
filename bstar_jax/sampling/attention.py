"""Attention of a decode step: one token a slot over its prompt, its own tokens and itself."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from bstar_jax import model
from bstar_jax.config import ModelConfig
from bstar_jax.kernels.attention import capped


def attend_parts(config: ModelConfig, side_BR, prompt_BR, age_BR) -> model.Attend:
    """How a layer mixes the values of the three parts, joined exactly.

    Each part has its own sum of exponentials about the largest score of all; the parts' values
    are added and divided by the sum of the sums.

    Args:
      config: The model.
      side_BR: Which of the lane's prompts is the slot's.
      prompt_BR: Tokens of it that are stored.
      age_BR: Tokens of its own that are stored.
    """

    def own_side(part_BKGRHX):
        """[B, K, G, R, H, X] -> [B, G, R, H, X]: every slot's own prompt."""
        if part_BKGRHX.shape[1] == 1:
            return part_BKGRHX[:, 0]
        is_second = (side_BR == 1)[:, None, :, None, None]
        return jnp.where(is_second, part_BKGRHX[:, 1], part_BKGRHX[:, 0])

    def masked(scores_BGRHX, count_BR, first_BR):
        """Scores of the stored tokens from `first` on; what is before lies outside the window."""
        column = jnp.arange(scores_BGRHX.shape[-1])[None, None, None, None]

        def expand(bound_BR):
            return bound_BR[:, None, :, None, None]

        is_read = column < expand(count_BR)
        if first_BR is not None:
            is_read &= column >= expand(first_BR)
        return jnp.where(is_read, scores_BGRHX, -jnp.inf)

    def attend(query, key, value, parts, is_windowed):
        prompt_key, prompt_value, own_key, own_value = parts
        b, r, heads, e = query.shape
        k, g, p = prompt_key.shape[1:4]
        h = heads // g
        query = query.reshape(b, r, g, h, e).transpose(0, 2, 1, 3, 4)
        key, value = (part.transpose(0, 2, 1, 3) for part in (key, value))
        dot = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

        def score(product):
            return capped(product * e**-0.5, config.attention_cap)

        def against(query, keys):
            return score(dot(query, keys.swapaxes(-1, -2)))

        def narrow(weights):
            return weights.astype(value.dtype)

        # First columns that are read: the token itself is one of the window.
        first_own = first_prompt = None
        if is_windowed is not False and config.window < p + own_key.shape[3] + 1:
            reach = jnp.where(is_windowed, config.window - 1, p + own_key.shape[3])
            first_own, first_prompt = age_BR - reach, prompt_BR + age_BR - reach
        # The slots of a lane meet its prompts in one product.
        prompt = against(query.reshape(b, 1, g, r * h, e), prompt_key).reshape(b, k, g, r, h, p)
        prompt = masked(own_side(prompt), prompt_BR, first_prompt)
        # Keys on the left: with them on the right, XLA on CPU turns the whole part over first.
        own = score(dot(own_key, query.swapaxes(-1, -2))).swapaxes(-1, -2)
        own = masked(own, age_BR, first_own)
        itself = against(query, key[..., None, :])
        peak = itself
        for scores in (prompt, own):
            peak = jnp.maximum(peak, scores.max(axis=-1, keepdims=True))
        prompt, own, itself = (jnp.exp(scores - peak) for scores in (prompt, own, itself))
        total = prompt.sum(axis=-1, keepdims=True) + own.sum(axis=-1, keepdims=True) + itself
        mixed = dot(narrow(prompt).reshape(b, 1, g, r * h, p), prompt_value)
        mixed = own_side(mixed.reshape(b, k, g, r, h, e))
        mixed += dot(narrow(own), own_value) + itself * value[..., None, :]
        mixed = narrow(mixed / total)
        return mixed.transpose(0, 2, 1, 3, 4).reshape(b, r, heads, e), (key, value)

    return attend
