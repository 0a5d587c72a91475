"""Gives the doors some sixty commands that cannot work: exit codes, and what is said.

    python -m benchmarks.fidelity.bad_commands --output=DIR/bad_commands/exits

Run in a checkout. DIR is the output of `cases`, whose `tiny` run must stand. Every command is
run as `python -m bstar_jax.DOOR` would run it, in a process forked from this one, which has the
libraries imported already: a second instead of five. Writes codes.json, {command: exit code}, and
words.json, {command: first line of the error}. Words may change for the better; codes may not.
"""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import shutil
import sys
import warnings

from benchmarks import figures

ARITHMETIC = "--config=configs/arithmetic.py"


def main_commands() -> list[str]:
    """Commands of `main`; {new} is a run directory that does not stand yet."""
    settings = [
        "calibrate.temperature=0.5", "sft=3", "sft.steps=many", "sft.steps=-1", "sft.steps=2.5",
        "seed=-1", "optimizer.b1=2", "sft.learning_rate=0", "sft.learning_rate=nan",
        "balance.rules=papers", "calibrate.temperatures=0.5,hot", "calibrate.temperatures=1.0,0.5",
        "calibrate.temperatures=0.5,0.5", "calibrate.temperatures=", "calibrate.queries=0",
        "monitor.ks=1,64", "monitor.s=40", "monitor.ks=8,8", "balance.rules=reference",
        "improve.init_from=base", "sft.examples=0", "improve.reference_share=0.001",
        "sft.schedule_steps=10", "sft.warmup_steps=300", "training.row_tokens=16",
        "training.micro_rows=5", "task.path=file.jsonl", "task.prompt=nothing",
        "task.hint_prompt={question}", "model.window_pattern=wx", "model.lora_targets=head",
        "model.kv_heads=3", "model.width=97", "model.head_width=5",
        "model.checkpoint=./nowhere", "model.vocab_size=3", "mesh.fsdp=3", "mesh.data=0",
        "generate.queries=20000", "generate.max_prompt_tokens=2", "task.name=gsm8k",
        "task.name=gsm9k", "task.shots=2", "task.reward=code", "tokenizer.path=nowhere/tokenizer",
        "rewards.code.memory_mib=1", "noquiet", "log.tensorboard=maybe",
    ]  # fmt: skip
    commands = [f"main {ARITHMETIC} --workdir={{new}} --config.{setting}" for setting in settings]
    jsonl = f"main {ARITHMETIC} --workdir={{new}} --config.task.name=jsonl --config.task.path="
    return [
        *commands,
        f"main {ARITHMETIC}",
        "main --workdir={new}",
        "main --config=configs/nothing.py --workdir={new}",
        f"main {ARITHMETIC}:nothing --workdir={{new}}",
        f"main {ARITHMETIC} --workdir={{new}} stray",
        f"main {ARITHMETIC} --workdir={{new}} --quite",
        f"main {ARITHMETIC} --workdir={{new}} --processes=2",
        f"main {ARITHMETIC} --workdir={{new}} --coordinator=nowhere --processes=2 --process=0",
        f"main {ARITHMETIC} --workdir={{new}} --distributed=slurm",
        "main --workdir={tiny} --config.seed=1",
        "main --workdir={tiny} --config.loop.iterations=1",
        f"main {ARITHMETIC} --workdir={{tiny}}",
        f"{jsonl}{{bad}}/nothing.jsonl",
        f"{jsonl}{{bad}}/broken.jsonl",
        f"{jsonl}{{bad}}/empty.jsonl",
        f"{jsonl}{{bad}}/twice.jsonl",
        f"{jsonl}{{bad}}/unread.jsonl",
        f"{jsonl}{{bad}}/twice.jsonl --config.task.fields.question=query",
    ]


