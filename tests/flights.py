"""Units of sampling built by hand: tokens in, tokens out, no text and no tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax import sharding
from bstar_jax.sampling.decode import Work
from bstar_jax.sampling.engine import Flight, Prepared, deal
from bstar_jax.sampling.prefill import bucket


def fly(
    config, params, prompts, draws, *, slots=100, max_tokens=12, limit=None, end_id=1, mesh=None,
    size=None, keys=None, num_tokens=0,
):  # fmt: skip
    """Responses [Q, N, ...] to every prompt, one for every (temperature, top-k), and the flight."""
    shards = sharding.row_shards(mesh) if mesh else 1
    lengths = [len(prompt) for prompt in prompts]
    order = deal(lengths, size or -(-len(prompts) // shards) * shards, shards)
    width = bucket(max(lengths), 1000)
    tokens_QP = np.array([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], np.int32)
    shape = (len(prompts), len(draws))
    keys_QN2 = keys_of(*shape) if keys is None else keys
    limit_QN = np.full(shape, max_tokens) if limit is None else np.asarray(limit)
    temperatures, top_ks = zip(*draws, strict=True)
    work = Work(
        real_D=(order.index_DQ >= 0).sum(axis=1).astype(np.int32),
        lengths_DQ=order.gather(np.array(lengths, np.int32)),
        last_DQ=order.gather(np.array([prompt[-1] for prompt in prompts], np.int32)),
        keys_DQN2=order.gather(keys_QN2),
        limit_DQN=order.gather(limit_QN).astype(np.int32),
        temperature_N=jnp.asarray(temperatures, jnp.float32),
        top_k_N=jnp.asarray(top_ks, jnp.int32),
        top_p=None,
        min_p=None,
        stop_AV=None,
        prompts=None,
    )
    flight = Flight(
        config,
        params,
        Prepared(order, order.gather(tokens_QP), work.lengths_DQ.max(axis=0), shards, work),
        slots=slots,
        max_tokens=max_tokens,
        end_id=end_id,
        num_tokens=num_tokens,
        mesh=mesh,
    )
    landed = jax.device_get(flight.land())

    def by_query(table_DW):
        table_DQN = table_DW.reshape(*order.index_DQ.shape, shape[1], *table_DW.shape[2:])
        return order.scatter(table_DQN)

    return jax.tree.map(by_query, landed), flight


def keys_of(queries, samples, seed=0):
    """Random key data, uint32 [Q, N, 2]."""
    return np.random.default_rng(seed).integers(0, 2**32, (queries, samples, 2), np.uint32)


def prompts(count, *, longest=20, seed=0):
    """Random prompts of 1 to `longest` tokens from 2 on."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 50, rng.integers(1, longest + 1)).tolist() for _ in range(count)]
