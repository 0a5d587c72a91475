"""Self-taught reasoning that keeps exploration and exploitation in balance, in JAX.

A Flax model samples answers, is rewarded, and trains on what was selected; between
iterations an on-device reduction of the balance score (B-STaR, arXiv:2412.17256) chooses
how to sample and what to keep. `iterate` holds the algorithm; `main` is its door.

Axes, everywhere: B rows, Q queries, N responses a query, T temperatures, K top-k values,
H thresholds, W process weights, L tokens, P prompt tokens, V vocabulary, D model width,
F feed-forward width, A attention heads, G key-value heads, E head width, Y layers, S slots.
"""

__version__ = "0.1.0"
