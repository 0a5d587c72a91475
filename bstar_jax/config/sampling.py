"""The settings of what is sampled: the grid of calibration, and the answers to train queries."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.schema import Section, setting


@dataclasses.dataclass(frozen=True)
class CalibrateConfig(Section):
    """The grid that the choice is made from.

    A cell is one (temperature, top-k, threshold, process weight). A grid of one cell leaves nothing
    to choose, so calibration samples nothing.
    """

    prefix = "calibrate."

    queries: int = setting(
        256,
        "Calibration queries.",
        when="Raise it if the interval [balance_low, balance_high] is wide.",
        unit="queries",
        low=0,
    )
    responses: int = setting(
        8,
        "Responses to each query at each temperature and top-k, n.",
        when="Set it to generate.responses: the balance score depends on n.",
        unit="responses",
        low=1,
    )
    temperatures: tuple[float, ...] = setting(
        (0.5, 0.7, 0.9, 1.1, 1.3),
        "Sampling temperatures of the grid; 0 is greedy.",
        when="Extend it if the first or last is chosen.",
        low=0.0,
        high=10.0,
    )
    top_ks: tuple[int, ...] = setting(
        (0,),
        "Top-k values of the grid: how many of the likeliest tokens may be drawn; 0 is all.",
        when="Add values such as 40 if high temperatures give unreadable responses.",
        unit="tokens",
        low=0,
    )
    thresholds: tuple[float, ...] = setting(
        (0.75, 1.25),
        "Reward thresholds of the grid: a response is selected if its reward is above it.",
        when="Add lower values if too few responses are selected, higher ones if wrong steps are.",
        low=-1000.0,
        high=1000.0,
    )
    process_weights: tuple[float, ...] = setting(
        (1.0,),
        "Process weights of the grid: the reward is 1 for a right answer, plus this times the "
        "process reward.",
        when="Add 0 to let the choice ignore the process reward.",
        low=0.0,
        high=100.0,
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
class GenerateConfig(Section):
    """How the training queries are answered."""

    prefix = "generate."

    queries: int = setting(
        2048,
        "Train queries answered in an iteration; 0 is all.",
        when="Raise it if training repeats the selected responses often.",
        unit="queries",
        low=0,
    )
    responses: int = setting(
        8,
        "Responses to each query, n.",
        when="Raise it for hard tasks, where few responses are right.",
        unit="responses",
        low=1,
    )
    max_tokens: int = setting(
        28,
        "Longest response, end-of-text included; a longer one is cut and never selected.",
        when="Raise it if many responses are cut. On TPUs a multiple of 16, plus 1, is cheapest.",
        unit="tokens",
        low=1,
    )
    max_prompt_tokens: int = setting(
        22,
        "Longest prompt; a longer one stops the run at its start.",
        when="Set it to the longest prompt of the task. On TPUs a multiple of 16 is cheapest.",
        unit="tokens",
        low=1,
    )
    top_p: float = setting(
        1.0,
        "Probability mass of the likeliest tokens that may be drawn; 1 is all.",
        when="Lower it, to 0.95 say, if long responses derail.",
        above=0,
        high=1,
    )
    min_p: float = setting(
        0.0,
        "Least probability of a token that may be drawn, as a share of the likeliest token's; 0 is "
        "off.",
        when="Raise it, to 0.05 say, if long responses derail at high temperatures.",
        low=0,
        high=1,
    )
    batch: int = setting(
        2048,
        "Responses in a unit, which is sampled and stored as a whole.",
        when="Lower it if the prompts of a unit do not fit, or to lose less when a run is stopped.",
        unit="responses",
        low=1,
        may_differ_on=("evaluate",),
    )
    slots: int = setting(
        2048,
        "Responses decoded at once, at most.",
        when="Raise it for speed, as far as the cache of keys and values fits.",
        unit="responses",
        low=1,
        may_differ_on=("evaluate",),
    )
    stop: tuple[str, ...] = setting(
        ("",),
        "Texts that end a response and are cut off it; an empty one has no effect.",
        when="Set it for a pretrained model that goes on to the next question by itself.",
    )
    weights: str = setting(
        "same",
        "The copy of the parameters that samples: the trained f32 ones (same), or a cast to "
        "bfloat16 or int8.",
        when="Choose bfloat16 on TPUs and GPUs; int8 where memory is short.",
        choices=("same", "bfloat16", "int8"),
    )
    rationalize: bool = setting(
        False,
        "Whether queries without a right response are tried once more with the answer as a hint.",
        when="Turn it on for STaR.",
    )
