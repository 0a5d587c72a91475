r"""B-STaR on MATH with Mistral-7B, as in the paper (arXiv:2412.17256).

    python -m bstar_jax.main --config=configs/math_mistral7b.py --workdir=RUN \
        --config.model.checkpoint=MISTRAL_DIR --config.task.path=MATH_DIR

MISTRAL_DIR holds Mistral-7B-v0.1 as published. MATH_DIR/train.jsonl holds the 7,500 problems of
MATH's train file and the 4,000 of its test file that are not in MATH-500, each with `problem` and
`solution`; MATH_DIR/test.jsonl is MATH-500.

    SFT          3 epochs of 11,500 solutions, 5e-6 to 2e-7; the loop starts after the first epoch
    PRM          about 270,000 labelled steps: 15 responses per query, 8 continuations per step
    iterations   9, of 500 steps of 128; one cosine from 4.12e-6 to 2e-7 over 4,743 steps
    grid         temperatures 0.5 to 1.2, thresholds -1.0 to 1.0, in steps of 0.1; 64 responses
    n*           6: the 67,500 responses wanted for 11,500 queries, rounded up

What differs from the paper: prompts may have 752 tokens and responses 768, where the authors cut
their sum at 1,024; parameters and moments are f32, products bf16. `:sft` is the baseline of three
epochs. `:reference` trains what the authors' code trains: the layers, but not embeddings, norms and
head.

Hardware: TPU v5e:8x8 (64 chips of 16 GB), mesh fsdp=16, tensor=4.
Time: not yet measured. By `plan` a device holds at most 14.1 of 15.75 GiB, while labels are drawn;
these long prompts limit the slots and the rows of a unit.
Result: not yet measured. The paper reports, as Pass@1 / Pass@32 / Pass@32-4 on MATH-500, 27.8 /
67.2 / 42.2 (online RFT with the process reward 23.2 / 62.6 / 39.2, SFT 17.0 / 60.8 / 31.2).
"""

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
    PrmConfig,
    SftConfig,
    TaskConfig,
    TrainingConfig,
    pick_variant,
)

EPOCH = 90  # steps of 128 examples that see each of 11,500 solutions once


def tenths(low: int, high: int) -> tuple[float, ...]:
    """Every tenth from `low` tenths to `high` tenths: 5, 7 -> 0.5, 0.6, 0.7."""
    return tuple(tenth / 10 for tenth in range(low, high + 1))


def get_config(variant: str = "bstar") -> Config:
    """The config of a variant of this experiment."""
    return pick_variant(variant, VARIANTS)


def bstar() -> Config:
    """B-STaR with temperature and threshold chosen."""
    return Config(
        task=TaskConfig(name="math"),
        model=ModelConfig(checkpoint="mistralai/Mistral-7B-v0.1", dtype="bfloat16", remat="full"),
        mesh=MeshConfig(data=1, fsdp=16, tensor=4),
        optimizer=OptimizerConfig(b1=0.9, b2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0),
        training=TrainingConfig(row_tokens=1_536, micro_rows=128),
        sft=SftConfig(
            steps=EPOCH,
            batch=128,
            learning_rate=5e-6,
            warmup_steps=54,  # 20 % of the schedule
            final_rate=0.04,
            fall="cosine",
            schedule_steps=3 * EPOCH,
            examples=10_900,  # 600 of the 11,500 are calibration queries
        ),
        prm=PrmConfig(
            enabled=True,
            queries=3_000,
            responses=15,
            continuations=8,
            completer_steps=2 * EPOCH,
            labels="hard",
            label_tokens="step",
            separator="\n",
            heldout=600,
            steps=352,  # 2 epochs
            batch=256,
            learning_rate=2e-6,
            warmup_steps=70,
            final_rate=0.1,
            fall="cosine",
        ),
        loop=LoopConfig(iterations=9),
        calibrate=CalibrateConfig(
            queries=600,
            responses=64,
            temperatures=tenths(5, 12),
            thresholds=tenths(-10, 10),
        ),
        generate=GenerateConfig(
            queries=0,
            responses=64,
            max_prompt_tokens=752,
            max_tokens=769,  # 768 and the end-of-text token
            batch=4_096,
            slots=1_024,
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


def sft() -> Config:
    """Three epochs of warm-up alone."""
    return bstar().changed({"sft.steps": 3 * EPOCH, "loop.iterations": 0, "prm": PrmConfig()})


def online_rft() -> Config:
    """Temperature 1 and threshold 0 in every iteration."""
    return bstar().changed({"calibrate.temperatures": (1.0,), "calibrate.thresholds": (0.0,)})


def reference() -> Config:
    """The authors' code, where it differs from their paper."""
    return bstar().changed(
        {
            "model.trained": "weights",
            "calibrate.temperatures": tuple(step / 20 for step in range(10, 25)),
            "calibrate.thresholds": tuple(step / 100 for step in range(-100, 100)),
            "balance.rules": "reference",
            "balance.target_correct": 8,
            "balance.target_total": 67_500,
        }
    )


VARIANTS = {"bstar": bstar, "sft": sft, "online_rft": online_rft, "reference": reference}
