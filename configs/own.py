r"""A task of your own: a small random model, or with `model.checkpoint` a published one.

    python -m bstar_jax.main --config=configs/own.py --workdir=RUN \
        --config.task.name=countdown.py:task
    python -m bstar_jax.main --config=configs/own.py:pretrained --workdir=RUN \
        --config.model.checkpoint=DIRECTORY --config.task.path=mine.jsonl \
        --config.task.reward=countdown.py:score --config.task.fields.answer=

The one threshold keeps what is right: without a process reward no other can score better. With a
step reward, give several process weights and thresholds: the variant `steps` does.

Hardware: 2 CPU cores.
Time: five and a half minutes for the game of docs/own.md with the variant `steps`.
Result: Pass@1 of that game 0.83 after warm-up, 0.90 after three iterations (128 queries, 16
responses).
"""

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
    TokenizerConfig,
    pick_variant,
)


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with the temperature chosen."""
    return Config(
        task=TaskConfig(name="file"),
        tokenizer=TokenizerConfig(vocab_size=300),
        model=ModelConfig(width=128, layers=4, heads=4, kv_heads=2, feed_forward=384),
        sft=SftConfig(steps=200, batch=32, learning_rate=2e-3, warmup_steps=20, examples=1000),
        loop=LoopConfig(iterations=3),
        calibrate=CalibrateConfig(
            queries=128,
            responses=16,
            temperatures=(0.5, 0.7, 0.9, 1.1),
            thresholds=(0.999999,),
            process_weights=(0.0,),
        ),
        generate=GenerateConfig(queries=512, responses=8, max_prompt_tokens=128, max_tokens=128),
        improve=ImproveConfig(steps=100, batch=32, learning_rate=5e-4),
        monitor=MonitorConfig(queries=128, responses=16, ks=(1, 4, 16), s=2, process_weight=0.0),
    )


def steps() -> Config:
    """The same with a step reward, whose weight and threshold are chosen too."""
    return bstar().changed(
        {
            "calibrate.thresholds": (-0.5, 0.0, 0.5, 0.999999),
            "calibrate.process_weights": (0.0, 0.5, 1.0),
            "monitor.process_weight": 1.0,
        }
    )


def pretrained() -> Config:
    """For a published model (`model.checkpoint`) and data without human solutions: no warm-up."""
    return bstar().changed({"sft.steps": 0, "sft.examples": 0})


VARIANTS = {"bstar": bstar, "steps": steps, "pretrained": pretrained}
