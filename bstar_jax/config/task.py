"""The settings of what is asked, how it becomes tokens, and how responses are graded."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.schema import Section, setting


@dataclasses.dataclass(frozen=True)
class FieldNames(Section):
    """The names of the fields in each line of a JSONL file; "" for a field it does not have."""

    prefix = "task.fields."

    id: str = setting(
        "",
        "Field with an id that occurs once. '' takes unique_id, task_id or id, whichever the file "
        "has; otherwise the id is <split>/<record number>.",
        when="Set it where ids have another name.",
    )
    question: str = setting(
        "question",
        "Field with the text of the question.",
        when="Set it to your file's name for it.",
    )
    answer: str = setting(
        "answer", "Field with the reference answer.", when="Set it to your file's name for it."
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


@dataclasses.dataclass(frozen=True)
class TaskConfig(Section):
    """What is asked: the queries, their prompts, and where an answer is found."""

    prefix = "task."

    name: str = setting(
        "arithmetic",
        "The task. arithmetic makes its own queries; jsonl reads any JSON Lines file; the others "
        "read the published files of that name.",
        when="Choose jsonl for your own data.",
        choices=("arithmetic", "gsm8k", "math", "arc", "humaneval", "mbpp", "apps", "jsonl"),
    )
    path: str = setting(
        "",
        "The data: a file, or a folder with train.jsonl and, if there is a held-out file, "
        "test.jsonl.",
        when="Set it for every task but arithmetic.",
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
        "number",
        "How task jsonl compares answers: as numbers, as text, as mathematics in LaTeX, by the "
        "label of an option, or by running tests on code.",
        when="Set it to the kind of answer in your file.",
        choices=("number", "text", "math", "choice", "code"),
    )
    fields: FieldNames = dataclasses.field(default_factory=FieldNames)
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
        "the opening of the assistant's turn.",
        when="Turn it on for an instruction-tuned model.",
    )
    train_queries: int = setting(
        10240,
        "How many train queries task arithmetic makes.",
        when="Raise it with generate.queries or prm.queries, which draw from them.",
        unit="queries",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class TokenizerConfig(Section):
    """How text becomes tokens."""

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
    """What a generated program may use in its sandbox."""

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


@dataclasses.dataclass(frozen=True)
class RewardsConfig(Section):
    """How responses are graded."""

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
        "Time to compare one answer in mathematics, at the first try; the second has twice that.",
        when="Raise it if right answers end with reason timeout.",
        unit="seconds",
        above=0,
    )
    code: CodeConfig = dataclasses.field(default_factory=CodeConfig)
