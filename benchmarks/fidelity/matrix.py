"""The cases: which commands each runs, through the doors alone.

Words in braces stand for places: {out} is the folder of all cases, {case} that of this case,
{inputs} that of the small input files.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of a case.

    Attributes:
      name: Names its log; unique in the case.
      words: What follows the Python interpreter.
      makes: Files and folders that it writes, removed before it is started over.
      code: The exit code that it must end with; None if any will do, and it is compared.
      devices: Virtual CPU devices of each process; 0 leaves JAX's default.
      processes: Processes that run it together.
    """

    name: str
    words: tuple[str, ...]
    makes: tuple[str, ...] = ()
    code: int | None = 0
    devices: int = 0
    processes: int = 1


@dataclasses.dataclass(frozen=True)
class Case:
    """A folder of results: commands that run one after the other.

    Attributes:
      name: Of its folder.
      steps: Its commands.
      needs: Cases whose results it reads.
    """

    name: str
    steps: tuple[Step, ...]
    needs: tuple[str, ...] = ()


def flags(**settings: object) -> tuple[str, ...]:
    """Overrides; a double underscore stands for the dot: sft__steps=3 is --config.sft.steps=3."""
    return tuple(f"--config.{name.replace('__', '.')}={value}" for name, value in settings.items())


def train(name: str, config: str, *overrides: str, devices: int = 0, processes: int = 1) -> Step:
    """Trains a run, in {case}/NAME."""
    place = f"{{case}}/{name}"
    words = ("-m", "bstar_jax.main", f"--config={config}", f"--workdir={place}", "--quiet")
    return Step(name, (*words, *overrides), (place,), devices=devices, processes=processes)


def door(name: str, module: str, *words: str, makes: tuple[str, ...] = ()) -> Step:
    """Runs another door; `makes` are in {case}."""
    return Step(name, ("-m", f"bstar_jax.{module}", *words), tuple(f"{{case}}/{x}" for x in makes))


def evaluate(name: str, target: str, *flags: str) -> Step:
    """Scores a run, into {case}/NAME.json."""
    file = f"{name}.json"
    return door(
        name, "evaluate", target, f"--json={{case}}/{file}", "--quiet", *flags, makes=(file,)
    )


def export(name: str, run: str, *flags: str) -> Step:
    """Writes a run's model into {case}/NAME."""
    return door(name, "export", run, f"--output={{case}}/{name}", "--quiet", *flags, makes=(name,))


