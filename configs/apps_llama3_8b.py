r"""B-STaR on APPS with Llama-3-8B, as in the paper (arXiv:2412.17256).

    python -m bstar_jax.main --config=configs/apps_llama3_8b.py --workdir=RUN \
        --config.model.checkpoint=LLAMA_DIR --config.task.path=APPS_DIR

LLAMA_DIR has Meta-Llama-3-8B in its published form. APPS_DIR has train.jsonl and test.jsonl as
published; its tests run in bubblewrap (Debian package `bubblewrap`).

    SFT          5 human solutions a question; the first of 3 epochs starts the loop
    iterations   9 of 500 steps of 128; one cosine from 4.12e-6 to 2e-7 over 4,743 steps
    grid         temperatures 0.4 to 1.1 in steps of 0.1; no threshold, as the reward is 0 or 1
    n*           6, which is 13,500 responses wanted of 2,627 queries, rounded up

The paper gives batch and learning rates of its mathematics runs alone; they are taken here. It
has 2,627 queries without saying which: `generate.queries` draws as many anew each iteration.

Hardware: TPU v5e:8x8 (64 chips of 16 GB), mesh fsdp=16, tensor=4.
Time: not yet measured. By `plan` a device holds at most 12.7 of 15.75 GiB (arithmetic).
Result: not yet measured. The paper has, of Pass@1 / Pass@32 / Pass@32-4: 19.6 / 49.3 / 30.7
(online RFT 17.3 / 45.8 / 27.8, SFT 9.3 / 43.5 / 25.5). `:online_rft` is that baseline, with 32
responses at temperature 0.4.
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

EPOCH = 103  # steps of 128 that see 5 solutions of 2,627 questions once


def get_config(variant="bstar"):
    return pick_variant(variant, VARIANTS)


def bstar():
    """B-STaR with the temperature chosen; whether all tests pass is the reward."""
    return Config(
        task=TaskConfig(name="apps"),
        model=ModelConfig(checkpoint="meta-llama/Meta-Llama-3-8B", dtype="bfloat16", remat="full"),
        mesh=MeshConfig(data=1, fsdp=16, tensor=4),
        optimizer=OptimizerConfig(b1=0.9, b2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0),
        training=TrainingConfig(row_tokens=3_072, micro_rows=32),
        sft=SftConfig(
            steps=EPOCH,
            batch=128,
            learning_rate=5e-6,
            warmup_steps=62,  # 20 %
            final_rate=0.04,
            fall="cosine",
            schedule_steps=3 * EPOCH,
            examples=2_627,
            solutions=5,
        ),
        loop=LoopConfig(iterations=9),
        calibrate=CalibrateConfig(
            queries=600,
            responses=64,
            temperatures=tuple(tenth / 10 for tenth in range(4, 12)),
            thresholds=(0.5,),
        ),
        generate=GenerateConfig(
            queries=2_627,
            responses=64,
            max_prompt_tokens=2_032,
            max_tokens=1_025,  # 1,024 and end-of-text
            batch=8_192,
            slots=1_536,
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
    """32 responses at temperature 0.4 from start to end."""
    settings = bstar()
    return dataclasses.replace(
        settings,
        calibrate=dataclasses.replace(settings.calibrate, temperatures=(0.4,)),
        generate=dataclasses.replace(settings.generate, responses=32),
    )


VARIANTS = {"bstar": bstar, "online_rft": online_rft}
