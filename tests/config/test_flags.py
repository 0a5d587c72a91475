"""A command line is understood as written, or refused with what to write instead."""

import pytest
from absl import flags

from bstar_jax.config import (
    Config,
    LoopConfig,
    ModelConfig,
    Preempted,
    SftConfig,
    UserError,
    load_config,
    pick_variant,
)
from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import check_overrides, flag_value, parse

FILE = """
from bstar_jax.config import Config, LoopConfig, pick_variant

def get_config(variant="three"):
    return pick_variant(variant, {
        "three": lambda: Config(loop=LoopConfig(iterations=3)),
        "four": lambda: Config(loop=LoopConfig(iterations=4)),
    })
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(FILE)
    return path


def define(values):
    flags.DEFINE_string("workdir", None, "The run directory.", flag_values=values)
    flags.DEFINE_boolean("quiet", False, "Less.", flag_values=values)


def parsed(*words, **settings):
    return parse(["door", *words], define, **settings)


# What is understood.


def test_nothing_given_is_the_default_or_what_is_stored():
    assert parsed().config == Config()
    stored = Config(seed=7)
    assert parsed(stored=stored).config == stored
    assert parsed("--config.loop.iterations=2", stored=stored).config == stored.changed(
        {"loop.iterations": 2}
    )


@pytest.mark.parametrize("words", [["--config={}"], ["--config", "{}"], ["-config={}"]])
def test_a_file_and_its_variants(file, words):
    for name, iterations in (("", 3), (":three", 3), (":four", 4)):
        line = parsed(*[word.format(f"{file}{name}") for word in words], stored=Config(seed=9))
        assert line.config == Config(loop=LoopConfig(iterations=iterations))


def test_overrides_stand_above_the_file_wherever_they_stand(file):
    line = parsed("--config.loop.iterations=9", f"--config={file}:four", "--config.seed=2")
    assert line.config == Config(seed=2, loop=LoopConfig(iterations=9))
    assert line.overridden == ("loop.iterations", "seed")


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("--config.improve.steps=7", "improve.steps", 7),
        ("--config.improve.learning_rate=1", "improve.learning_rate", 1.0),
        ("--config.improve.learning_rate=1e-4", "improve.learning_rate", 1e-4),
        ("--config.calibrate.temperatures=1,2", "calibrate.temperatures", (1.0, 2.0)),
        ("--config.calibrate.temperatures=(0.5,0.75)", "calibrate.temperatures", (0.5, 0.75)),
        ("--config.calibrate.top_ks=0,5,50", "calibrate.top_ks", (0, 5, 50)),
        ("--config.calibrate.temperatures=0.9,", "calibrate.temperatures", (0.9,)),
        ("--config.model.tied=False", "model.tied", False),
        ("--config.generate.rationalize=true", "generate.rationalize", True),
        ("--config.generate.rationalize", "generate.rationalize", True),
        ("--config.task.fields.id=unique_id", "task.fields.id", "unique_id"),
        ("--config.log.wandb_project=a b=c", "log.wandb_project", "a b=c"),
        ("--config.tokenizer.path=", "tokenizer.path", ""),
    ],
)
def test_values_of_every_type(word, name, value):
    line = parsed(word)
    got = line.config
    for part in name.split("."):
        got = getattr(got, part)
    assert got == value and type(got) is type(value)
    assert line.overridden == (name,)


def test_one_value_is_enough_where_several_may_stand():
    assert parsed("--config.calibrate.temperatures=0.9").config.calibrate.temperatures == (0.9,)
    assert parsed("--config.monitor.ks=4").config.monitor.ks == (4,)


def test_a_value_may_stand_in_a_word_of_its_own():
    assert parsed("--config.improve.steps", "7").config.improve.steps == 7


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-config.improve.steps=7"], "improve.steps", 7),
        (["-config.improve.steps", "7"], "improve.steps", 7),
        (["--noconfig.model.tied"], "model.tied", False),
        (["-noconfig.model.tied"], "model.tied", False),
        (["--config.task.answer_marker", "-x"], "task.answer_marker", "-x"),
    ],
)
def test_an_override_is_one_however_it_is_written(words, name, value):
    line = parsed(*words)
    section, _, inner = name.partition(".")
    assert getattr(getattr(line.config, section), inner) == value
    assert line.overridden == (name,)


def test_a_file_of_flags_is_checked_as_if_it_stood_on_the_command_line(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("# a remark\n--config.seed=4\n-config.sft.steps=90\n--workdir=there\n")
    line = parsed(f"--flagfile={file}", "--config.seed=5")
    assert line.overridden == ("seed", "sft.steps", "seed")
    assert (line.config.seed, line.config.sft.steps, line.flags.workdir) == (5, 90, "there")
    assert flag_value(["door", "--flagfile", str(file)], "workdir") == "there"
    with pytest.raises(UserError, match="seed determines how the run was made"):
        check_overrides(line, "export")
    file.write_text("--config.sft.step=9\n")
    with pytest.raises(UserError, match="no setting 'sft.step'; the nearest is 'sft.steps'"):
        parsed(f"--flagfile={file}")
    with pytest.raises(UserError, match="--flagfile cannot be read"):
        parsed("--flagfile=/nowhere/flags.txt")


def test_what_follows_two_dashes_is_no_flag():
    line = parsed("--quiet", "--", "--config.seed=1", "-x")
    assert line.arguments == ["--config.seed=1", "-x"]
    assert line.config == Config() and line.overridden == ()


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--workdir=a", "--workdir=b"], "b"),
        (["--workdir", "a"], "a"),
        (["-workdir=a"], "a"),
        (["-workdir", "a"], "a"),
        (["--workdir="], ""),
        (["--workdirs=a", "--", "--workdir=b"], None),
    ],
)
def test_a_flag_is_found_before_anything_is_parsed(words, value):
    assert flag_value(["door", *words], "workdir") == value


def test_of_two_values_the_last_counts():
    words = ("--config.calibrate.top_ks=1,2", "--config.calibrate.top_ks=3,4")
    assert parsed(*words).config.calibrate.top_ks == (3, 4)
    assert parsed("--config.seed=1", "--config.seed=2").config.seed == 2


def test_the_flags_and_arguments_of_a_door():
    line = parsed("RUN@2", "--workdir=here", "--quiet", "--config.seed=1", "more")
    assert line.flags.workdir == "here" and line.flags.quiet
    assert line.arguments == ["RUN@2", "more"]


SIZES = """
from bstar_jax.config import Config, ModelConfig

