"""The records that rooms exchange: queries, sources, responses, and rollouts as columns."""

from bstar_jax.records.query import SPLITS, Messages, Query, Response, Source
from bstar_jax.records.rollouts import SCHEMA, Rollouts, as_column

__all__ = [
    "SCHEMA",
    "SPLITS",
    "Messages",
    "Query",
    "Response",
    "Rollouts",
    "Source",
    "as_column",
]
