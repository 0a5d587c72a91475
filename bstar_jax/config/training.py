"""The settings of everything that trains."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.schema import Section, setting


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW and gradient clipping, for every phase that trains."""

    prefix = "optimizer."

    b1: float = setting(
        0.9,
        "Decay rate of the first moment.",
        when="Lower it if the loss oscillates.",
        low=0,
        high=1,
    )
    b2: float = setting(
        0.98,
        "Decay rate of the second moment.",
        when="Raise it towards 0.999 for runs of many thousand steps.",
        low=0,
        high=1,
    )
    epsilon: float = setting(
        1e-8,
        "Number that is added to the square root of the second moment.",
        when="Raise it if early steps are unstable.",
        above=0,
    )
    weight_decay: float = setting(
        0.01,
        "A step subtracts this share of each parameter, times the learning rate.",
        when="Set it to 0 to fine-tune as the paper does.",
        low=0,
    )
    clip_norm: float = setting(
        1.0,
        "Largest global norm of the gradient; larger gradients are scaled down to it.",
        when="Lower it if grad_norm has spikes after which the loss rises.",
        above=0,
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Section):
    """The way the rows of an optimizer step are computed, in every phase that trains.

    Neither setting changes what is learnt, other than by rounding.
    """

    prefix = "training."

    row_tokens: int = setting(
        0,
        "Length of the rows that the texts of a step are packed into; 0 puts each text in a row of "
        "its own.",
        when="Set it where texts differ much in length, to at least the longest prompt and "
        "response together.",
        unit="tokens",
        low=0,
    )
    micro_rows: int = setting(
        0,
        "Rows of one forward and backward pass, whose gradients are added up; 0 is all rows of a "
        "step.",
        when="Lower it until a step fits in memory.",
        unit="rows",
        low=0,
    )


# Settings that each phase that trains has of its own.


def _batch(unit: str) -> int:
    return setting(
        64,
        f"{unit.capitalize()} in a step.",
        when="Change it with `learning_rate`. It must be a multiple of mesh.data x mesh.fsdp.",
        unit=unit,
        low=1,
    )


def _peak(default: float) -> float:
    return setting(
        default, "Peak learning rate.", when="Lower it if the loss rises or jumps.", above=0
    )


def _growth(default: int) -> int:
    return setting(
        default,
        "Steps in which the learning rate grows linearly from 0 to its peak.",
        when="Raise it if the first steps are unstable.",
        unit="steps",
        low=0,
    )


def _final_rate(default: float) -> float:
    return setting(
        default,
        "The learning rate at the end of the schedule, as a share of its peak; 1 is constant.",
        when="Lower it for the last gains of a run whose length is known.",
        low=0,
        high=1,
    )


def _fall() -> str:
    return setting(
        "linear",
        "How the learning rate falls from its peak.",
        when="Choose cosine to follow the paper.",
        choices=("linear", "cosine"),
    )


