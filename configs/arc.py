r"""ARC: questions with options, from a small model that has been shown how to name one.

    python -m bstar_jax.main --config=configs/arc.py --config.task.path=train.jsonl --workdir=RUN \
        --config.model.checkpoint=DIR

The file is ARC's own, or a folder with `train.jsonl` and `test.jsonl`. There are no human
solutions, so there is no warm-up, and no process reward: the label is all that is graded, as in
the paper (arXiv:2412.17256), which starts from an instruction-tuned model. Random parameters name
no option, and a run from them says so and stops; so DIR has to know how to answer.

Hardware: 2 CPU cores.
Time: 4 min on one core.
Result: from a model of this shape that 120 steps on 600 questions followed by `Final answer: X` had
taught to name an option (Pass@1 .262, of 32 held-out questions), Pass@1 .203 after two iterations;
one option in four is right by chance. The point is that every phase runs on real records.
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
    pick_variant,
)


def get_config(variant="bstar"):
    return pick_variant(variant, VARIANTS)


def bstar():
    """B-STaR with temperature and threshold chosen; the label alone is rewarded.

    The lower threshold keeps whatever names an option: a random model rarely names the right one.
    """
    return Config(
        task=TaskConfig(name="arc"),
        model=ModelConfig(width=128, layers=4, heads=4, kv_heads=2, feed_forward=384),
        sft=SftConfig(steps=0, warmup_steps=0, examples=0),
        loop=LoopConfig(iterations=2),
        calibrate=CalibrateConfig(
            queries=32, responses=8, temperatures=(0.4, 0.6, 0.8, 1.0, 1.1), thresholds=(-0.5, 0.5)
        ),
        generate=GenerateConfig(
            queries=128, responses=8, max_prompt_tokens=512, max_tokens=256, batch=256
        ),
        improve=ImproveConfig(steps=10, batch=8, learning_rate=5e-4),
        monitor=MonitorConfig(queries=32, responses=8, ks=(1, 8), s=4),
    )


VARIANTS = {"bstar": bstar}
