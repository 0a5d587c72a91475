"""One decoder for every family: RMSNorm, rotary positions, grouped-query attention, gated units.

Layers are stacked along a leading axis and scanned, so a deep model compiles as fast as a shallow
one. Layers name logical axes only; `sharding` maps these to devices. Functions take and return
parameters as the nested dict of `nnx.split`; `forward` and the sampling room merge them inside.

    tokens_BL -> embedding -> [norm, attention, +, norm, feed-forward, +] x Y -> norm -> head

Families differ in fields of the config: biases, norms of queries and keys, norms before and after
attention and feed-forward, multipliers, capped scores, windows, layers that know no positions.
Whether a layer is windowed or rotated is data of the scan, so that layers of all kinds share one
program.

How a layer attends is a function passed in (`Attend`): over the whole sequence in training and
prefill, over cached keys and values in decoding. Everything else is written once. `adapters` says
which parameters are trained.
"""

from bstar_jax.model.causal import attend_whole, forward, forward_hidden
from bstar_jax.model.decoder import Decoder
from bstar_jax.model.layers import Attend
from bstar_jax.model.parameters import (
    count_parameters,
    cut_vocab,
    init,
    logical_axes,
    mask_padding,
    merge,
    pad_vocab,
)

__all__ = [
    "Attend",
    "Decoder",
    "attend_whole",
    "count_parameters",
    "cut_vocab",
    "forward",
    "forward_hidden",
    "init",
    "logical_axes",
    "mask_padding",
    "merge",
    "pad_vocab",
]
