"""MBPP from nothing: a small random model through every phase on programs and their tests.

    python -m bstar_jax.main --config=configs/mbpp.py --config.task.path=train.jsonl --workdir=RUN

The file is MBPP's own, or a folder with `train.jsonl` and `test.jsonl`. Programs run in
bubblewrap (Debian package `bubblewrap`), each shut off from the network, the files and the other
processes of the machine. `:humaneval` and `:apps` read those files instead.

Hardware: 2 CPU cores.
Time: not yet measured.
Result: not yet measured. A model of 1M parameters writes no program that passes; the point is
that every phase runs.
"""

import dataclasses

from bstar_jax.config import (
    CalibrateConfig,
    Config,
    GenerateConfig,
    ImproveConfig,
    LoopConfig,
    ModelConfig,
    MonitorConfig,
    SftConfig,
    TaskConfig,
    pick_variant,
)


def get_config(variant="bstar"):
    return pick_variant(variant, VARIANTS)


def bstar():
    """B-STaR with temperature and threshold chosen; tests are the reward."""
    return Config(
        task=TaskConfig(name="mbpp"),
        model=ModelConfig(width=128, layers=4, heads=4, kv_heads=2, feed_forward=384),
        sft=SftConfig(steps=200, batch=8, learning_rate=2e-3, warmup_steps=20, examples=300),
        loop=LoopConfig(iterations=2),
        calibrate=CalibrateConfig(
            queries=32, responses=8, temperatures=(0.4, 0.7, 1.0), thresholds=(-0.5, 0.5)
        ),
        generate=GenerateConfig(
            queries=128, responses=8, max_prompt_tokens=1024, max_tokens=1024, batch=256
        ),
        improve=ImproveConfig(steps=10, batch=8, learning_rate=5e-4),
        monitor=MonitorConfig(queries=32, responses=8, ks=(1, 8), s=4),
    )


def humaneval():
    """HumanEval's functions, completed from signature and docstring."""
    settings = bstar()
    return dataclasses.replace(
        settings,
        task=TaskConfig(name="humaneval"),
        sft=SftConfig(steps=50, batch=8, learning_rate=2e-3, warmup_steps=10, examples=16),
        calibrate=dataclasses.replace(settings.calibrate, queries=8),
        generate=dataclasses.replace(settings.generate, queries=16),
        monitor=dataclasses.replace(settings.monitor, queries=16),
    )


def apps():
    """APPS' problems by input and output."""
    settings = bstar()
    return dataclasses.replace(
        settings,
        task=TaskConfig(name="apps"),
        generate=dataclasses.replace(settings.generate, max_prompt_tokens=4096, max_tokens=2048),
    )


VARIANTS = {"bstar": bstar, "humaneval": humaneval, "apps": apps}
