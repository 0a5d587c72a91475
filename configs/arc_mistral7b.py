r"""B-STaR on ARC-Challenge with Mistral-7B-Instruct, as in the paper (arXiv:2412.17256).

    python -m bstar_jax.main --config=configs/arc_mistral7b.py --workdir=RUN \
        --config.model.checkpoint=MISTRAL_DIR --config.task.path=ARC_DIR

MISTRAL_DIR holds Mistral-7B-Instruct as published; ARC_DIR holds the train and test files of
ARC-Challenge as train.jsonl and test.jsonl. There is no warm-up: each question is put in the
model's own chat template and asks for reasoning, then `Final answer: X`; the label is the reward.

    iterations   9, of 500 steps of 128; one cosine from 4.12e-6 to 2e-7 over 4,743 steps
    grid         temperatures 0.4 to 1.1 in steps of 0.1; no choice of threshold, as the reward is
                 0 or 1

The paper gives batch size, learning rates and n* for its mathematics runs only; they are used here
as well, so this file says what differs from configs/math_mistral7b.py. 200 of the 1,119 train
questions are calibration queries.

Hardware: TPU v5e:8x8 (64 chips of 16 GB), mesh fsdp=16, tensor=4.
Time: not yet measured. By `plan` a device holds at most 8.9 of 15.75 GiB (arithmetic).
Result: not yet measured. The paper reports Pass@1 73.0 (online RFT 71.2, iterative RFT 70.3).
"""

import pathlib

from bstar_jax.config import Config, PrmConfig, SftConfig, load_config, pick_variant

MISTRAL = pathlib.Path(__file__).with_name("math_mistral7b.py")


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with the temperature chosen; the label is the reward."""
    return load_config(MISTRAL).changed(
        {
            "task.name": "arc",
            "task.chat_template": True,
            "model.checkpoint": "mistralai/Mistral-7B-Instruct-v0.1",
            "training.row_tokens": 1_024,
            "training.micro_rows": 0,
            "sft": SftConfig(steps=0, warmup_steps=0, examples=0),
            "prm": PrmConfig(),
            "calibrate.queries": 200,
            "calibrate.temperatures": tuple(tenth / 10 for tenth in range(4, 12)),
            "calibrate.thresholds": (0.5,),
            "generate.max_prompt_tokens": 496,
            "generate.max_tokens": 513,  # 512 and the end-of-text token
            "generate.batch": 16_384,
            "generate.slots": 2_048,
        }
    )


def online_rft() -> Config:
    """Temperature 1 in every iteration."""
    return bstar().changed({"calibrate.temperatures": (1.0,)})


VARIANTS = {"bstar": bstar, "online_rft": online_rft}
