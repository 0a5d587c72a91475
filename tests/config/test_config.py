"""A setting out of range, or a combination that cannot work, stops in the first second."""

import dataclasses
import json
import math
import subprocess
import sys
import typing

import pytest

from bstar_jax.config import (
    BalanceConfig,
    CalibrateConfig,
    CheckpointConfig,
    Config,
    FieldNames,
    ImproveConfig,
    LogConfig,
    LoopConfig,
    MeshConfig,
    ModelConfig,
    MonitorConfig,
    PrmConfig,
    SftConfig,
    TaskConfig,
    UserError,
    check_resume,
    from_dict,
    to_dict,
    total_steps,
)
from bstar_jax.config.schema import Section, free_settings, is_among
from bstar_jax.config.stored import read_config


def sections(kind=Config):
    """Every class of settings, those inside others included."""
    yield kind
    for inner in typing.get_type_hints(kind).values():
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from sections(inner)


FIELDS = [
    pytest.param(kind.prefix + field.name, kind, field, id=kind.prefix + field.name)
    for kind in sections()
    for field in dataclasses.fields(kind)
    if field.metadata
]


def nested(name, value):
    """{"sft": {"steps": 3}} of "sft.steps" and 3."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def values_of(name, kind, field, value):
    """A config file that sets one value, as JSON would hold it."""
    if typing.get_origin(typing.get_type_hints(kind)[field.name]) is tuple:
        value = [value]
    return nested(name, value)


def test_the_default_is_complete_and_comes_back_through_json():
    assert from_dict({}) == Config()
    assert from_dict(json.loads(json.dumps(to_dict(Config())))) == Config()
    assert hash(Config()) == hash(from_dict({"task": {"fields": {}}}))


@pytest.mark.parametrize(("name", "kind", "field"), FIELDS)
def test_every_setting_says_what_it_does_and_when_to_change_it(name, kind, field):
    for text in (field.metadata["doc"], field.metadata["when"]):
        assert text[0].isupper() or text.startswith(("llama3", "yarn"))
        assert text.endswith(".") and "  " not in text and not text.endswith("..")


@pytest.mark.parametrize(("name", "kind", "field"), FIELDS)
def test_no_setting_is_none(name, kind, field):
    assert field.default is not None
    with pytest.raises(UserError, match=rf"^{name} is None; it takes "):
        from_dict(nested(name, None))


@pytest.mark.parametrize(("name", "kind", "field"), FIELDS)
def test_every_range_is_enforced_and_said(name, kind, field):
    rule = field.metadata
    cases = []
    if rule["low"] is not None:
        cases.append((rule["low"] - 1, f"it takes {rule['low']} or more"))
    if rule["high"] is not None:
        cases.append((rule["high"] + 1, f"it takes {rule['high']} or less"))
    if rule["above"] is not None:
        cases.append((rule["above"], f"it takes more than {rule['above']}"))
    if rule["choices"] is not None:
        allowed = ", ".join(map(repr, filter(None, rule["choices"])))
        cases.append(
            ("nothing of the sort", f"one of {allowed}" if allowed else "FILE.py:FUNCTION")
        )
    for value, message in cases:
        with pytest.raises(UserError) as caught:
            from_dict(values_of(name, kind, field, value))
        assert str(caught.value).startswith(f"{name} is ")
        assert message in str(caught.value)


@pytest.mark.parametrize(("name", "kind", "field"), FIELDS)
def test_a_value_of_another_type_is_refused(name, kind, field):
    hint = typing.get_type_hints(kind)[field.name]
    element = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    wrong = {int: (1.5, "3", True), float: ("3", True), str: (3, False), bool: (1, "True")}
    for value in wrong[element]:
        with pytest.raises(UserError, match=rf"^{name} is {value!r}; it takes "):
            from_dict(values_of(name, kind, field, value))
    if typing.get_origin(hint) is tuple:
        for value in ((), "1,2", 3):
            with pytest.raises(UserError, match="it takes one or more values, written as"):
                from_dict(nested(name, value))


def test_whole_numbers_become_numbers_where_those_are_meant():
    config = from_dict({"sft": {"learning_rate": 1}, "calibrate": {"temperatures": [1, 2]}})
    assert type(config.sft.learning_rate) is float
    assert [type(value) for value in config.calibrate.temperatures] == [float, float]
    assert config == from_dict(
        {"sft": {"learning_rate": 1.0}, "calibrate": {"temperatures": (1.0, 2.0)}}
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(value):
    with pytest.raises(UserError, match="sft.learning_rate is .*finite"):
        from_dict({"sft": {"learning_rate": value}})
    with pytest.raises(UserError, match="calibrate.thresholds is .*finite"):
        from_dict({"calibrate": {"thresholds": (0.5, value)}})


def test_choices_name_the_nearest():
    with pytest.raises(UserError, match="'referense'; it takes .*; did you mean 'reference'?"):
        BalanceConfig(rules="referense")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"improve": {"step": 3}}, "no setting 'improve.step'; the nearest is 'improve.steps'"),
        ({"improv": {"steps": 3}}, "no setting 'improv'; the nearest is 'improve'"),
        (
            {"task": {"fields": {"questoin": "q"}}},
            "no setting 'task.fields.questoin'; the nearest is 'task.fields.question'",
        ),
        ({"improve": 3}, "improve is a section, not the value 3"),
        ({"task": {"fields": "id"}}, "task.fields is a section, not the value 'id'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(values, message):
    with pytest.raises(UserError, match=message):
        from_dict(values)


def built(**sections):
    return lambda: Config(**sections)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ModelConfig(window_pattern="wx"), "it takes the letters w and f, such as wf"),
        (lambda: ModelConfig(rope_pattern=""), "it takes the letters r and n, such as rrrn"),
        (lambda: ModelConfig(heads=4, kv_heads=3), "model.heads is 4 and model.kv_heads is 3"),
        (
            lambda: ModelConfig(width=10, heads=4, kv_heads=2),
            "heads is 4; heads must divide width",
        ),
        (lambda: ModelConfig(head_width=5), "a head is 5 wide, .* make the width of a head even"),
        (
            built(monitor=MonitorConfig(responses=7, ks=(1, 8))),
            "monitor.ks has 8, but monitor.responses is 7; .* lower K or raise",
        ),
        (
            built(monitor=MonitorConfig(ks=(1, 2), s=3)),
            "monitor.s is 3, but the largest of monitor.ks is 2",
        ),
        (built(monitor=MonitorConfig(ks=(4, 4))), r"monitor.ks is \(4, 4\); name each K once"),
        (
            built(calibrate=CalibrateConfig(temperatures=(1.0, 0.5))),
            r"calibrate.temperatures is \(1.0, 0.5\); each value must be above the last",
        ),
        (built(calibrate=CalibrateConfig(top_ks=(5, 5))), "calibrate.top_ks .* above the last"),
        (built(calibrate=CalibrateConfig(queries=0)), "calibrate.queries is 0, but the grid has"),
        (
            built(balance=BalanceConfig(rules="reference")),
            "chooses the cap by balance.target_total, which is 0",
        ),
        (
            built(balance=BalanceConfig(rules="reference", target_total=9, distinct="equations")),
            "balance.distinct is 'equations', but balance.rules=reference",
        ),
        (built(improve=ImproveConfig(init_from="base")), "use improve.init_from=warmup"),
        (built(sft=SftConfig(examples=0)), "sft.steps is 250, but sft.examples is 0"),
        (
            built(sft=SftConfig(steps=10, warmup_steps=11)),
            "sft.warmup_steps is 11 of 10 steps in all",
        ),
        (
            built(improve=ImproveConfig(warmup_steps=501), loop=LoopConfig(iterations=5)),
            "improve.warmup_steps is 501 of 500 steps in all",
        ),
        (
            built(improve=ImproveConfig(warmup_steps=101, optimizer_from="fresh")),
            "improve.warmup_steps is 101 of 100 steps in all",
        ),
        (
            built(task=TaskConfig(path="a.jsonl")),
            "'arithmetic' makes its own queries; drop",
        ),
        (built(task=TaskConfig(prompt="Q:")), r"task.prompt is 'Q:'; it must hold \{question\}"),
        (
            built(task=TaskConfig(hint_prompt="{question}")),
            r"task.hint_prompt is '\{question\}'; it must hold \{reference\}",
        ),
    ],
)
def test_combinations_that_cannot_work_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_combinations_at_their_edge_work():
    Config(
        monitor=MonitorConfig(responses=8, ks=(1, 8), s=8),
        sft=SftConfig(steps=10, warmup_steps=10),
        improve=ImproveConfig(warmup_steps=500),
    )
    single = CalibrateConfig(queries=0, temperatures=(1.0,), thresholds=(0.5,))
    assert single.is_single_cell and single.sampling_cells == 1
    assert Config(calibrate=single, sft=SftConfig(steps=0, examples=0)).sft.steps == 0
    assert not CalibrateConfig(temperatures=(1.0,), thresholds=(0.1, 0.5)).is_single_cell


def test_one_schedule_spans_all_iterations_or_each():
    improve = ImproveConfig(steps=7)
    config = Config(loop=LoopConfig(iterations=3), improve=improve, sft=SftConfig(steps=60))
    assert (total_steps(config, "sft"), total_steps(config, "improve")) == (60, 21)
    fresh = dataclasses.replace(improve, optimizer_from="fresh")
    assert total_steps(dataclasses.replace(config, improve=fresh), "improve") == 7
    assert total_steps(dataclasses.replace(config, loop=LoopConfig(iterations=0)), "improve") == 7


# Changes.


def test_changes_are_applied_at_any_depth_and_leave_the_config_alone():
    config = Config()
    other = config.changed(
        {
            "seed": 3,
            "improve.steps": 200,
            "calibrate.temperatures": [1],
            "task.fields.question": "problem",
            "prm": PrmConfig(enabled=True),
            "task.name": "gsm8k",
        }
    )
    assert other == Config(
        seed=3,
        improve=ImproveConfig(steps=200),
        calibrate=CalibrateConfig(temperatures=(1.0,)),
        task=TaskConfig(name="gsm8k", fields=FieldNames(question="problem")),
        prm=PrmConfig(enabled=True),
    )
    assert config == Config() == config.changed({})


def test_a_whole_section_and_its_settings_change_in_either_order():
    expected = Config(sft=SftConfig(steps=9, warmup_steps=0))
    changes = {"sft": SftConfig(warmup_steps=0), "sft.steps": 9}
    start = Config(sft=SftConfig(batch=1))
    assert start.changed(changes) == start.changed(dict(reversed(changes.items()))) == expected


def test_changes_are_checked_together():
    """Each of these alone is refused."""
    changes = {"model.heads": 6, "model.kv_heads": 3, "monitor.ks": (64,), "monitor.responses": 64}
    for name in ("model.kv_heads", "monitor.ks"):
        with pytest.raises(UserError, match=name):
            Config().changed({name: changes[name]})
    assert Config().changed(changes).monitor.ks == (64,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"improve.step": 3}, "no setting 'improve.step'; the nearest is 'improve.steps'"),
        ({"improv.steps": 3}, "no setting 'improv'; the nearest is 'improve'"),
        ({"seed.of": 3}, "no setting 'seed.of'; the nearest is 'seed'"),
        (
            {"task.fields.questoin": "q"},
            "no setting 'task.fields.questoin'; the nearest is 'task.fields.question'",
        ),
        ({"improve": 3}, "improve is a section, not the value 3"),
        ({"prm": {"steps": 3}}, "prm is a section, not the value {'steps': 3}"),
        ({"prm": SftConfig()}, "prm is a section, not the value SftConfig"),
        ({"task.fields": "id"}, "task.fields is a section, not the value 'id'"),
        ({"improve.steps": 0}, "improve.steps is 0; it takes 1 or more"),
        ({"improve.steps": "3"}, "improve.steps is '3'; it takes a whole number"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Config().changed(changes)


# Resume.


def changed(config=None, **sections):
    return (config or Config()).changed(sections)


def test_a_resume_takes_the_architecture_of_its_checkpoint_whatever_a_file_says():
    stored = Config(model=ModelConfig(checkpoint="there", width=64))
    check_resume(stored, Config(model=ModelConfig(checkpoint="there")))
    with pytest.raises(UserError, match="model.lora_rank: the run has 0, given 4"):
        check_resume(stored, Config(model=ModelConfig(checkpoint="there", lora_rank=4)))
    with pytest.raises(UserError, match="model.width: the run has 64, given 96"):
        check_resume(Config(model=ModelConfig(width=64)), Config())


def test_a_resume_may_change_the_mesh_the_log_and_what_is_kept():
    check_resume(Config(), Config())
    check_resume(
        Config(),
        changed(
            mesh=MeshConfig(2, 2, 2),
            log=LogConfig(every=1, tensorboard=False),
            checkpoint=CheckpointConfig(keep=3, minutes=1.0),
        ),
    )


def test_what_may_differ_from_a_stored_run_or_checkpoint():
    checkpoint = ("checkpoint.*",)
    rewards = tuple(f"rewards.{name}" for name in ("memory_mib", "in_flight", "most_errors"))
    free = ("mesh.*", "rewards.workers", *rewards, *checkpoint, "log.*")
    assert free_settings(Config, "resume") == free
    assert free_settings(Config, "export") == ("mesh.*", "log.*")
    monitor = ("generate.batch", "generate.slots", "monitor.*", "log.*")
    assert free_settings(Config, "evaluate") == ("mesh.*", *monitor)
    assert free_settings(ModelConfig, "import") == tuple(
        f"model.{name}"
        for name in "checkpoint dtype remat scalar_head trained lora_rank lora_alpha lora_targets"
        .split()
    )  # fmt: skip
    assert is_among("mesh.data", ("mesh.*",)) and is_among("seed", ("mesh.*", "seed"))
    assert not is_among("meshes.data", ("mesh.*",)) and not is_among("seed", ("mesh.*", "seeds"))


def test_any_other_change_is_refused_with_each_difference():
    given = changed(
        seed=4,
        improve=ImproveConfig(steps=7),
        task=TaskConfig(fields=FieldNames(id="key")),
        mesh=MeshConfig(2, 2, 2),
    )
    with pytest.raises(UserError) as caught:
        check_resume(Config(), given)
    lines = str(caught.value).splitlines()
    assert lines[1:4] == [
        "  seed: the run has 0, given 4",
        "  task.fields.id: the run has '', given 'key'",
        "  improve.steps: the run has 100, given 7",
    ]
    assert "use another --workdir, or drop these overrides" in lines[4] and len(lines) == 5


def test_iterations_may_grow_where_the_learning_rate_is_constant():
    five, nine = changed(), changed(loop=LoopConfig(iterations=9))
    check_resume(five, nine)
    with pytest.raises(UserError, match="loop.iterations: the run has 9, given 5"):
        check_resume(nine, five)
    falling = ImproveConfig(final_rate=0.5)
    message = r"the run has 5, given 9[^$]*\(loop.iterations may grow where the learning rate is"
    with pytest.raises(UserError, match=message):
        check_resume(changed(five, improve=falling), changed(nine, improve=falling))
    fresh = ImproveConfig(final_rate=0.5, optimizer_from="fresh")
    check_resume(changed(five, improve=fresh), changed(nine, improve=fresh))


def test_the_room_needs_neither_jax_nor_absl():
    """Workers and `grade` import it; they must start at once."""
    heavy = "{'jax', 'numpy', 'absl', 'ml_collections'}"
    code = f"import sys, bstar_jax.config; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_config_of_an_earlier_version_is_read(tmp_path):
    values = to_dict(Config().changed({"task.name": "gsm8k", "task.path": "x", "model.width": 64}))
    older = ("step_reward", "correct_at", "splits", "system", "unreadable", "keep", "sources")
    values["task"] = {key: value for key, value in values["task"].items() if key not in older}
    values["task"]["reward"] = "number"
    (tmp_path / "config.json").write_text(json.dumps({"config": values}))
    read = read_config(tmp_path)
    assert read.task.reward == ""
    check_resume(read, read)