def get_config():
    return Config(model=ModelConfig(width=64, layers=5, dtype="bfloat16"))
"""


def test_the_sizes_of_a_file_give_way_to_a_checkpoint_and_a_line_says_so(tmp_path):
    file = tmp_path / "sizes.py"
    file.write_text(SIZES)
    line = parsed(f"--config={file}", "--config.model.checkpoint=somewhere")
    assert line.config.model == ModelConfig(checkpoint="somewhere", dtype="bfloat16")
    assert "model.width, model.layers of the config file give way" in line.note
    again = parsed("--config.seed=3", stored=line.config)
    assert again.config.model == line.config.model and not again.note


def test_the_sizes_of_a_file_give_way_to_a_checkpoint_that_a_script_names(tmp_path):
    file = tmp_path / "sizes.py"
    file.write_text(SIZES)
    with pytest.warns(UserWarning, match="model.layers of the config file give way"):
        config = load_config(file, {"model.checkpoint": "there", "model.width": 32})
    assert (config.model.width, config.model.layers) == (32, ModelConfig().layers)


def test_sizes_on_the_command_line_or_without_a_checkpoint_stay(tmp_path):
    file = tmp_path / "sizes.py"
    file.write_text(SIZES)
    line = parsed(
        f"--config={file}", "--config.model.checkpoint=there", "--config.model.width=96",
        "--config.model.layers=7",
    )  # fmt: skip
    assert (line.config.model.width, line.config.model.layers, line.note) == (96, 7, "")
    assert parsed(f"--config={file}").config.model.width == 64
    stored = load_config(file).changed({"model.checkpoint": "there"})
    assert parsed(stored=stored).config == stored


# What is refused.


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "--config.improve.step=3",
            "no setting 'improve.step'; the nearest is 'improve.steps'",
        ),
        ("--config.improve=3", "'improve' is a section, not a setting; it holds improve.steps,"),
        ("--config.task.fields=3", "'task.fields' is a section"),
        ("--config.improve.steps=many", "improve.steps is 'many'; it takes a whole number"),
        ("--config.improve.steps=1.5", "improve.steps is '1.5'; it takes a whole number"),
        ("--config.improve.steps=0", "improve.steps is 0; it takes 1 or more"),
        ("--config.sft.learning_rate=fast", "sft.learning_rate is 'fast'; it takes a number"),
        ("--config.sft.learning_rate=nan", "sft.learning_rate is nan; it takes a finite number"),
        ("--config.model.tied=maybe", "model.tied is 'maybe'; it takes True or False"),
        ("--config.calibrate.top_ks=1.5,2", "calibrate.top_ks is 1.5; it takes a whole number"),
        ("--config.calibrate.temperatures=a,b", "calibrate.temperatures"),
        ("--config.calibrate.temperatures=", "calibrate.temperatures"),
        ("--config.balance.rules=paperr", "did you mean 'paper'"),
        ("--workdr=x", "no flag '--workdr'; the nearest is '--workdir'"),
        ("--quiet=perhaps", "quiet"),
        ("--config.generate.norationalize", "generate.rationalize=False"),
        ("-config.improve.step=3", "no setting 'improve.step'; the nearest is 'improve.steps'"),
        ("--noconfig.model.tid", "no setting 'model.tid'; the nearest is 'model.tied'"),
        ("--noconfig.improve.steps", "write --config.improve.steps=VALUE"),
        ("--noconfig.model.tied=1", "write --config.model.tied=VALUE"),
        ("--undefok=workdr", "every flag is checked here"),
        ("-undefok=workdr", "every flag is checked here"),
        # What the setting is for is said too.
        ("--config.improve.step=3", '("Optimizer steps in an iteration")'),
        ("--config.improve.steps=many", 'a whole number ("Optimizer steps in an iteration")'),
        ("--config.improve.steps=0", '1 or more steps ("Optimizer steps in an iteration")'),
    ],
)
def test_what_cannot_be_understood_is_refused(word, message):
    with pytest.raises(UserError) as caught:
        parsed(word)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_or_not_a_config(tmp_path, file):
    with pytest.raises(UserError, match="there is no file 'gone.py'; see configs/"):
        parsed("--config=gone.py:four")
    with pytest.raises(UserError, match="no variant 'fuor'; the nearest is 'four'"):
        load_config(f"{file}:fuor")
    (tmp_path / "own.txt").write_text(FILE)
    with pytest.raises(UserError, match="is no Python file; its name must end in .py"):
        load_config(tmp_path / "own.txt")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(UserError, match=r"empty.py has no function get_config\(variant\)"):
        load_config(str(empty))
    empty.write_text("def get_config():\n    return {}\n")
    with pytest.raises(UserError, match="returns a dict, not a Config"):
        load_config(str(empty))
    empty.write_text(
        "from bstar_jax.config import *\ndef get_config():\n    return Config(seed=-1)"
    )
    with pytest.raises(UserError, match="seed is -1; it takes 0 or more"):
        load_config(str(empty))


def test_a_variant_of_a_file_that_has_none_is_refused(tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text(
        "from bstar_jax.config import Config\ndef get_config():\n    return Config()\n"
    )
    assert load_config(str(plain)) == Config()
    with pytest.raises(UserError, match="plain.py has no variants"):
        load_config(f"{plain}:four")


def test_variants_are_made_when_asked_for():
    variants = {"good": lambda: Config(seed=1), "bad": lambda: SftConfig(steps=-1)}
    assert pick_variant("good", variants).seed == 1
    with pytest.raises(UserError, match="sft.steps is -1"):
        pick_variant("bad", variants)


# How a door ends.


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (UserError("steps is 0"), 2, "error: steps is 0\n"),
        (Preempted("saved"), 75, "stopped: saved\n"),
        (KeyboardInterrupt(), 1, "interrupted: the same command continues"),
        (OSError(28, "No space left on device", "/here"), 1, "error: the disk of /here is full"),
    ],
)
def test_exit_codes(capsys, error, code, message):
    def main(argv):
        if error:
            raise error

    with pytest.raises(SystemExit) as ended:
        run_door(main)
    assert ended.value.code == code
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("error", [ValueError("odd"), PermissionError(13, "denied", "/here")])
def test_other_failures_keep_their_traceback(error):
    def main(argv):
        raise error

    with pytest.raises(type(error)) as caught:  # which Python ends with exit code 1
        run_door(main)
    assert caught.value is error
