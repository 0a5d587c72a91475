"""A run of seconds: two iterations of a model that learns to finish what it starts.

Calibrate, generate and monitor draw units of the same shape, so that they share one program.
"""

from bstar_jax.config import (
    CalibrateConfig,
    CheckpointConfig,
    Config,
    GenerateConfig,
    ImproveConfig,
    LogConfig,
    LoopConfig,
    ModelConfig,
    MonitorConfig,
    SftConfig,
    TaskConfig,
    pick_variant,
)

GRID = Config(
    task=TaskConfig(train_queries=64),
    model=ModelConfig(width=32, layers=2, heads=4, kv_heads=2, feed_forward=64),
    sft=SftConfig(steps=60, batch=32, learning_rate=1e-2, warmup_steps=5, examples=256),
    loop=LoopConfig(iterations=2),
    calibrate=CalibrateConfig(
        queries=8, responses=4, temperatures=(0.5, 1.0), thresholds=(-0.5, 0.5)
    ),
    generate=GenerateConfig(queries=32, responses=8, batch=32),
    improve=ImproveConfig(steps=6, batch=32),
    monitor=MonitorConfig(queries=8, responses=7, ks=(1, 4), s=2),
    checkpoint=CheckpointConfig(minutes=0.01),
    log=LogConfig(every=3),
)


def single_cell():
    """One cell: nothing to calibrate."""
    cell = CalibrateConfig(queries=0, temperatures=(1.0,), thresholds=(-0.5,))
    return GRID.changed({"calibrate": cell})


def get_config(variant="grid"):
    return pick_variant(variant, {"grid": lambda: GRID, "single_cell": single_cell})
