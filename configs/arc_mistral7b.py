r"""B-STaR on ARC-Challenge with Mistral-7B-Instruct, as in the paper (arXiv:2412.17256).

    python -m bstar_jax.main --config=configs/arc_mistral7b.py --workdir=RUN \
        --config.model.checkpoint=MISTRAL_DIR --config.task.path=ARC_DIR

MISTRAL_DIR has Mistral-7B-Instruct in its published form; ARC_DIR has the train and test files of
ARC-Challenge as train.jsonl and test.jsonl. There is no warm-up: questions stand in the model's
own chat template, and ask for reasoning, then `Final answer: X`; the label is the reward.

    iterations   9 of 500 steps of 128; one cosine from 4.12e-6 to 2e-7 over 4,743 steps
    grid         temperatures 0.4 to 1.1 in steps of 0.1; no threshold, as the reward is 0 or 1

The paper gives batch and learning rates of its mathematics runs alone; they are taken here, and
n* of them too. Of 1,119 train questions 200 calibrate.

Hardware: TPU v5e:8x8 (64 chips of 16 GB), mesh fsdp=16, tensor=4.
Time: not yet measured. By `plan` a device holds at most 8.9 of 15.75 GiB (arithmetic).
Result: not yet measured. The paper has Pass@1 73.0 (online RFT 71.2, iterative RFT 70.3).
"""

import dataclasses

from bstar_jax.config import (
    BalanceConfig,
    CalibrateConfig,
    Config,
    GenerateConfig,
    ImproveConfig,
    LoopConfig,
    MeshConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
    SftConfig,
    TaskConfig,
    TrainingConfig,
    pick_variant,
)


def get_config(variant="bstar"):
    return pick_variant(variant, VARIANTS)


def bstar():
    """B-STaR with the temperature chosen; the label is the reward."""
    return Config(
        task=TaskConfig(name="arc", chat_template=True),
        model=ModelConfig(
            checkpoint="mistralai/Mistral-7B-Instruct-v0.1", dtype="bfloat16", remat="full"
        ),
        mesh=MeshConfig(data=1, fsdp=16, tensor=4),
        optimizer=OptimizerConfig(b1=0.9, b2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0),
        training=TrainingConfig(row_tokens=1_024),
        sft=SftConfig(steps=0, warmup_steps=0, examples=0),
        loop=LoopConfig(iterations=9),
        calibrate=CalibrateConfig(
            queries=200,
            responses=64,
            temperatures=tuple(tenth / 10 for tenth in range(4, 12)),
            thresholds=(0.5,),
        ),
        generate=GenerateConfig(
            queries=0,
            responses=64,
            max_prompt_tokens=496,
            max_tokens=513,  # 512 and end-of-text
            batch=16_384,
            slots=2_048,
            weights="bfloat16",
        ),
        balance=BalanceConfig(target_correct=6),
        improve=ImproveConfig(
            steps=500,
            batch=128,
            learning_rate=4.12e-6,
            warmup_steps=949,
            final_rate=0.0485,
            fall="cosine",
            schedule_steps=4_743,
        ),
        monitor=MonitorConfig(queries=500, responses=32, ks=(1, 8, 32), s=4),
    )


def online_rft():
    """Temperature 1 from start to end."""
    settings = bstar()
    fixed = dataclasses.replace(settings.calibrate, temperatures=(1.0,))
    return dataclasses.replace(settings, calibrate=fixed)


VARIANTS = {"bstar": bstar, "online_rft": online_rft}
