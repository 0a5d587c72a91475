r"""B-STaR on MATH with Qwen2.5-1.5B on one GPU: the paper's settings, scaled to a day's work.

    python -m bstar_jax.main --config=configs/math_qwen2p5_1p5b.py --workdir=RUN \
        --config.model.checkpoint=QWEN_DIR --config.task.path=MATH_DIR

QWEN_DIR holds Qwen2.5-1.5B as published; MATH_DIR is that of configs/math_mistral7b.py. The
learning rates are the paper's; there are fewer queries, responses and steps. `:lora` trains only
adapters of rank 32, which fits a GPU of 24 GB.

Hardware: one GPU of 80 GB (H100, H200, A100).
Time: not yet measured. Compiled for one TPU v5p in place of the GPU, it holds at most 50.6 GiB.
Result: not yet measured. The paper has none for this model.
"""

import pathlib

from bstar_jax.config import Config, MeshConfig, load_config, pick_variant

MISTRAL = pathlib.Path(__file__).with_name("math_mistral7b.py")


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with temperature and threshold chosen and the process reward learnt.

    This says what differs from configs/math_mistral7b.py.
    """
    return load_config(MISTRAL).changed(
        {
            "model.checkpoint": "Qwen/Qwen2.5-1.5B",
            "mesh": MeshConfig(),
            "training.micro_rows": 16,
            "sft.examples": 7_000,
            "prm.queries": 1_024,
            "prm.responses": 8,
            "prm.completer_steps": 90,
            "prm.heldout": 128,
            "prm.steps": 64,
            "prm.batch": 128,
            "prm.warmup_steps": 12,
            "calibrate.queries": 256,
            "calibrate.responses": 16,
            "generate.queries": 2_048,
            "generate.responses": 16,
            "generate.max_prompt_tokens": 768,
            "generate.max_tokens": 768,
            "improve.steps": 100,
            "improve.warmup_steps": 180,
            "improve.schedule_steps": 0,
        }
    )


def lora() -> Config:
    """Only adapters of rank 32 are trained, at ten times the learning rates."""
    return bstar().changed(
        {
            "model.lora_rank": 32,
            "model.lora_alpha": 64.0,
            "sft.learning_rate": 5e-5,
            "improve.learning_rate": 4.12e-5,
        }
    )


VARIANTS = {"bstar": bstar, "lora": lora}
