"""MATH from nothing: a small random model through every phase on competition problems.

    python -m bstar_jax.main --config=configs/math.py --config.task.path=train.jsonl --workdir=RUN

The file is MATH's own (`problem`, `solution`), MATH-500 (`problem`, `answer`, `solution`), or a
folder with `train.jsonl` and `test.jsonl`. Files without solutions need `:no_sft`. Answers are
compared by value, in worker processes where that takes algebra.

Hardware: 2 CPU cores.
Time: not yet measured.
Result: not yet measured. A model of 1M parameters solves next to nothing; the point is that every
phase runs.
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
    PrmConfig,
    SftConfig,
    TaskConfig,
    pick_variant,
)


def get_config(variant="bstar"):
    return pick_variant(variant, VARIANTS)


def bstar():
    """B-STaR with temperature and threshold chosen; the answer alone is rewarded.

    The lower threshold keeps readable answers that are wrong, see configs/gsm8k.py.
    """
    return Config(
        task=TaskConfig(name="math"),
        model=ModelConfig(width=128, layers=4, heads=4, kv_heads=2, feed_forward=384),
        sft=SftConfig(steps=200, batch=8, learning_rate=2e-3, warmup_steps=20, examples=2000),
        loop=LoopConfig(iterations=2),
        calibrate=CalibrateConfig(
            queries=32, responses=8, temperatures=(0.5, 0.8, 1.1), thresholds=(-0.5, 0.5)
        ),
        generate=GenerateConfig(
            queries=128, responses=8, max_prompt_tokens=1536, max_tokens=2560, batch=128, slots=128
        ),
        improve=ImproveConfig(steps=10, batch=8, learning_rate=5e-4),
        monitor=MonitorConfig(queries=32, responses=8, ks=(1, 8), s=4),
    )


def no_sft():
    """For files without solutions: no warm-up, so the model starts from noise."""
    return dataclasses.replace(bstar(), sft=SftConfig(steps=0, warmup_steps=0, examples=0))


def prm():
    """A process reward learnt from continuations; its weight is chosen too, and may be 0."""
    settings = bstar()
    return dataclasses.replace(
        settings,
        prm=PrmConfig(enabled=True, queries=64, heldout=32, continuations=4, steps=50, batch=16),
        calibrate=dataclasses.replace(settings.calibrate, process_weights=(0.0, 0.5)),
    )


VARIANTS = {"bstar": bstar, "no_sft": no_sft, "prm": prm}
