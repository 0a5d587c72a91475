r"""ARC: questions with options, for a small model that already names the option it means.

    python -m bstar_jax.main --config=configs/arc.py --config.task.path=train.jsonl --workdir=RUN \
        --config.model.checkpoint=DIR

The path names ARC's own file, or a folder with `train.jsonl` and `test.jsonl`. There is no warm-up,
as ARC has no human solutions, and no process reward: only the label is graded, as in the paper
(arXiv:2412.17256), which starts from an instruction-tuned model. The model in DIR must know how to
name an option: random parameters never do, and a run from them stops and says so.

Hardware: 2 CPU cores.
Time: 4 min on one core.
Result: Pass@1 .203 after two iterations, of 32 held-out questions; one option in four is right by
chance. The start was a model of this shape at Pass@1 .262, which 120 steps on 600 questions
followed by `Final answer: X` had taught to name an option. The point is that every phase runs on
real records.
"""

import pathlib

from bstar_jax.config import Config, SftConfig, load_config, pick_variant

GSM8K = pathlib.Path(__file__).with_name("gsm8k.py")


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with temperature and threshold chosen; only the label is rewarded.

    The lower threshold keeps every response that names an option: a small model rarely names the
    right one. The model and the sizes are those of configs/gsm8k.py.
    """
    return load_config(GSM8K).changed(
        {
            "task.name": "arc",
            "sft": SftConfig(steps=0, warmup_steps=0, examples=0),
            "calibrate.temperatures": (0.4, 0.6, 0.8, 1.0, 1.1),
            "calibrate.process_weights": (1.0,),
            "generate.max_prompt_tokens": 512,
            "generate.max_tokens": 256,
            "monitor.process_weight": 1.0,
        }
    )


VARIANTS = {"bstar": bstar}
