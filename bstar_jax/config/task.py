"""The settings of what is asked, how it becomes tokens, and how it is graded."""

from __future__ import annotations

import dataclasses

from bstar_jax.config.schema import Checked, setting


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