ARITHMETIC = "configs/arithmetic.py"
# The sizes of tests/tiny.py.
TINY = flags(
    task__train_queries=64, model__width=32, model__layers=2, model__feed_forward=64,
    sft__steps=60, sft__batch=32, sft__learning_rate=0.01, sft__warmup_steps=5, sft__examples=256,
    loop__iterations=2, calibrate__queries=8, calibrate__responses=4,
    calibrate__temperatures="0.5,1.0", calibrate__thresholds="-0.5,0.5", generate__queries=32,
    generate__responses=8, generate__batch=32, improve__steps=6, improve__batch=32,
    monitor__queries=8, monitor__responses=7, monitor__ks="1,4", monitor__s=2, log__every=3,
)  # fmt: skip
MESH = flags(mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
SIXTEEN = flags(mesh__data=1, mesh__fsdp=16, mesh__tensor=1)
PRM = flags(
    task__train_queries=256, prm__queries=96, prm__responses=2, prm__completer_steps=12,
    prm__continuations=2, prm__heldout=8, prm__steps=16, prm__batch=16, prm__warmup_steps=4,
    prm__score_batch=32,
)  # fmt: skip
# A small model on published records, in every phase.
PUBLISHED = flags(
    model__width=64, model__layers=2, model__feed_forward=128, tokenizer__vocab_size=512,
    loop__iterations=2, calibrate__queries=8, calibrate__responses=4, generate__queries=16,
    generate__responses=4, generate__batch=64, improve__steps=6, monitor__queries=8,
    monitor__responses=6, monitor__ks="1,4", monitor__s=2, log__every=5,
)  # fmt: skip
GSM8K = (
    *PUBLISHED,
    *flags(
        task__path="{inputs}/gsm8k.jsonl", generate__max_prompt_tokens=144,
        generate__max_tokens=144, sft__steps=80, sft__batch=16, sft__learning_rate=0.005,
        sft__examples=128, calibrate__temperatures="0.5,0.8",
    ),
)  # fmt: skip
ARC = (
    *PUBLISHED,
    *flags(
        generate__max_prompt_tokens=192, generate__max_tokens=24, calibrate__temperatures="0.4,1.0",
    ),
)  # fmt: skip
ARC_SOLVED = flags(
    task__name="jsonl", task__path="{inputs}/arc_solved.jsonl", task__reward="choice",
    task__fields__answer="answerKey", task__fields__solution="solution", loop__iterations=0,
    sft__steps=60, sft__batch=16, sft__learning_rate=0.01, sft__warmup_steps=5, sft__examples=24,
    calibrate__queries=4, monitor__queries=4,
)  # fmt: skip
CODE = (
    *PUBLISHED,
    *flags(
        sft__steps=160, sft__batch=16, sft__learning_rate=0.01, sft__warmup_steps=10,
        calibrate__temperatures="0.4,0.7", calibrate__thresholds="-0.5,0.5",
        tokenizer__vocab_size=400,
    ),
)  # fmt: skip


def grade(task: str) -> Step:
    """Grades the responses to a task's records, into {case}/TASK.jsonl."""
    file = f"{task}.jsonl"
    places = (f"--input={{inputs}}/{task}_responses.jsonl", f"--output={{case}}/{file}")
    return door(task, "grade", f"--task={task}", *places, "--quiet", makes=(file,))


def plan(name: str, config: str, topology: str, *flags: str) -> Step:
    """Plans a config, into {case}/NAME.json."""
    words = (f"--config={config}", f"--topology={topology}", f"--json={{case}}/{name}.plan")
    step = door(name, "plan", *words, "--quiet", *flags, makes=(f"{name}.plan",))
    return dataclasses.replace(step, code=None)


def tool(name: str, makes: str, *words: str) -> Step:
    """Runs a module of these tools with the checkout's package, into {case}/MAKES."""
    place = f"{{case}}/{makes}"
    return Step(name, ("-m", f"benchmarks.fidelity.{name}", f"--output={place}", *words), (place,))


IMPORTED = (*TINY, *flags(model__checkpoint="{out}/tiny/export", sft__steps=12))
STAR = (
    *TINY,
    *flags(calibrate__temperatures=0.0, calibrate__thresholds=0.5, generate__responses=1),
    *flags(sft__steps=150),
)
# Settings that the other cases leave at their defaults.
OPTIONS = (
    *TINY,
    *flags(
        calibrate__top_ks="0,5", calibrate__process_weights="0.5,1.0", balance__rules="reference",
        balance__target_total=24, improve__data="accumulated", improve__init_from="warmup",
        improve__reference_share=0.25, training__row_tokens=64, training__micro_rows=8,
        generate__top_p=0.9, generate__min_p=0.05, generate__weights="int8", generate__slots=16,
        generate__stop="'How','had'", model__remat="dots", model__tied=False, sft__fall="cosine",
        sft__schedule_steps=90, improve__learning_rate=0.002, monitor__process_weight=0.5,
        checkpoint__keep=1, optimizer__clip_norm=0.5, optimizer__weight_decay=0.1, seed=3,
    ),
)  # fmt: skip
RFT = (
    *TINY,
    *flags(calibrate__temperatures=0.7, calibrate__thresholds=-0.5, loop__iterations=1),
    *flags(improve__steps=6, generate__responses=8, generate__batch=64),
)
ARC_RUN = (*ARC, *flags(task__path="{inputs}/arc.jsonl", model__checkpoint="{case}/checkpoint"))
MBPP = (
    *CODE,
    *flags(task__path="{inputs}/mbpp.jsonl", sft__examples=64),
    *flags(generate__max_prompt_tokens=200, generate__max_tokens=120),
)
HUMANEVAL = (
    *CODE,
    *flags(task__path="{inputs}/humaneval.jsonl", sft__examples=36),
    *flags(generate__max_prompt_tokens=240, generate__max_tokens=160),
)
RUN = "{case}/run"

CASES = (
    Case("configurations", (tool("configurations", "configurations.json"),)),
    Case(
        "tiny",
        (
            train("run", ARITHMETIC, *TINY),
            evaluate("heldout", RUN),
            evaluate("train", f"{RUN}@1", "--split=train"),
            export("export", RUN),
        ),
    ),
    Case("mesh8", (train("run", ARITHMETIC, *TINY, *MESH, devices=8),)),
    Case("prm", (train("run", f"{ARITHMETIC}:prm", *TINY, *PRM), evaluate("heldout", RUN))),
    Case("gsm8k", (train("run", "configs/gsm8k.py", *GSM8K),)),
    Case("bad_commands", (tool("bad_commands", "exits"),), ("tiny",)),
    Case("processes2", (train("run", ARITHMETIC, *TINY, *MESH, devices=4, processes=2),)),
    Case(
        "imported",
        (
            train("run", ARITHMETIC, *IMPORTED, *flags(improve__init_from="base")),
            export("export", RUN),
            evaluate(
                "checkpoint", "--checkpoint={out}/tiny/export", f"--config={ARITHMETIC}", *TINY
            ),
        ),
        ("tiny",),
    ),
    Case(
        "lora",
        (
            train("run", ARITHMETIC, *IMPORTED, *flags(model__lora_rank=4)),
            export("adapter", RUN, "--adapter"),
            export("export", RUN),
        ),
        ("tiny",),
    ),
    Case("options", (train("run", ARITHMETIC, *OPTIONS), export("export", RUN))),
    Case("rft", (train("run", f"{ARITHMETIC}:rft", *RFT),)),
    Case("star", (train("run", f"{ARITHMETIC}:star", *STAR),)),
    Case(
        "arc",
        (
            train("taught", "configs/arc.py", *ARC, *ARC_SOLVED),
            export("checkpoint", "{case}/taught"),
            train("run", "configs/arc.py", *ARC_RUN),
        ),
    ),
    Case("mbpp", (train("run", "configs/mbpp.py", *MBPP),)),
    Case("humaneval", (train("run", "configs/mbpp.py:humaneval", *HUMANEVAL),)),
    Case("grade", tuple(grade(task) for task in ("gsm8k", "math", "arc", "mbpp", "humaneval"))),
    Case(
        "plan",
        (
            plan("arithmetic", ARITHMETIC, "h100:8"),
            plan("arithmetic_prm", f"{ARITHMETIC}:prm", "gpu-80gb:1"),
            plan("qwen_lora", "configs/math_qwen2p5_1p5b.py:lora", "h100:1"),
            plan("mistral", "configs/math_mistral7b.py", "h200:2x8", *SIXTEEN),
            plan("v5e", ARITHMETIC, "v5e:2x2", "--nosearch", *TINY),
        ),
    ),
    Case("families", (tool("families", "exercised"),)),
    Case("programs", (tool("programs", "lowered"),)),
    Case("default", (train("run", ARITHMETIC),)),
)
