"""The settings of the loop: its devices, and what it chooses, measures, keeps and logs."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.schema import Section, setting


@dataclasses.dataclass(frozen=True)
class MeshConfig(Section):
    """How the devices are laid out. The product of the three sizes is the number of devices.

    One of the sizes may be -1: it then takes the devices that are left over.
    """

    prefix = "mesh."
    may_differ_on = ("resume", "evaluate", "export")

    data: int = setting(
        -1,
        "Copies of the parameters.",
        when="Raise it above 1 only where rows would not divide, or over slow links.",
        unit="copies",
        low=-1,
    )
    fsdp: int = setting(
        1,
        "Devices that share the storage of one copy.",
        when="Raise it until parameters and optimizer state fit.",
        unit="devices",
        low=-1,
    )
    tensor: int = setting(
        1,
        "Devices that share each matrix product.",
        when="Raise it until the sampling weights fit, at most to the devices of a host.",
        unit="devices",
        low=-1,
    )
    sampling: str = setting(
        "auto",
        "Devices that a process samples on. host: its own; global: all together; auto: host, "
        "unless tensor spans processes.",
        when="Leave it at auto, other than to compare the two.",
        choices=("auto", "host", "global"),
    )


@dataclasses.dataclass(frozen=True)
class LoopConfig(Section):
    """How long self-training goes on."""

    prefix = "loop."

    iterations: int = setting(
        5,
        "Iterations of self-training; 0 stops after warm-up.",
        when="Raise it while Pass@1 rises. A finished run goes on with more where the learning "
        "rate is constant.",
        unit="iterations",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class BalanceConfig(Section):
    """The balance score, and which responses are kept."""

    prefix = "balance."

    rules: str = setting(
        "paper",
        "Whether score and selection follow the paper or, where they differ, the authors' code "
        "(reference).",
        when="Choose reference to reproduce the authors' code.",
        choices=("paper", "reference"),
    )
    target_correct: int = setting(
        4,
        "Unique correct responses wanted for each query, n*.",
        when="Set it to the responses that training needs, divided by the queries.",
        unit="responses",
        low=1,
    )
    cap: int = setting(
        0,
        "Most responses kept for each query; 0 is all.",
        when="Set it if easy queries crowd out hard ones.",
        unit="responses",
        low=0,
    )
    target_total: int = setting(
        0,
        "Responses wanted in all, N, by which balance.rules=reference chooses the cap.",
        when="Set it with balance.rules=reference, to the responses that an iteration trains on.",
        unit="responses",
        low=0,
    )
    bootstrap: int = setting(
        1000,
        "Resamples of the calibration queries for the interval of the score.",
        when="Raise it for more stable intervals.",
        unit="resamples",
        low=1,
    )
    distinct: str = setting(
        "text",
        "What makes a response a repeat: the same text, or the same list of equations.",
        when="Choose equations to count each way of solving once, as RFT does.",
        choices=("text", "equations"),
    )


@dataclasses.dataclass(frozen=True)
class MonitorConfig(Section):
    """What is measured on held-out queries after every iteration."""

    prefix = "monitor."
    may_differ_on = ("evaluate",)

    queries: int = setting(
        256,
        "Held-out queries.",
        when="Raise it for more exact figures.",
        unit="queries",
        low=1,
    )
    responses: int = setting(
        32,
        "Responses to each query, n.",
        when="Raise it for a larger K or more exact figures.",
        unit="responses",
        low=1,
    )
    temperature: float = setting(
        1.0,
        "Sampling temperature.",
        when="Keep it fixed over runs that are compared.",
        above=0,
        high=10,
    )
    ks: tuple[int, ...] = setting(
        (1, 8, 32),
        "The K of pass@K, best@K and majority@K; at most monitor.responses.",
        when="Choose those of the figures that you compare with.",
        unit="responses",
        low=1,
    )
    s: int = setting(
        4,
        "The S of pass@K-S and reward@K-S; at most the largest K.",
        when="Choose that of the figures that you compare with.",
        unit="responses",
        low=1,
    )
    process_weight: float = setting(
        1.0,
        "Process weight of the reward that ranks responses. It is fixed, so that iterations "
        "compare.",
        when="Set it to 0 where the process reward is not to count.",
        low=0,
        high=100,
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Section):
    """What is kept on disk."""

    prefix = "checkpoint."
    may_differ_on = ("resume",)

    keep: int = setting(
        0,
        "Iterations whose parameters are kept, the newest; 0 is all.",
        when="Set it where the disk is small: evaluate and export need parameters that are kept.",
        unit="iterations",
        low=0,
    )
    minutes: float = setting(
        10.0,
        "Time between saves within a training phase; each waits for the next metrics row.",
        when="Lower it where runs are often stopped without notice.",
        unit="minutes",
        above=0,
    )


@dataclasses.dataclass(frozen=True)
class LogConfig(Section):
    """What is written for people."""

    prefix = "log."
    may_differ_on = ("resume", "evaluate", "export")

    every: int = setting(
        20,
        "Optimizer steps between metrics rows.",
        when="Lower it to see the loss more closely.",
        unit="steps",
        low=1,
    )
    tensorboard: bool = setting(
        True,
        "Whether curves are written to RUN/tensorboard.",
        when="Turn it off if nobody looks at them.",
    )
    wandb_project: str = setting(
        "",
        "Weights & Biases project that metrics go to; '' is none.",
        when="Set it to follow runs on several machines in one place.",
    )
