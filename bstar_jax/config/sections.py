"""The sections of a config: every setting with its unit and range."""

from __future__ import annotations

import dataclasses

from bstar_jax.schema import Checked, setting


@dataclasses.dataclass(frozen=True)
class FieldNames(Checked):
    """Names of the fields in each line of a JSONL file; "" where the file has none."""

    prefix = "task.fields."

    id: str = setting(
        "",
        "unique id; '' takes unique_id, task_id or id, else <split>/<record>",
    )
    question: str = setting("question", "text of the question")
    answer: str = setting("answer", "reference answer")
    solution: str = setting("", "human solution, of code a program; '' where there is none")
    choices: str = setting("choices", "options to choose from; for reward=choice")
    tests: str = setting("tests", "assert lines that a program must pass; for reward=code")


@dataclasses.dataclass(frozen=True)
class TaskConfig(Checked):
    """What is asked."""

    prefix = "task."

    name: str = setting(
        "arithmetic",
        "the task",
        choices=("arithmetic", "gsm8k", "math", "arc", "humaneval", "mbpp", "apps", "jsonl"),
    )
    path: str = setting("", "a file, or a folder with train.jsonl and optionally test.jsonl")
    prompt: str = setting("", "prompt template holding {question}; '' takes the task's own")
    hint_prompt: str = setting(
        "", "rationalization template holding {question} and {reference}; '' takes the task's own"
    )
    answer_marker: str = setting("", "text before the answer; '' takes the task's own")
    reward: str = setting(
        "number",
        "how jsonl answers compare",
        choices=("number", "text", "math", "choice", "code"),
    )
    fields: FieldNames = dataclasses.field(default_factory=FieldNames)
    shots: int = setting(0, "solved train examples put before every prompt", low=0)
    chat_template: bool = setting(
        False,
        "the prompt becomes a user message in the tokenizer's chat template, with the "
        "assistant's turn opened",
    )
    train_queries: int = setting(10240, "train queries that a generated task makes", low=1)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig(Checked):
    """How text becomes tokens."""

    prefix = "tokenizer."

    path: str = setting("", "tokenizer file or directory; '' takes the task's own or trains one")
    vocab_size: int = setting(2048, "pieces of a sentencepiece tokenizer trained here", low=300)


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
class CodeConfig(Checked):
    """What a generated program may use in its sandbox."""

    prefix = "rewards.code."

    cpu_seconds: int = setting(5, "CPU time of one process", low=1)
    wall_seconds: float = setting(10.0, "wall time of one process, at the first try", above=0)
    total_seconds: float = setting(60.0, "wall time of a program with all its tests", above=0)
    memory_mib: int = setting(1024, "memory", low=64)
    unsafe: bool = setting(False, "run programs without a sandbox, with all your rights")


@dataclasses.dataclass(frozen=True)
class RewardsConfig(Checked):
    """How responses are graded."""

    prefix = "rewards."

    workers: int = setting(0, "answers graded at a time; 0 is one a core", low=0)
    seconds: float = setting(5.0, "for one answer in mathematics, at the first try", above=0)
    code: CodeConfig = dataclasses.field(default_factory=CodeConfig)


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
