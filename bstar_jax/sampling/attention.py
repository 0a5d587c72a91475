"""Attention of a decode step: one token a slot over its prompt, its own tokens and itself."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from bstar_jax import model


def attend_parts(side_BR, prompt_BR, age_BR) -> model.Attend:
    """How a layer mixes the values of the three parts, joined exactly.

    Each part has its own sum of exponentials about the largest score of all; the parts' values
    are added and divided by the sum of the sums.

    Args:
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

    def masked(scores_BGRHX, count_BR):
        column = jnp.arange(scores_BGRHX.shape[-1])[None, None, None, None]
        return jnp.where(column < count_BR[:, None, :, None, None], scores_BGRHX, -jnp.inf)

    def attend(query, key, value, parts):
        prompt_key, prompt_value, own_key, own_value = parts
        b, r, heads, e = query.shape
        k, g, p = prompt_key.shape[1:4]
        h = heads // g
        query = query.reshape(b, r, g, h, e).transpose(0, 2, 1, 3, 4)
        key, value = (part.transpose(0, 2, 1, 3) for part in (key, value))
        dot = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        against = lambda query, keys: dot(query, keys.swapaxes(-1, -2)) * e**-0.5  # noqa: E731
        # The slots of a lane meet its prompts in one product.
        prompt = against(query.reshape(b, 1, g, r * h, e), prompt_key).reshape(b, k, g, r, h, p)
        prompt = masked(own_side(prompt), prompt_BR)
        # Keys on the left: with them on the right, XLA on CPU turns the whole part over first.
        own = (dot(own_key, query.swapaxes(-1, -2)) * e**-0.5).swapaxes(-1, -2)
        own = masked(own, age_BR)
        itself = against(query, key[..., None, :])
        peak = itself
        for scores in (prompt, own):
            peak = jnp.maximum(peak, scores.max(axis=-1, keepdims=True))
        prompt, own, itself = (jnp.exp(scores - peak) for scores in (prompt, own, itself))
        total = prompt.sum(axis=-1, keepdims=True) + own.sum(axis=-1, keepdims=True) + itself
        narrow = lambda weights: weights.astype(value.dtype)  # noqa: E731
        mixed = dot(narrow(prompt).reshape(b, 1, g, r * h, p), prompt_value)
        mixed = own_side(mixed.reshape(b, k, g, r, h, e))
        mixed += dot(narrow(own), own_value) + itself * value[..., None, :]
        mixed = narrow(mixed / total)
        return mixed.transpose(0, 2, 1, 3, 4).reshape(b, r, heads, e), (key, value)

    return attend
