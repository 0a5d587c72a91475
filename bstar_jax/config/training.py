"""The settings of everything that trains."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.schema import Checked, setting


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Checked):
    """AdamW and gradient clipping, for every training phase."""

    prefix = "optimizer."

    b1: float = setting(0.9, "decay of the first moment", low=0, high=1)
    b2: float = setting(0.98, "decay of the second moment", low=0, high=1)
    epsilon: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.01, "a step, times the learning rate", low=0)
    clip_norm: float = setting(1.0, "largest global gradient norm", above=0)


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Checked):
    """How the rows of an optimizer step are computed, in every training phase.

    Neither changes what is learnt, but by rounding.
    """

    prefix = "training."

    row_tokens: int = setting(
        0, "texts of a step are packed into rows of so many tokens; 0 is a row a text", low=0
    )
    micro_rows: int = setting(
        0,
        "rows of one forward and backward pass, whose gradients are added up; 0 is all rows of a "
        "step",
        low=0,
    )


# The learning rate of a phase that trains.


def _peak(default: float):
    return setting(default, "peak", above=0)


def _growth(default: int):
    return setting(default, "steps of linear growth from 0", low=0)


def _final_rate(default: float):
    doc = "share of the peak that the fall ends at; 1 is constant"
    return setting(default, doc, low=0, high=1)


def _fall():
    return setting("linear", "how the rate falls", choices=("linear", "cosine"))


def _schedule_steps():
    return setting(0, "steps that growth and fall span; 0 is all that the phase has", low=0)


@dataclasses.dataclass(frozen=True)
class SftConfig(Checked):
    """Warm-up on human solutions, before the first iteration."""

    prefix = "sft."

    steps: int = setting(250, "optimizer steps; 0 skips warm-up", low=0)
    batch: int = setting(64, "examples a step", low=1)
    learning_rate: float = _peak(3e-3)
    warmup_steps: int = _growth(50)
    final_rate: float = _final_rate(0.1)
    fall: str = _fall()
    schedule_steps: int = _schedule_steps()
    examples: int = setting(1500, "queries whose human solutions are used", low=0)
    solutions: int = setting(1, "human solutions used of a query that has several", low=1)


@dataclasses.dataclass(frozen=True)
class PrmConfig(Checked):
    """The process reward model: learnt after warm-up from labels that need no people."""

    prefix = "prm."

    enabled: bool = setting(False, "solution steps are scored by a model that learns to")
    queries: int = setting(1024, "train queries that it learns from", low=1)
    responses: int = setting(4, "labelled responses a query", low=1)
    completer_steps: int = setting(
        0, "further steps of the model that continues; 0 takes it as it is", low=0
    )
    completer_data: str = setting(
        "human",
        "what these learn: human solutions, the model's own right responses, or both",
        choices=("human", "own", "both"),
    )
    completer_temperature: float = setting(1.0, "of continuations", above=0, high=10)
    continuations: int = setting(8, "n, drawn from the end of every step", low=1)
    temperature: float = setting(1.0, "of responses", above=0, high=10)
    labels: str = setting(
        "soft",
        "soft: share of continuations that are right; hard: whether any is",
        choices=("soft", "hard"),
    )
    label_tokens: str = setting(
        "step",
        "tokens that learn a step's label: all of the step's, or its last",
        choices=("step", "end"),
    )
    language_weight: float = setting(
        0.0, "of the language loss on right responses, beside that of the labels", low=0
    )
    heldout: int = setting(128, "calibration queries that it is judged by", low=1)
    separator: str = setting("", "text that ends a solution step; '' takes the task's own")
    reduction: str = setting(
        "min", "process reward of a response from its steps", choices=("min", "product", "last")
    )
    steps: int = setting(300, "optimizer steps", low=1)
    batch: int = setting(64, "labelled responses a step", low=1)
    learning_rate: float = _peak(1e-3)
    warmup_steps: int = _growth(20)
    final_rate: float = _final_rate(0.1)
    fall: str = _fall()
    schedule_steps: int = _schedule_steps()
    score_batch: int = setting(256, "responses scored at once", low=1)


@dataclasses.dataclass(frozen=True)
class ImproveConfig(Checked):
    """Training on what was selected."""

    prefix = "improve."

    steps: int = setting(100, "optimizer steps an iteration", low=1)
    batch: int = setting(64, "examples a step", low=1)
    learning_rate: float = _peak(1e-3)
    warmup_steps: int = _growth(0)
    final_rate: float = _final_rate(1.0)
    fall: str = _fall()
    schedule_steps: int = _schedule_steps()
    init_from: str = setting(
        "last", "parameters a round starts from", choices=("last", "warmup", "base")
    )
    optimizer_from: str = setting("last", "optimizer state", choices=("last", "fresh"))
    data: str = setting("iteration", "what is trained on", choices=("iteration", "accumulated"))
    reference_share: float = setting(0.0, "share of human solutions in a batch", low=0, high=1)

    @property
    def reference_rows(self) -> int:
        """Rows of a batch that are human solutions."""
        return round(self.reference_share * self.batch)