OTHERS = [
    "evaluate",
    "evaluate {tiny} {tiny}",
    "evaluate {bad}",
    "evaluate {tiny}@last",
    "evaluate {tiny}@9",
    "evaluate {tiny} --split=heldin",
    "evaluate {tiny} --config.seed=3",
    "evaluate --checkpoint={tiny}",
    f"evaluate --checkpoint={{tiny}} {ARITHMETIC}",
    f"evaluate {{tiny}} --checkpoint={{tiny}} {ARITHMETIC}",
    "export {tiny}",
    "export {tiny} --output={tiny}",
    "export {tiny} --output={new} --adapter",
    "export {tiny}@7 --output={new}",
    "grade --task=gsm8k",
    "grade --task=gsm9k --input={inputs}/gsm8k_responses.jsonl --output={new}",
    "grade --task=gsm8k --input={bad}/nothing.jsonl --output={new}",
    "grade --task=gsm8k --input={bad}/twice.jsonl --output={new}",
    "grade --task=gsm8k --input={bad}/twice.jsonl --output={bad}/twice.jsonl",
    "grade --task=gsm8k --input={bad}/twice.jsonl --output={bad}",
    "grade --task=gsm8k --input={bad}/twice.jsonl --output={bad}/none/there",
    "grade --task=gsm8k --input={bad}/twice.jsonl --output={new} --config.seed=1",
    "plan",
    f"plan {ARITHMETIC}",
    f"plan {ARITHMETIC} --topology=v5e",
    f"plan {ARITHMETIC} --topology=x9:8",
    f"plan {ARITHMETIC} --topology=v5e:8",
    f"plan {ARITHMETIC} --topology=h100:2x2x2",
    f"plan {ARITHMETIC} --topology=h100:8 --config.mesh.fsdp=3",
    f"plan {ARITHMETIC} --topology=h100:8 --config.model.checkpoint=./nowhere",
    "plan --config=configs/math_mistral7b.py --topology=h100:1",
    "plan --config=configs/math_mistral7b.py --topology=gpu-16gb:64 --nosearch --quiet",
]

BAD_FILES = {
    "broken.jsonl": '{"question": "1 + 1?", "answer": "2"}\n{"question": \n',
    "empty.jsonl": "",
    "twice.jsonl": "".join(
        f'{{"id": "a", "question": "1 + 1?", "answer": "{answer}"}}\n' for answer in (2, 3)
    ),
    "unread.jsonl": '{"question": "1 + 1?", "answer": "two"}\n',
}


def run(door: str, words: list[str], log: pathlib.Path) -> int:
    """Runs a door in a forked process, its output in a file: its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads: no device is in use here
        child = os.fork()
    if child == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        _become(door, words)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(door: str, words: list[str]) -> None:
    """Runs the door as the main module of this process, and ends it."""
    sys.argv = [door, *words]
    code = 0
    try:
        runpy.run_module(f"bstar_jax.{door}", run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def first_error(log: pathlib.Path, places: dict[str, str]) -> str:
    """The line that begins with "error:", or else the last one, without this machine's paths."""
    lines = log.read_text(errors="replace").splitlines() or [""]
    line = next((line for line in lines if line.startswith("error:")), lines[-1])
    for name, place in sorted(places.items(), key=lambda item: -len(item[1])):
        line = line.replace(place, f"{{{name}}}")
    return line.replace(os.getcwd(), "{root}")


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    output = parser.parse_args().output.absolute()
    scratch = output / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "bad").mkdir(parents=True)
    for name, text in BAD_FILES.items():
        (scratch / "bad" / name).write_text(text)
    cases = output.parents[1]
    places = {
        "new": scratch / "new", "bad": scratch / "bad", "tiny": cases / "tiny" / "run",
        "inputs": cases / "inputs",
    }  # fmt: skip
    places = {name: str(place) for name, place in places.items()}
    import bstar_jax.iterate  # noqa: F401  (the libraries, imported once for all commands)

    codes, words = {}, {}
    for command in [*main_commands(), *OTHERS]:
        shutil.rmtree(scratch / "new", ignore_errors=True)
        door, *given = (word.format_map(_Braces(places)) for word in command.split(" "))
        codes[command] = run(door, given, scratch / "log")
        words[command] = first_error(scratch / "log", places)
    (output / "codes.json").write_text(json.dumps(codes, indent=1) + "\n")
    (output / "words.json").write_text(json.dumps(words, indent=1) + "\n")
    print(f"{len(codes)} commands")


class _Braces(dict):
    """Leaves braces alone that name no place."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


if __name__ == "__main__":
    main()
