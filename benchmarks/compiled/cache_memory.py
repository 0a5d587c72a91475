"""Counts the bytes of keys and values that a unit keeps, with its prompts shared and without.

    python -m benchmarks.compiled.cache_memory --queries=64 --responses=64 --prompt=512

Counted from the shapes of the engine's own arrays, for the shape of Qwen2.5-7B in bf16. Without
sharing, every slot holds its prompt and its response, as in engines that prefill each copy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import figures
from benchmarks.compiled.seven_b import SEVEN_B
from bstar_jax.sampling import cache as caches
from bstar_jax.sampling.engine import layout

SLOTS = (64, 256, 512, 1024)


class Sizes(NamedTuple):
    """Bytes that some slots keep.

    Attributes:
      shape: Lanes, slots a lane, prompts a lane.
      prompts: Of all prompts.
      lanes: Of the lanes' copies of their prompts.
      responses: Of the responses.
      not_shared: What slots that hold their own prompts would need.
    """

    shape: tuple[int, ...]
    prompts: int
    lanes: int
    responses: int
    not_shared: int

    @property
    def together(self) -> int:
        """What the engine keeps."""
        return self.prompts + self.lanes + self.responses


def kept(queries: int, responses: int, prompt: int, response: int, slots: int) -> Sizes:
    """The bytes of one unit: prompts and responses of so many tokens, so many slots at once."""
    how = layout(queries, responses, slots)
    prompts = jax.eval_shape(lambda: caches.empty_prompts(SEVEN_B, 1, queries, prompt))
    columns = response - 1
    cache = jax.eval_shape(lambda held: caches.start(SEVEN_B, held, how.shape, columns), prompts)
    lanes = [part for part in (cache.prompt_key, cache.prompt_value) if part is not None]
    width = SEVEN_B.kv_heads * SEVEN_B.width_per_head
    token = 2 * SEVEN_B.layers * width * jnp.dtype(SEVEN_B.dtype).itemsize
    return Sizes(
        shape=how.shape,
        prompts=num_bytes(prompts),
        lanes=num_bytes(lanes),
        responses=num_bytes([cache.key, cache.value]),
        not_shared=how.lanes * how.slots * (prompt + columns) * token,
    )


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def main() -> None:
    """Counts for several numbers of slots, prints the table and writes the figures."""
    parser = figures.flags(__doc__)
    parser.add_argument("--queries", type=int, default=64, help="queries of the unit")
    parser.add_argument("--responses", type=int, default=64, help="responses a query")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--response", type=int, default=512, help="tokens of a response")
    arguments = parser.parse_args()
    sizes = (arguments.queries, arguments.responses, arguments.prompt, arguments.response)
    found = {slots: kept(*sizes, slots) for slots in (*SLOTS, sizes[0] * sizes[1])}
    rows = [
        [
            slots,
            " x ".join(map(str, each.shape)),
            *(f"{part / 2**30:.2f}" for part in (*each[1:4], each.together, each.not_shared)),
        ]
        for slots, each in found.items()
    ]
    header = "slots,lanes x slots x prompts,prompts,lanes,responses,together,not shared (GiB)"
    print(figures.table(header.split(","), rows))
    figures.write(arguments.json, {str(slots): each._asdict() for slots, each in found.items()})


if __name__ == "__main__":
    main()
