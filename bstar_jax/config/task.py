"""The settings of the task, of its tokenizer, and of grading."""

from __future__ import annotations

import contextlib
import dataclasses
import keyword
import math
import re
from collections.abc import Iterator, Mapping

from bstar_jax.config.errors import UserError
from bstar_jax.config.schema import Section, setting

REWARDS = ("number", "text", "math", "choice", "code")
TASK_NAMES = (
    "arithmetic", "gsm8k", "math", "arc", "humaneval", "mbpp", "apps", "verl", "trl", "file",
    "jsonl",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FieldNames(Section):
    """The fields of a record: names, or paths such as `reward_model.ground_truth`, `answers[0]`."""

    prefix = "task.fields."

    id: str = setting(
        "",
        "Field with an id that occurs once. '' takes unique_id, task_id or id, whichever the file "
        "has; otherwise the id is <split>/<record number>.",
        when="Set it where ids have another name.",
    )
    question: str = setting(
        "question",
        "Field with the question: a text, or a list of chat messages.",
        when="Set it to your file's name for it.",
    )
    answer: str = setting(
        "answer",
        "Field with the reference answer; '' if there is none.",
        when="Set it to your file's name for it.",
    )
    solution: str = setting(
        "",
        "Field with the human solution, for code a program; '' if there is none.",
        when="Set it to warm up on solutions (`sft`) or to show solved examples (`task.shots`).",
    )
    choices: str = setting(
        "choices",
        "Field with the options to choose from, for task.reward=choice.",
        when="Set it to your file's name for it.",
    )
    tests: str = setting(
        "tests",
        "Field with the assert lines that a program must pass, for task.reward=code.",
        when="Set it to your file's name for it.",
    )
    source: str = setting(
        "",
        "Field with a label, by which metrics are also given; '' if there is none.",
        when="Set it where one file mixes several kinds of questions.",
    )


@dataclasses.dataclass(frozen=True)
class SplitNames(Section):
    """The files or folders that hold the splits, where they have names of their own."""

    prefix = "task.splits."

    train: str = setting(
        "",
        "Name of the train split. '' takes train or training.",
        when="Set it where the split has another name, such as default.",
    )
    calibration: str = setting(
        "",
        "Name of the split that calibrates. '' takes validation, valid, val or dev; without one, "
        "calibration queries are taken from train.",
        when="Set it where the split has another name.",
    )
    heldout: str = setting(
        "",
        "Name of the held-out split. '' takes test, testing, eval or evaluation, else, if it is "
        "alone, the validation split; without any, held-out queries are taken from train.",
        when="Set it where the split has another name.",
    )


@dataclasses.dataclass(frozen=True)
class _SourceSettings(Section):
    """What can be said of each source of queries."""

    prefix = "task."

    name: str = setting(
        "arithmetic",
        "The task. arithmetic makes its own queries; file (or jsonl) reads any file of questions; "
        "verl and trl read the layouts of these projects; the others read the published files of "
        "that name; FILE.py:FUNCTION calls a function of yours, (config) -> Task.",
        when="Choose file for your own data.",
        choices=TASK_NAMES,
        takes_functions=True,
    )
    path: str = setting(
        "",
        "The data: a file (JSON Lines, also .gz, a JSON array, Parquet), a folder with files named "
        "by their splits, or hf://datasets/OWNER/NAME[@REVISION][/FOLDER].",
        when="Set it for every task that does not make its own queries.",
    )
    prompt: str = setting(
        "",
        "Prompt template, which holds {question}; '' takes the task's own.",
        when="Set it to the format that your model was tuned on.",
    )
    hint_prompt: str = setting(
        "",
        "Prompt template of a second try, which holds {question} and {reference}; '' takes the "
        "task's own.",
        when="Set it with `prompt` where generate.rationalize is on.",
    )
    answer_marker: str = setting(
        "",
        "The text that precedes the answer in a response; '' takes the task's own.",
        when="Set it where your solutions or your model mark answers differently.",
    )
    reward: str = setting(
        "",
        "How a response is graded. The answer is compared as a number, as text, as mathematics in "
        "LaTeX, by the label of an option, or by running tests on code; or FILE.py:FUNCTION or "
        "MODULE:FUNCTION is called with (query, response, finish_reason). '' takes the task's own.",
        when="Set it to the kind of answer in your file, or to a function of yours.",
        choices=("", *REWARDS),
        takes_functions=True,
    )
    fields: FieldNames = dataclasses.field(default_factory=FieldNames)
    step_reward: str = setting(
        "",
        "A function that rewards solution steps, FILE.py:FUNCTION or MODULE:FUNCTION, called with "
        "(query, steps, finish_reason): a value in [-1, 1] for each step. '' takes the task's own.",
        when="Set it where you can tell good steps from bad ones.",
        choices=("",),
        takes_functions=True,
    )
    correct_at: float = setting(
        1.0,
        "The score from which a response counts as correct.",
        when="Lower it where a reward gives partial credit.",
        above=0,
        high=1,
    )
    splits: SplitNames = dataclasses.field(default_factory=SplitNames)
    system: str = setting(
        "",
        "System message that precedes every chat that has none of its own.",
        when="Set it where your model expects instructions there.",
    )
    unreadable: str = setting(
        "stop",
        "What happens to a record that cannot be read: stop refuses the file; drop leaves the "
        "record out and lists it in RUN/left_out.jsonl.",
        when="Choose drop for large published files in which a few records are broken.",
        choices=("stop", "drop"),
    )
    keep: str = setting(
        "",
        "Fields of a record that a function gets as query.fields, names between commas; '' is all.",
        when="Set it where records have large fields that no reward reads.",
    )


@dataclasses.dataclass(frozen=True)
class SourceConfig(_SourceSettings):
    """One of several sources of queries, by its name in `task.sources`."""

    share: float = setting(
        0.0,
        "Share of the queries of every split, and of each iteration. 0 for all sources is in "
        "proportion to their queries.",
        when="Set it to decide how much of each kind is taught; the shares of all sources sum to "
        "1.",
        low=0,
        high=1,
    )


@dataclasses.dataclass(frozen=True)
class TaskConfig(_SourceSettings):
    """The task: its queries, their prompts, and how responses are graded."""

    # A mapping cannot be hashed; equal configs have equal other settings.
    sources: Mapping[str, SourceConfig] = dataclasses.field(default_factory=dict, hash=False)
    shots: int = setting(
        0,
        "How many solved train examples precede every prompt. They are taken out of the train "
        "split.",
        when="Raise it for a pretrained model that does not know the format of an answer.",
        unit="examples",
        low=0,
    )
    chat_template: bool = setting(
        False,
        "Whether the prompt becomes a user message in the tokenizer's chat template, followed by "
        "the opening of the assistant's turn. Prompts that are chat messages always use it.",
        when="Turn it on for an instruction-tuned model.",
    )
    template_variables: str = setting(
        "",
        "Variables of the chat template, written as NAME=VALUE between commas, such as "
        "enable_thinking=False.",
        when="Set it where the template has a switch.",
    )
    train_queries: int = setting(
        10240,
        "How many train queries task arithmetic makes.",
        when="Raise it with generate.queries or prm.queries, which draw from them.",
        unit="queries",
        low=1,
    )
    most_left_out: float = setting(
        0.05,
        "Largest share of a source's records that task.unreadable=drop may leave out.",
        when="Raise it where you know that more records are of no use.",
        low=0,
        high=1,
    )
    check_reward: bool = setting(
        True,
        "Whether the reward is tried at the start on responses that must be right and on junk.",
        when="Turn it off only for a reward that the test misjudges.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sources(self)

    def all_sources(self) -> dict[str, SourceConfig]:
        """Returns the sources by name, in the order of their names.

        Without `sources` this is one, under the name "", with the settings of the task itself.
        """
        if self.sources:
            return {name: self.sources[name] for name in sorted(self.sources)}
        names = [field.name for field in dataclasses.fields(_SourceSettings)]
        return {"": SourceConfig(**{name: getattr(self, name) for name in names})}


@dataclasses.dataclass(frozen=True)
class TokenizerConfig(Section):
    """The tokenizer, which turns text into tokens."""

    prefix = "tokenizer."

    path: str = setting(
        "",
        "Tokenizer file or directory. '' takes the checkpoint's; without a checkpoint a task of "
        "few words has a token for each, and any other task trains sentencepiece on its text.",
        when="Set it to use the tokenizer of another model.",
    )
    vocab_size: int = setting(
        2048,
        "Size of the vocabulary of a sentencepiece tokenizer that is trained.",
        when="Raise it for a larger model and more text.",
        unit="tokens",
        low=300,
    )


@dataclasses.dataclass(frozen=True)
class CodeConfig(Section):
    """Limits of a generated program in its sandbox."""

    prefix = "rewards.code."

    cpu_seconds: int = setting(
        5,
        "CPU time of one process.",
        when="Raise it if right programs end with reason timeout.",
        unit="seconds",
        low=1,
    )
    wall_seconds: float = setting(
        10.0,
        "Wall time of one process, at the first try.",
        when="Raise it if right programs end with reason timeout, or on a busy machine.",
        unit="seconds",
        above=0,
    )
    total_seconds: float = setting(
        60.0,
        "Wall time of a program with all its tests.",
        when="Raise it for tasks with many tests.",
        unit="seconds",
        above=0,
    )
    memory_mib: int = setting(
        1024,
        "Address space of one process, the interpreter included.",
        when="Raise it if right programs run out of memory; lower it if the machine does.",
        unit="MiB",
        low=64,
    )
    unsafe: bool = setting(
        False,
        "Whether programs run without a sandbox, with all your rights.",
        when="Turn it on only in a machine that you can throw away.",
    )
    packages: str = setting(
        "",
        "Python packages that programs may import, names between commas, such as numpy. They are "
        "bound into the sandbox, read-only, from this interpreter's packages.",
        when="Set it where right programs need a package: answers to APPS and MBPP use numpy.",
    )
    tolerance: float = setting(
        0.0,
        "Largest relative difference at which two floats count as equal, alone or inside lists, in "
        "tests by arguments and results; 0 is exactly equal. Printed numbers have at least 1e-5.",
        when="Raise it, to 1e-9 say, where right programs may add in another order, and further "
        "where the tests hold rounded numbers.",
        low=0,
        high=0.1,
    )


@dataclasses.dataclass(frozen=True)
class RewardsConfig(Section):
    """Grading of responses."""

    prefix = "rewards."

    workers: int = setting(
        0,
        "How many answers are graded at a time; 0 is one per core.",
        when="Lower it where grading takes cores or memory that sampling needs.",
        unit="answers",
        low=0,
        may_differ_on=("resume",),
    )
    seconds: float = setting(
        5.0,
        "Time to compare one answer in mathematics, or for one call of a function of yours, at "
        "the first try; the second has twice that.",
        when="Raise it if right answers end with reason timeout.",
        unit="seconds",
        above=0,
    )
    code: CodeConfig = dataclasses.field(default_factory=CodeConfig)
    memory_mib: int = setting(
        2048,
        "Address space that a worker process of a function of yours may use beyond what starting "
        "took; 0 is no limit.",
        when="Raise it for functions that load a model or many threads.",
        unit="MiB",
        low=0,
        may_differ_on=("resume",),
    )
    batch: int = setting(
        32,
        "Most responses that a function with `batched = True` gets at once.",
        when="Raise it for a judge that answers many questions at once.",
        unit="responses",
        low=1,
    )
    in_flight: int = setting(
        0,
        "How many calls of a function of yours may be under way on a host, each in a process of "
        "its own; 0 is rewards.workers.",
        when="Raise it above the number of cores for a judge over HTTP; lower it if that refuses.",
        unit="calls",
        low=0,
        may_differ_on=("resume",),
    )
    most_errors: float = setting(
        0.1,
        "Largest share of a phase's responses whose grading may break or run too long; above it "
        "the run stops.",
        when="Raise it for a judge that often fails.",
        low=0,
        high=1,
        may_differ_on=("resume",),
    )


@contextlib.contextmanager
def names_source(name: str) -> Iterator[None]:
    """Has errors name the settings of a source as they are written: task.sources.NAME.path.

    Args:
      name: The name of the source; "" for the task's own settings, which errors name rightly.
    """
    try:
        yield
    except UserError as error:
        own = "|".join(field.name for field in dataclasses.fields(SourceConfig))
        message = re.sub(rf"\btask\.({own})\b", rf"task.sources.{name}.\1", str(error))
        if not name:
            raise
        raise UserError(message) from error


def _check_sources(task: TaskConfig) -> None:
    if not task.sources:
        return
    default = SourceConfig()
    for field in dataclasses.fields(_SourceSettings):
        if getattr(task, field.name) != getattr(default, field.name):
            raise UserError(
                f"task.{field.name} is set beside task.sources, each of which has its own; write "
                f"task.sources.{min(task.sources)}.{field.name}, or drop it"
            )
    for name in task.sources:
        if not name.isidentifier() or keyword.iskeyword(name) or hasattr({}, name):
            raise UserError(
                f"task.sources has {name!r}; the name of a source is an identifier of Python, such "
                "as math_500, and none of keys, values, items, get, update, pop, copy, clear"
            )
    shares = [source.share for source in task.sources.values()]
    if any(shares) and not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        listed = ", ".join(f"{name} {task.sources[name].share:g}" for name in sorted(task.sources))
        raise UserError(
            f"the shares of task.sources sum to {sum(shares):g} ({listed}); they sum to 1, or are "
            "all 0"
        )
