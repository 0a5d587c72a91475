"""The program that scores the cells of the grid, by shapes alone."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from bstar_jax.balance import surface
from bstar_jax.balance.selection import GradedResponses
from bstar_jax.sharding.program import Abstract, Placement, Program

_MOST_TEMPORARIES = 2**28


def programs(placement: Placement) -> list[Program]:
    """Lists the bootstrap over all cells; nothing where there is a single cell."""
    config = placement.config
    if not config.loop.iterations or config.calibrate.is_single_cell:
        return []
    grid = config.calibrate
    responses = grid.sampling_cells * grid.queries * grid.responses
    # Three masks and two numbers a response, and a reward for each process weight.
    given = responses * (7 + 4 + 4 * len(grid.process_weights))
    return [
        Program(
            "balance", "choose", ("calibrate",), placement.mesh, lambda: _lowered(placement),
            {"inputs": given}, min(8 * given, _MOST_TEMPORARIES),
        )
    ]  # fmt: skip


def resident(placement: Placement) -> dict[str, int]:
    """Returns {}: nothing of the balance score stays on a device."""
    return {}


def _lowered(placement: Placement) -> Any:
    """The bootstrap on one device; it needs more than the scores before it."""
    calibrate, settings = placement.config.calibrate, placement.config.balance
    grid = surface.Grid(
        calibrate.temperatures, calibrate.top_ks, calibrate.thresholds, calibrate.process_weights
    )
    num_temperatures, num_top_ks, num_thresholds, num_process_weights = grid.shape
    one_device = SingleDeviceSharding(placement.mesh.devices.flat[0])

    def array(shape: tuple[int, ...], dtype: str) -> Abstract:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=one_device)

    responses = (calibrate.queries, calibrate.responses)
    shape = (num_temperatures, num_top_ks, *responses)
    mask, number = array(shape, "bool"), array(shape, "int32")
    search = surface.GridSearch(
        graded=GradedResponses(mask, array(shape, "float32"), mask, mask, number),
        reward_TKWQN=array(
            (num_temperatures, num_top_ks, num_process_weights, *responses), "int32"
        ),
        threshold_H=array((num_thresholds,), "int32"),
        cap=array((), "int32"),
        target_correct=array((), "int32"),
        rules=settings.rules,
    )
    block = surface.slabs_per_block(
        grid, calibrate.queries, settings.bootstrap, surface.BLOCK_BYTES
    )
    counts_RQ = array((settings.bootstrap, calibrate.queries), "int32")
    choice = (array((), "int32"),) * 2
    return surface.bootstrap.lower(search, counts_RQ, choice, block)
