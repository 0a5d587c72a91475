r"""B-STaR on MATH with Qwen2.5-1.5B on one GPU: the paper's settings, scaled to a day's work.

    python -m bstar_jax.main --config=configs/math_qwen2p5_1p5b.py --workdir=RUN \
        --config.model.checkpoint=QWEN_DIR --config.task.path=MATH_DIR

QWEN_DIR has Qwen2.5-1.5B in its published form; MATH_DIR as for configs/math_mistral7b.py. The
learning rates are those of the paper; queries, responses and steps are fewer. `:lora` trains
adapters of rank 32 alone, which fits a GPU of 24 GB.

Hardware: one GPU of 80 GB (H100, H200, A100).
Time: not yet measured. Compiled for one TPU v5p in the GPU's place, it holds at most 50.6 GiB.
Result: not yet measured. There is none in the paper for this model.
"""

import dataclasses

from bstar_jax.config import (
    BalanceConfig,
    CalibrateConfig,
    Config,
    GenerateConfig,
    ImproveConfig,
    LoopConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
    PrmConfig,
    SftConfig,
    TaskConfig,
    TrainingConfig,
    pick_variant,
)


def get_config(variant="bstar"):
    return pick_variant(variant, VARIANTS)


def bstar():
    """B-STaR with temperature and threshold chosen, the process reward learnt."""
    return Config(
        task=TaskConfig(name="math"),
        model=ModelConfig(checkpoint="Qwen/Qwen2.5-1.5B", dtype="bfloat16", remat="full"),
        optimizer=OptimizerConfig(b1=0.9, b2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0),
        training=TrainingConfig(row_tokens=1_536, micro_rows=16),
        sft=SftConfig(
            steps=90,
            batch=128,
            learning_rate=5e-6,
            warmup_steps=54,
            final_rate=0.04,
            fall="cosine",
            schedule_steps=270,
            examples=7_000,
        ),
        prm=PrmConfig(
            enabled=True,
            queries=1_024,
            responses=8,
            continuations=8,
            completer_steps=90,
            labels="hard",
            separator="\n",
            heldout=128,
            steps=64,
            batch=128,
            learning_rate=2e-6,
            warmup_steps=12,
            fall="cosine",
        ),
        loop=LoopConfig(iterations=9),
        calibrate=CalibrateConfig(
            queries=256,
            responses=16,
            temperatures=tuple(tenth / 10 for tenth in range(5, 13)),
            thresholds=tuple(tenth / 10 for tenth in range(-10, 11)),
        ),
        generate=GenerateConfig(
            queries=2_048,
            responses=16,
            max_prompt_tokens=768,
            max_tokens=768,
            batch=4_096,
            slots=1_024,
            weights="bfloat16",
        ),
        balance=BalanceConfig(target_correct=6),
        improve=ImproveConfig(
            steps=100,
            batch=128,
            learning_rate=4.12e-6,
            warmup_steps=180,
            final_rate=0.0485,
            fall="cosine",
        ),
        monitor=MonitorConfig(queries=500, responses=32, ks=(1, 8, 32), s=4),
    )


def lora():
    """Adapters of rank 32 alone are trained, at ten times the learning rates."""
    settings = bstar()
    return dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, lora_rank=32, lora_alpha=64.0),
        sft=dataclasses.replace(settings.sft, learning_rate=5e-5),
        improve=dataclasses.replace(settings.improve, learning_rate=4.12e-5),
    )


VARIANTS = {"bstar": bstar, "lora": lora}
