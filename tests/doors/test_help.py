"""Help at every door, the console command, completion, and how little both need to import."""

import dataclasses
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from bstar_jax import command, config, records
from bstar_jax.config import Config, UserError, completion, to_dict
from bstar_jax.config import help as helps
from bstar_jax.config.flags import parse
from bstar_jax.config.schema import to_dotted
from tests import settings, structure

ROOT = structure.ROOT
HEAVY = {"jax", "jaxlib", "flax", "numpy", "pyarrow", "transformers", "sympy", "tokenizers"}
DOORS = [importlib.import_module(f"bstar_jax.{name}") for name in command.DOORS]
BY_NAME = pytest.mark.parametrize("door", DOORS, ids=command.DOORS)


def printed(capsys, *words):
    command.main(["bstar-jax", *words])
    return capsys.readouterr().out


def python(program, *words):
    """(exit code, stdout, stderr) of a program in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


# Runs a module as `python -m` does, and says on the last line which heavy packages it imported.
AS_MODULE = f"""
import atexit, runpy, sys
loaded = lambda: {HEAVY!r} & {{name.partition(".")[0] for name in sys.modules}}
atexit.register(lambda: print("imported:", *sorted(loaded()), file=sys.stderr))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


# What help says.


@BY_NAME
@pytest.mark.parametrize("word", ["--help", "-help", "-h", "-?", "--helpshort"])
def test_help_comes_before_everything_else(capsys, door, word):
    door.main(["door", "--nonsense", "--config.no.such=1", "RUN", word, "--flagfile=gone"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: bstar-jax {door.DOOR.name} ")
    for each in (
        "examples",
        "exit codes: 0 ",
        "--helpfull",
        "docs/settings.md",
        door.DOOR.does[:30],
    ):
        assert each in out
    for flag in door.DOOR.own_flags():
        assert re.search(rf"^  --(\[no\])?{flag.name}\b", out, re.MULTILINE), flag.name
    assert max(map(len, out.splitlines())) <= 80


@BY_NAME
def test_a_door_shows_at_most_ten_settings_each_with_its_default(door):
    text = helps.door_help(door.DOOR, Config())
    shown = re.findall(r"^  --config\.([a-z_.]+)=", text, re.MULTILINE)
    assert tuple(shown) == door.DOOR.changed and 1 <= len(shown) <= 10
    values = to_dotted(to_dict(Config()))
    after = re.split(r"^  --config\.[a-z_.]+=", text, flags=re.MULTILINE)[1:]
    for name, part in zip(shown, after, strict=True):
        value = values[name]
        written = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert f"[{written or repr('')}]" in part


@BY_NAME
def test_every_example_is_understood(door):
    for example in door.DOOR.examples:
        words = shlex.split(example, comments=True)
        line = parse(["door", *words], door.DOOR.define, stored=Config())
        assert bool(line.config_file) == ("--config=" in example)
        assert not line.config_file or (ROOT / line.config_file.partition(":")[0]).is_file()


def leaves(section, prefix=""):
    """(name, default) of every setting, found by walking a config."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        elif field.metadata:
            yield f"{prefix}{field.name}", value, field.metadata


def test_full_help_has_every_setting_with_text_range_choices_and_default(capsys):
    out = printed(capsys, "main", "--helpfull")
    flat = " ".join(out.split())
    found = list(leaves(Config()))
    assert len(found) > 150
    for name, value, said in found:
        written = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert f"\n  --config.{name}={written}\n" in out, name
        assert " ".join(said["doc"].split()) in flat, name
        for word in (said["unit"], said["when"], *(said["choices"] or ())):
            assert word in flat, (name, word)
    part = flat.partition("--config.improve.steps=")[2].partition("--config.")[0]
    assert "a whole number (steps), 1 or more" in part


def test_defaults_are_those_of_the_config_that_is_given(capsys):
    out = printed(capsys, "main", "--config=configs/gsm8k.py", "--help")
    values = to_dotted(to_dict(config.load_config(ROOT / "configs/gsm8k.py")))
    assert f"[{values['generate.max_tokens']}]" in out
    assert values["generate.max_tokens"] != Config().generate.max_tokens
    assert "Defaults are those of configs/gsm8k.py." in " ".join(out.split())
    out = printed(capsys, "main", "--config=gone.py", "--help")
    assert "there is no file 'gone.py'" in " ".join(out.split())


def test_the_page_of_settings_is_that_of_the_schema():
    page = settings.DOCUMENT.read_text()
    assert page == helps.settings_page(), "run: python -m tests.settings --write"
    listed = re.findall(r"^- \*\*`([\w.]+)`\*\*", page, re.MULTILINE)
    assert sorted(set(listed) - {"task.sources.NAME.share"}) == sorted(
        name for name, *_ in leaves(Config())
    )
    assert len(set(listed)) == len(listed)


# The console command.


def test_the_command_lists_its_doors(capsys):
    for words in ([], ["--help"], ["-h"], ["help"]):
        out = printed(capsys, *words)
        assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in command.DOORS)
    assert printed(capsys, "--version").startswith("bstar_jax ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute"], "there is no command 'evalute'; the nearest is 'evaluate'"),
        (["completion", "fish"], "no completion for 'fish'; there is for bash, zsh"),
        (["main"], "--workdir is missing"),
        (["plan", "--config.sed=1"], "there is no setting 'sed'; the nearest is 'seed'"),
    ],
)
def test_a_mistake_is_refused_as_at_the_door_itself(words, message):
    with pytest.raises(UserError, match=message):
        command.main(["bstar-jax", *words])


def test_the_entry_point_is_there_and_every_door_is_a_module():
    place = re.search(r"bstar-jax = ([\w.]+):(\w+)", (ROOT / "setup.py").read_text())
    assert callable(getattr(importlib.import_module(place[1]), place[2]))
    for door in DOORS:
        assert door.DOOR.name == pathlib.Path(door.__file__).stem
    flags = importlib.import_module("bstar_jax.evaluate").DOOR.own_flags()
    (split,) = [flag for flag in flags if flag.name == "split"]
    assert tuple(split.parser.enum_values) == records.SPLITS


# Nothing heavy is imported before a command line is understood.


@pytest.mark.slow
@pytest.mark.parametrize("name", command.DOORS)
def test_help_and_a_wrong_flag_import_nothing_heavy(name):
    code, out, err = python(AS_MODULE, f"bstar_jax.{name}", "--help")
    assert (code, err) == (0, "imported:\n") and out.startswith("usage: ")
    code, out, err = python(
        AS_MODULE, f"bstar_jax.{name}", "--checkpoint=x", "--workdir=x", "--config.sed=1"
    )
    assert (code, out) == (2, "")
    assert re.match("error: (there is no setting 'sed'|evaluate|export takes one run)", err)
    assert err.endswith("imported:\n") and len(err.splitlines()) == 2


@pytest.mark.slow
def test_the_command_imports_nothing_heavy_either():
    for words in ([], ["completion", "bash"], ["evaluate", "--help"]):
        code, _, err = python(AS_MODULE, "bstar_jax", *words)
        assert (code, err) == (0, "imported:\n")


# Completion.


def completed(line, tmp_path):
    """What bash offers after a line, whose words it cuts at spaces and at "="."""
    script = tmp_path / "completion.sh"
    script.write_text(completion.script("bash", "bstar-jax", [door.DOOR for door in DOORS]))
    words = [word for part in re.split(r"\s+", line) for word in re.split("(=)", part) if word]
    words += [""] if line.endswith((" ", "=")) else []
    program = f"""
source {shlex.quote(str(script))}
COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}
COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}
_bstar_jax; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bstar-jax ev", ["evaluate"]),
        ("bstar-jax main --config.improve.ste", ["--config.improve.steps="]),
        ("bstar-jax main --work", ["--workdir="]),
        ("bstar-jax export --work", []),
        ("bstar-jax plan --config=x.py --config.model.dtype=b", ["bfloat16"]),
        ("bstar-jax evaluate RUN --split=", list(records.SPLITS)),
        ("bstar-jax main --config.model.tied=T", ["True"]),
        ("bstar-jax main --config=conf", ["configs/"]),
        ("bstar-jax evaluate ru", ["runs/"]),
    ],
)
def test_bash_completes_names_values_and_files(tmp_path, line, offered):
    (tmp_path / "configs").mkdir()
    (tmp_path / "runs").mkdir()
    assert completed(line, tmp_path) == offered


def test_every_setting_is_completed(tmp_path):
    offered = completed("bstar-jax main --config.", tmp_path)
    assert {f"--config.{name}=" for name, *_ in leaves(Config())} <= set(offered)
