"""MATH from nothing: a small random model goes through every phase on competition problems.

    python -m bstar_jax.main --config=configs/math.py --config.task.path=train.jsonl --workdir=RUN

The path names MATH's own file (`problem`, `solution`), MATH-500 (`problem`, `answer`, `solution`),
or a folder with `train.jsonl` and `test.jsonl`. Files without solutions need `:no_sft`. Answers
are compared by value; worker processes do so where it takes algebra.

Hardware: 2 CPU cores.
Time: not yet measured.
Result: not yet measured. A model of 1M parameters solves next to nothing; the point is that every
phase runs.
"""

import pathlib

from bstar_jax.config import Config, PrmConfig, SftConfig, load_config, pick_variant

GSM8K = pathlib.Path(__file__).with_name("gsm8k.py")


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with temperature and threshold chosen; only the answer is rewarded.

    The model, the sizes and the reasons for the thresholds are those of configs/gsm8k.py.
    """
    return load_config(GSM8K).changed(
        {
            "task.name": "math",
            "calibrate.process_weights": (1.0,),
            "generate.max_prompt_tokens": 1536,
            "generate.max_tokens": 2560,
            "generate.batch": 128,
            "generate.slots": 128,
            "monitor.process_weight": 1.0,
        }
    )


def no_sft() -> Config:
    """For files without solutions: there is no warm-up, so the model starts from noise."""
    return bstar().changed({"sft": SftConfig(steps=0, warmup_steps=0, examples=0)})


def prm() -> Config:
    """A process reward learnt from continuations; its weight is chosen too, and may be 0."""
    learnt = PrmConfig(enabled=True, queries=64, heldout=32, continuations=4, steps=50, batch=16)
    return bstar().changed({"prm": learnt, "calibrate.process_weights": (0.0, 0.5)})


VARIANTS = {"bstar": bstar, "no_sft": no_sft, "prm": prm}
