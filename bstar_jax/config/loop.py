"""The settings of the loop: its devices, what it samples, chooses, measures and keeps."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.schema import Checked, setting


@dataclasses.dataclass(frozen=True)
class MeshConfig(Checked):
    """How the devices are laid out; the three sizes multiply to the number of devices."""

    prefix = "mesh."

    data: int = setting(-1, "copies of the parameters; -1 takes the devices left over", low=-1)
    fsdp: int = setting(1, "devices that share the storage of one copy", low=-1)
    tensor: int = setting(1, "devices that share one matrix product", low=-1)
    sampling: str = setting(
        "auto",
        "where a process samples: host, on its own devices; global, with all others; auto takes "
        "host where tensor stays within a process",
        choices=("auto", "host", "global"),
    )


@dataclasses.dataclass(frozen=True)
class LoopConfig(Checked):
    """How often."""

    prefix = "loop."

    iterations: int = setting(5, "rounds of self-training; 0 stops after warm-up", low=0)


@dataclasses.dataclass(frozen=True)
class CalibrateConfig(Checked):
    """The grid that the choice is made from; one cell skips the sampling of calibration."""

    prefix = "calibrate."

    queries: int = setting(256, "calibration queries", low=0)
    responses: int = setting(8, "n, a query and cell; best that of generate", low=1)
    temperatures: tuple[float, ...] = setting(
        (0.5, 0.7, 0.9, 1.1, 1.3), "0 is greedy", low=0.0, high=10.0
    )
    top_ks: tuple[int, ...] = setting((0,), "tokens kept; 0 is off", low=0)
    thresholds: tuple[float, ...] = setting(
        (0.75, 1.25), "kept is a reward strictly above", low=-1000.0, high=1000.0
    )
    process_weights: tuple[float, ...] = setting(
        (1.0,), "of the process reward beside the answer reward", low=0.0, high=100.0
    )

    @property
    def sampling_cells(self) -> int:
        """Number of (temperature, top-k) pairs."""
        return len(self.temperatures) * len(self.top_ks)

    @property
    def is_single_cell(self) -> bool:
        """Whether there is nothing to choose."""
        return self.sampling_cells * len(self.thresholds) * len(self.process_weights) == 1


@dataclasses.dataclass(frozen=True)
class GenerateConfig(Checked):
    """How the training queries are answered."""

    prefix = "generate."

    queries: int = setting(2048, "train queries an iteration; 0 is all", low=0)
    responses: int = setting(8, "n, a query", low=1)
    max_tokens: int = setting(28, "longest response, end-of-text included", low=1)
    max_prompt_tokens: int = setting(22, "longest prompt", low=1)
    top_p: float = setting(1.0, "kept probability mass; 1 is off", above=0, high=1)
    min_p: float = setting(0.0, "least share of the best token; 0 is off", low=0, high=1)
    batch: int = setting(2048, "response rows a unit, which is stored at once", low=1)
    slots: int = setting(2048, "response rows decoded at once, at most", low=1)
    stop: tuple[str, ...] = setting(
        ("",), "strings that end a response and are not part of it; an empty one is none"
    )
    weights: str = setting(
        "same", "what sampling reads of the weights", choices=("same", "bfloat16", "int8")
    )
    rationalize: bool = setting(False, "failed queries get a second try with the answer as hint")


@dataclasses.dataclass(frozen=True)
class BalanceConfig(Checked):
    """The balance score, and what is kept."""

    prefix = "balance."

    rules: str = setting("paper", "whose rules", choices=("paper", "reference"))
    target_correct: int = setting(4, "n*, unique correct responses wanted a query", low=1)
    cap: int = setting(0, "most responses kept a query; 0 is all", low=0)
    target_total: int = setting(0, "N, responses wanted in all; for rules=reference", low=0)
    bootstrap: int = setting(1000, "resamples of the calibration queries", low=1)
    distinct: str = setting("text", "what makes a repeat", choices=("text", "equations"))


@dataclasses.dataclass(frozen=True)
class MonitorConfig(Checked):
    """Metrics on held-out queries, after every iteration."""

    prefix = "monitor."

    queries: int = setting(256, "held-out queries", low=1)
    responses: int = setting(32, "n, a query", low=1)
    temperature: float = setting(1.0, "of the sampled responses", above=0, high=10)
    ks: tuple[int, ...] = setting((1, 8, 32), "K of pass@K; at most responses", low=1)
    s: int = setting(4, "S of pass@K-S and reward@K-S", low=1)
    process_weight: float = setting(1.0, "ranks responses; fixed over a run", low=0, high=100)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Checked):
    """What is kept on disk."""

    prefix = "checkpoint."

    keep: int = setting(0, "iterations whose parameters are kept; 0 is all", low=0)
    minutes: float = setting(
        10.0, "between saves within a training phase, at the next metrics row", above=0
    )


@dataclasses.dataclass(frozen=True)
class LogConfig(Checked):
    """What is written for people."""

    prefix = "log."

    every: int = setting(20, "optimizer steps between metrics rows", low=1)
    tensorboard: bool = setting(True, "write tensorboard/")
    wandb_project: str = setting("", "Weights & Biases project; '' is off")
