r"""B-STaR on APPS with Llama-3-8B, as in the paper (arXiv:2412.17256).

    python -m bstar_jax.main --config=configs/apps_llama3_8b.py --workdir=RUN \
        --config.model.checkpoint=LLAMA_DIR --config.task.path=APPS_DIR

LLAMA_DIR holds Meta-Llama-3-8B as published. APPS_DIR holds train.jsonl and test.jsonl as
published; the tests run in bubblewrap (Debian package `bubblewrap`).

    SFT          5 human solutions per question; the loop starts after the first of 3 epochs
    iterations   9, of 500 steps of 128; one cosine from 4.12e-6 to 2e-7 over 4,743 steps
    grid         temperatures 0.4 to 1.1 in steps of 0.1; no choice of threshold, as the reward is
                 0 or 1
    n*           6: the 13,500 responses wanted for 2,627 queries, rounded up

The paper gives batch size and learning rates for its mathematics runs only; they are used here as
well, so this file says what differs from configs/math_mistral7b.py. The paper trains on 2,627
queries without saying which; `generate.queries` draws that many afresh in each iteration.

Hardware: TPU v5e:8x8 (64 chips of 16 GB), mesh fsdp=16, tensor=4.
Time: not yet measured. By `plan` a device holds at most 12.7 of 15.75 GiB (arithmetic).
Result: not yet measured. The paper reports, as Pass@1 / Pass@32 / Pass@32-4, 19.6 / 49.3 / 30.7
(online RFT 17.3 / 45.8 / 27.8, SFT 9.3 / 43.5 / 25.5). `:online_rft` is that baseline, with 32
responses at temperature 0.4.
"""

import pathlib

from bstar_jax.config import Config, PrmConfig, load_config, pick_variant

MISTRAL = pathlib.Path(__file__).with_name("math_mistral7b.py")
EPOCH = 103  # steps of 128 examples that see 5 solutions of each of 2,627 questions once


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with the temperature chosen; the reward is whether all tests pass."""
    return load_config(MISTRAL).changed(
        {
            "task.name": "apps",
            "model.checkpoint": "meta-llama/Meta-Llama-3-8B",
            "training.row_tokens": 3_072,
            "training.micro_rows": 32,
            "sft.steps": EPOCH,
            "sft.warmup_steps": 62,  # 20 % of the schedule
            "sft.schedule_steps": 3 * EPOCH,
            "sft.examples": 2_627,
            "sft.solutions": 5,
            "prm": PrmConfig(),
            "calibrate.temperatures": tuple(tenth / 10 for tenth in range(4, 12)),
            "calibrate.thresholds": (0.5,),
            "generate.queries": 2_627,
            "generate.max_prompt_tokens": 2_032,
            "generate.max_tokens": 1_025,  # 1,024 and the end-of-text token
            "generate.batch": 8_192,
            "generate.slots": 1_536,
        }
    )


def online_rft() -> Config:
    """32 responses at temperature 0.4 in every iteration."""
    return bstar().changed({"calibrate.temperatures": (0.4,), "generate.responses": 32})


VARIANTS = {"bstar": bstar, "online_rft": online_rft}
