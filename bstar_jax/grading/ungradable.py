"""Queries that no response could be graded against, found without starting what grades.

A run stops at its start where there are such queries. Where settings allow records to be left out,
these are too, before queries are dealt to splits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from bstar_jax.answers.mathematics.verifier import MathVerifier
from bstar_jax.config import UserError
from bstar_jax.grading.code.test_plans import plan_tests
from bstar_jax.records import Query


def nothing(queries: Sequence[Query]) -> dict[str, str]:
    """Finds nothing: references of this kind were read when the queries were."""
    return {}


def unreadable_mathematics(queries: Sequence[Query]) -> dict[str, str]:
    """Finds reference answers that cannot be read as mathematics.

    References that only take long to read are none of them, since how long depends on the machine.

    Returns:
      The reason by the id of the query.
    """
    with MathVerifier(len(os.sched_getaffinity(0))) as verifier:
        reasons = verifier.unreadable(query.reference for query in queries)
    return {
        query.query_id: f"{query.reference[:60]!r} cannot be read as mathematics"
        for query in queries
        if reasons.get(query.reference) == "error"
    }


def broken_tests(queries: Sequence[Query]) -> dict[str, str]:
    """Finds tests of programs that cannot be read.

    Returns:
      The reason by the id of the query.
    """
    found = {}
    for query in queries:
        try:
            plan_tests(query.fields["tests"], query.reference or "pass", query.reference)
        except UserError as error:
            found[query.query_id] = f"the tests are broken: {error}"
    return found
