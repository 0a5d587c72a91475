"""Self-taught reasoning that keeps exploration and exploitation in balance, in JAX.

A Flax model samples answers, the answers are rewarded, and the model trains on those that are
selected. Between iterations, the balance score (B-STaR, arXiv:2412.17256) is computed on the
devices and chooses how to sample and which responses to keep. `iterate` is the algorithm, and
`main` is the command that runs it.

The name of an array ends in its axes, with a letter for each and a digit for an axis of that size:
`logits_BV`, `keys_B2`. A room that needs more letters lists them in the docstring of its package.
The rooms `sampling` and `kernels` list all of theirs, which may differ.

Axes in all other rooms: B rows, Q queries, N responses a query, T temperatures, K top-k values,
H thresholds, W process weights, L tokens, P prompt tokens, V vocabulary, D model width,
F feed-forward width, A attention heads, G key-value heads, E head width, Y layers.
"""

__version__ = "0.1.0"
