"""What the rooms hand each other: queries, responses, and rollouts as columns for Parquet."""

from bstar_jax.records.query import SPLITS, Query, Response, Source
from bstar_jax.records.rollouts import SCHEMA, Rollouts

__all__ = ["SCHEMA", "SPLITS", "Query", "Response", "Rollouts", "Source"]
