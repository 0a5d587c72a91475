"""What the rooms hand each other: queries, and rollouts as columns that go to Parquet."""

from bstar_jax.records.rollouts import SCHEMA, SPLITS, Query, Rollouts

__all__ = ["SCHEMA", "SPLITS", "Query", "Rollouts"]
