"""MBPP from nothing: a small random model goes through every phase on programs and their tests.

    python -m bstar_jax.main --config=configs/mbpp.py --config.task.path=train.jsonl --workdir=RUN

The path names MBPP's own file, or a folder with `train.jsonl` and `test.jsonl`. Programs run in
bubblewrap (Debian package `bubblewrap`), each cut off from the network, the files and the other
processes of the machine. `:humaneval` and `:apps` read the files of those data sets instead.

Hardware: 2 CPU cores.
Time: not yet measured.
Result: not yet measured. A model of 1M parameters writes no program that passes its tests; the
point is that every phase runs.
"""

import pathlib

from bstar_jax.config import Config, load_config, pick_variant

GSM8K = pathlib.Path(__file__).with_name("gsm8k.py")


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with temperature and threshold chosen; the tests are the reward.

    The model and the sizes are those of configs/gsm8k.py.
    """
    return load_config(GSM8K).changed(
        {
            "task.name": "mbpp",
            "sft.examples": 300,
            "calibrate.temperatures": (0.4, 0.7, 1.0),
            "calibrate.process_weights": (1.0,),
            "generate.max_prompt_tokens": 1024,
            "generate.max_tokens": 1024,
            "monitor.process_weight": 1.0,
        }
    )


def humaneval() -> Config:
    """HumanEval: functions to be completed from signature and docstring."""
    return bstar().changed(
        {
            "task.name": "humaneval",
            "sft.steps": 50,
            "sft.warmup_steps": 10,
            "sft.examples": 16,
            "calibrate.queries": 8,
            "generate.queries": 16,
            "monitor.queries": 16,
        }
    )


def apps() -> Config:
    """APPS: problems with inputs and expected outputs."""
    return bstar().changed(
        {
            "task.name": "apps",
            "generate.max_prompt_tokens": 4096,
            "generate.max_tokens": 2048,
        }
    )


VARIANTS = {"bstar": bstar, "humaneval": humaneval, "apps": apps}
