"""The records that rooms exchange: queries, sources, responses, and rollouts as columns."""

from bstar_jax.records.query import SPLITS, Query, Response, Source
from bstar_jax.records.rollouts import SCHEMA, Rollouts

__all__ = ["SCHEMA", "SPLITS", "Query", "Response", "Rollouts", "Source"]