def _schedule_steps() -> int:
    return setting(
        0,
        "Steps over which the learning rate grows and falls; 0 is all steps of the phase.",
        when="Raise it to stop before the schedule ends, such as after one of three epochs.",
        unit="steps",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class SftConfig(Section):
    """Warm-up on human solutions, before the first iteration."""

    prefix = "sft."

    steps: int = setting(
        250,
        "Optimizer steps; 0 skips warm-up.",
        when="Raise it until Pass@32-4 of iteration 0 falls: more then only narrows the model.",
        unit="steps",
        low=0,
    )
    batch: int = _batch("examples")
    learning_rate: float = _peak(3e-3)
    warmup_steps: int = _growth(50)
    final_rate: float = _final_rate(0.1)
    fall: str = _fall()
    schedule_steps: int = _schedule_steps()
    examples: int = setting(
        1500,
        "Train queries whose human solutions are used.",
        when="Raise it to all that have a solution; set it to 0 for files without solutions.",
        unit="queries",
        low=0,
    )
    solutions: int = setting(
        1,
        "Human solutions used of a query that has several.",
        when="Raise it for data with several solutions, such as APPS.",
        unit="solutions",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class PrmConfig(Section):
    """The process reward model, which is learnt after warm-up from labels that need no people."""

    prefix = "prm."

    enabled: bool = setting(
        False,
        "Whether a process reward model is learnt and scores the solution steps of every response.",
        when="Turn it on where steps cannot be checked exactly and answers alone teach too little.",
    )
    queries: int = setting(
        1024,
        "Train queries whose responses it learns from.",
        when="Raise it if step_auc is low.",
        unit="queries",
        low=1,
    )
    responses: int = setting(
        4,
        "Labelled responses to each of these queries.",
        when="Lower it, and raise `queries`, if it learns answers rather than steps.",
        unit="responses",
        low=1,
    )
    completer_steps: int = setting(
        0,
        "Further optimizer steps of the completer, the model that continues solution steps; 0 "
        "takes the warm-up model as it is.",
        when="Raise it if few continuations are right, so that most labels are 0.",
        unit="steps",
        low=0,
    )
    completer_data: str = setting(
        "human",
        "What the completer learns in these steps: human solutions, its own right responses, or "
        "both.",
        when="Choose own or both where there are few human solutions.",
        choices=("human", "own", "both"),
    )
    completer_temperature: float = setting(
        1.0,
        "Sampling temperature of the continuations.",
        when="Lower it if few continuations are right.",
        above=0,
        high=10,
    )
    continuations: int = setting(
        8,
        "Continuations sampled from the end of every step, n.",
        when="Raise it for finer labels; labelling takes time in proportion.",
        unit="continuations",
        low=1,
    )
    temperature: float = setting(
        1.0,
        "Sampling temperature of the responses that are labelled.",
        when="Set it to what the iterations sample at.",
        above=0,
        high=10,
    )
    labels: str = setting(
        "soft",
        "The label of a step: the share of its continuations that are right (soft), or whether any "
        "is (hard).",
        when="Choose hard to follow the paper.",
        choices=("soft", "hard"),
    )
    label_tokens: str = setting(
        "step",
        "Which tokens learn the label of a step: all of its tokens (step) or its last (end).",
        when="Choose end if early tokens of a step say little about it.",
        choices=("step", "end"),
    )
    language_weight: float = setting(
        0.0,
        "Weight of the language-model loss on right responses, relative to the loss on labels.",
        when="Raise it, to about 1, for a small model, which learns little from labels alone.",
        low=0,
    )
    heldout: int = setting(
        128,
        "Calibration queries that evaluate the process reward model; at most calibrate.queries.",
        when="Raise it if step_auc varies between seeds.",
        unit="queries",
        low=1,
    )
    separator: str = setting(
        "",
        "The text that ends a solution step; '' takes the task's own.",
        when="Set it where your model separates steps differently.",
    )
    reduction: str = setting(
        "min",
        "How the rewards of its steps become the process reward of a response.",
        when="Choose product or last if answer_auc is higher with it.",
        choices=("min", "product", "last"),
    )
    steps: int = setting(
        300,
        "Optimizer steps.",
        when="Raise it while step_auc rises.",
        unit="steps",
        low=1,
    )
    batch: int = _batch("labelled responses")
    learning_rate: float = _peak(1e-3)
    warmup_steps: int = _growth(20)
    final_rate: float = _final_rate(0.1)
    fall: str = _fall()
    schedule_steps: int = _schedule_steps()
    score_batch: int = setting(
        256,
        "Responses scored at once.",
        when="Lower it if scoring does not fit in memory.",
        unit="responses",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class ImproveConfig(Section):
    """Training on what was selected."""

    prefix = "improve."

    steps: int = setting(
        100,
        "Optimizer steps in an iteration.",
        when="Raise it where an iteration selects more responses than these steps see.",
        unit="steps",
        low=1,
    )
    batch: int = _batch("examples")
    learning_rate: float = _peak(1e-3)
    warmup_steps: int = _growth(0)
    final_rate: float = _final_rate(1.0)
    fall: str = _fall()
    schedule_steps: int = _schedule_steps()
    init_from: str = setting(
        "last",
        "The parameters that an iteration starts from: those of the last iteration, of warm-up, or "
        "of the model before warm-up (base).",
        when="Choose warmup or base to train afresh on the newest responses, as STaR and ReST-EM "
        "do.",
        choices=("last", "warmup", "base"),
    )
    optimizer_from: str = setting(
        "last",
        "The optimizer state that an iteration starts from; fresh also starts the schedule again.",
        when="Choose fresh with any `init_from` but last.",
        choices=("last", "fresh"),
    )
    data: str = setting(
        "iteration",
        "Whether training uses the responses selected in this iteration or in all so far.",
        when="Choose accumulated if an iteration selects few responses.",
        choices=("iteration", "accumulated"),
    )
    reference_share: float = setting(
        0.0,
        "Share of each batch that is human solutions.",
        when="Raise it if training on its own responses narrows the model.",
        low=0,
        high=1,
    )

    @property
    def reference_rows(self) -> int:
        """Rows of a batch that are human solutions."""
        return round(self.reference_share * self.batch)
