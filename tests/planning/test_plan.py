"""The plan of a run: sizes by arithmetic against the run's own, meshes, remedies, and the door."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from bstar_jax import plan, sampling
from bstar_jax.config import (
    Config,
    GenerateConfig,
    ImproveConfig,
    MeshConfig,
    ModelConfig,
    PrmConfig,
    SftConfig,
    TrainingConfig,
    UserError,
    load_config,
)
from bstar_jax.planning import (
    compiling,
    memory,
    models,
    placement,
    reports,
    roofline,
    search,
    topologies,
)
from bstar_jax.records import Query
from bstar_jax.sampling import Draw
from bstar_jax.sampling import programs as sampling_programs
from bstar_jax.sharding import Collective, Cost
from bstar_jax.sharding.program import bytes_on_device, matrix_sizes
from bstar_jax.tokenizer import word_tokenizer
from bstar_jax.training import programs as training_programs
from bstar_jax.training.batches import Batch
from bstar_jax.training.packing import arrange

ROOT = pathlib.Path(__file__).parents[2]
MODEL = ModelConfig(
    vocab_size=512, width=64, layers=4, heads=8, kv_heads=4, feed_forward=128, tied=False
)
CONFIG = Config(
    model=MODEL,
    mesh=MeshConfig(data=1, fsdp=4, tensor=2),
    sft=SftConfig(batch=32),
    improve=ImproveConfig(batch=32),
    prm=PrmConfig(enabled=True, batch=32, score_batch=32),
    generate=GenerateConfig(batch=256, slots=64, max_prompt_tokens=32, max_tokens=33),
)
PLANNED = models.PlannedModel(MODEL, "this test")
GPUS = topologies.find_topology("h100:8")


def placed(config=CONFIG, topology=GPUS):
    return placement.place(config, PLANNED, topology)


# Names of devices.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "a topology is a kind of device and a shape, such as v5e:8x8"),
        ("v5e:8x", "a topology is a kind of device and a shape"),
        ("v9:2x2", "there is no device 'v9'; the nearest is 'v.*; there are v4, v5e"),
        ("v5p:4x4", "v5p is a torus of 3 dimensions, and this has 2; write such as v5p:2x2x4"),
        ("h100:2x2x2", "GPUs are a number, or hosts x GPUs a host, such as h100:8 or h100:2x8"),
        ("h100:0", "a topology is a kind"),
    ],
)
def test_a_topology_that_is_none_says_what_is_one(name, message):
    with pytest.raises(UserError, match=message):
        topologies.find_topology(name)


def test_gpus_are_named_by_kind_or_by_their_memory():
    assert (
        topologies.find_topology("h200:2x8").count == 16
        and topologies.find_topology("h200:2x8").devices_per_host == 8
    )
    assert topologies.find_topology("gpu-80gb:8").accelerator.memory == pytest.approx(0.75 * 80e9)
    assert not topologies.find_topology("h100:8").is_tpu


# Sizes against those of the run itself.


@pytest.mark.parametrize("row_tokens", [0, 65, 130])
@pytest.mark.parametrize("micro_rows", [0, 8])
def test_the_batch_of_a_step_is_that_of_texts_as_long_as_allowed(row_tokens, micro_rows):
    training = TrainingConfig(row_tokens=row_tokens, micro_rows=micro_rows)
    config = dataclasses.replace(CONFIG, training=training)
    longest = 32 + 33 - 1
    whole = np.ones((32, longest), np.int32)
    made = arrange(Batch(whole, whole, whole.astype(np.float32), whole), training, 4)
    # Rows of two texts are half as many; the plan counts rows that one text fills.
    rows = 32 if row_tokens < 2 * longest else 16
    size = training_programs.step_shape(config, "improve", 4)
    assert made.tokens_BL.shape == (rows, size.length) and size.rows == 32
    assert size.packed == (made.positions_BL is not None)
    assert size.micro_rows == (micro_rows or 32)


@pytest.mark.parametrize(("samples", "slots"), [(8, 64), (64, 64), (16, 4096), (1, 4)])
def test_a_unit_is_that_of_the_sampler(samples, slots):
    words = word_tokenizer(["a"])
    settings = GenerateConfig(batch=256, slots=slots, max_prompt_tokens=64, max_tokens=33)
    config = dataclasses.replace(CONFIG, generate=settings)
    sampler = sampling.Sampler(MODEL, words, settings)
    queries = [Query("train", str(place), "a", "") for place in range(100)]
    draws = [Draw(1.0, 0, samples)]
    real = sampler.plan(queries, draws)[0]
    unit = sampling_programs.unit_shape(config, 1, "generate", 100, samples)
    assert unit.queries == real.size
    assert unit.prompt == 64 and unit.columns == 32
    assert unit.slots <= max(slots, samples * unit.queries if slots >= samples else slots)


def test_a_cache_grows_by_doubling_and_ends_at_the_longest_response():
    def grown(most):
        config = CONFIG.changed({"generate.max_tokens": most + 1})
        return sampling_programs.unit_shape(config, 1, "generate", 8, 8)

    assert grown(768).tokens_before == grown(768).slots * 512
    assert grown(512).tokens_before == grown(512).slots * 256
    assert grown(200).tokens_before == 0


def test_phases_of_a_process_model_have_long_prompts_and_units_of_their_own():
    units = {unit.phase: unit for unit in sampling_programs.unit_shapes(CONFIG, 4)}
    assert set(units) == {"generate", "calibrate", "monitor", "prm", "prm-continued"}
    assert units["prm-continued"].prompt == 32 + 32 and units["generate"].prompt == 32
    assert units["monitor"].samples == CONFIG.monitor.responses + 1


# Memory.


def test_a_trained_parameter_takes_twelve_bytes_over_all_devices_but_data():
    state = training_programs.state(placed(), MODEL)
    params = bytes_on_device(state.params)
    assert bytes_on_device(state.optimizer) == pytest.approx(2 * params, rel=0.01)
    alone = placed(CONFIG.changed({"mesh.data": 8, "mesh.fsdp": 1, "mesh.tensor": 1}))
    whole = bytes_on_device(training_programs.state(alone, MODEL).params)
    assert params == pytest.approx(whole / 8, rel=0.02)


def listed(placed):
    """The occupancies of a run by the name of the program."""
    return {each.program.name: each for each in memory.timeline(placed)}


def test_the_timeline_says_what_lies_on_a_device_beside_each_program():
    found = listed(placed())
    assert {"step", "prm_step", "gather", "prefill", "decode", "score", "balance"} <= set(found)
    # While training neither sampling weights nor the process reward model are there.
    for name in ("step", "prm_step"):
        parts = found[name].parts
        assert "rollout_weights" not in parts and "process_model" not in parts
    # While sampling the training state stays, and the process reward model beside the weights.
    decode, step = found["decode"], found["step"].program
    assert decode.resident["optimizer"] == step.arguments["optimizer"]
    assert decode.resident["process_model"] > 0 and decode.program.arguments["cache"] > 0
    assert found["score"].resident["cache"] == decode.program.arguments["cache"]
    assert step.phases == ("sft", "improve")


def test_without_a_process_model_nothing_of_it_is_planned():
    config = dataclasses.replace(CONFIG, prm=PrmConfig())
    found = listed(placed(config))
    assert not {name for name in found if "prm" in name or name == "score"}


def test_adapters_alone_have_moments_and_the_rest_is_there_once():
    model = dataclasses.replace(MODEL, lora_rank=4, dtype="bfloat16")
    config = dataclasses.replace(CONFIG, model=model, prm=PrmConfig())
    run = placement.place(config, models.PlannedModel(model, "this test"), GPUS)
    parts = listed(run)["step"].program.arguments
    adapters = bytes_on_device(training_programs.state(run, model).params)
    frozen = bytes_on_device(training_programs.frozen(run))
    assert parts["parameters"] == adapters + frozen > 2 * adapters
    assert parts["optimizer"] == pytest.approx(2 * adapters, rel=0.01)


def test_weights_of_fewer_bytes_take_fewer():
    sizes = [
        bytes_on_device(
            sampling_programs.weights(placed(CONFIG.changed({"generate.weights": kind})))
        )
        for kind in ("same", "bfloat16", "int8")
    ]
    assert sizes[0] > 1.9 * sizes[1] > 2.4 * sizes[2]


# Work and time.


def test_the_longest_of_three_times_bounds_a_program():
    device = topologies.ACCELERATORS["v5e"]
    products = roofline.least_time(Cost(device.flops, 0.0, ()), device)
    assert products.bound == "compute" and products.seconds == pytest.approx(1.0)
    moved = Cost(device.flops, 2 * device.hbm, ())
    assert roofline.least_time(moved, device).bound == "memory"
    sent = Collective("all-reduce", ("fsdp",), 1, 3 * device.link, 0)
    time = roofline.least_time(Cost(device.flops, 2 * device.hbm, (sent,)), device)
    assert time.bound == "exchange" and time.seconds == pytest.approx(3.0)


def test_an_axis_over_hosts_of_gpus_is_slower():
    topology = topologies.find_topology("h100:2x8")
    config = CONFIG.changed({"mesh.fsdp": 8, "mesh.tensor": 2})
    mesh = placement.place(config, PLANNED, topology).mesh
    assert placement.across_hosts(mesh, topology) == {"fsdp"}
    cost = Cost(0.0, 0.0, (Collective("all-gather", ("fsdp",), 1, 1e9, 0),))
    near, far = (roofline.least_time(cost, topology.accelerator, axes) for axes in ((), {"fsdp"}))
    assert far.exchange == pytest.approx(9 * near.exchange)


def test_a_step_by_arithmetic_does_the_products_of_its_weights():
    run = placed(dataclasses.replace(CONFIG, prm=PrmConfig()))
    cost, weights = listed(run)["step"].program.cost(), matrix_sizes(run)
    tokens = 32 * 64 / 4
    again = weights.layers - weights.down
    least = 2 * tokens * (3 * weights.layers + again + 3 * weights.head) / 2
    assert least < cost.flops < 1.5 * least
    assert {axis for each in cost.collectives for axis in each.axes} == {"fsdp", "tensor"}


# What fits.


def test_meshes_multiply_to_the_devices_and_share_model_and_rows():
    found = [tuple(getattr(one.mesh, axis) for axis in ("data", "fsdp", "tensor"))
             for one in placement.meshes(CONFIG, PLANNED, GPUS)]  # fmt: skip
    assert (1, 4, 2) in found and (8, 1, 1) in found and len(set(found)) == len(found)
    assert all(math.prod(mesh) == 8 for mesh in found)
    assert all(MODEL.kv_heads % mesh[2] == 0 for mesh in found)


def test_meshes_that_fit_come_first_and_the_faster_of_them_before():
    ranked = search.ranked(CONFIG, PLANNED, GPUS)
    fits = [one.fits for one in ranked]
    assert fits == sorted(fits, reverse=True)
    rates = [one.train_rate * one.decode_rate for one in ranked if one.fits]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.slow
def test_what_does_not_fit_is_made_smaller_until_it_does():
    limit = 0.4 * search.mesh_plan(CONFIG, PLANNED, GPUS, {}).held
    tight = dataclasses.replace(
        GPUS, accelerator=dataclasses.replace(GPUS.accelerator, memory=limit)
    )
    assert not search.mesh_plan(CONFIG, PLANNED, tight, {}).fits
    found = search.remedies(CONFIG, PLANNED, tight, search.ranked(CONFIG, PLANNED, tight))
    assert found
    for one in found:
        assert one.fits and one.held <= tight.accelerator.memory and one.changes
        again = search.mesh_plan(CONFIG.changed(one.changes), PLANNED, tight, {})
        assert again.held == one.held


MANY_ROWS = CONFIG.changed({"generate.batch": 8192})


@pytest.mark.slow
def test_the_largest_slots_fit_and_the_next_do_not():
    run = placed(MANY_ROWS)
    values = memory.candidates(run, "generate.slots")
    most = values[-5]
    held = max(
        each.total
        for each in memory.affected(
            memory.with_setting(run, "generate.slots", most), "generate.slots"
        )
    )
    assert memory.largest(run, "generate.slots", held) == most
    assert memory.largest(run, "generate.slots", held - 1) < most
    found = search.largest_setting(run, "generate.slots", held / memory.MARGIN, None)
    assert found == search.LargestSetting("generate.slots", 64, most, "arithmetic")


@pytest.mark.slow
def test_the_arithmetic_of_the_largest_is_corrected_by_two_compiled_programs():
    asked, run = [], placed(MANY_ROWS)

    def compiled(occupancy):
        asked.append(occupancy)
        program = occupancy.program
        parts = memory.joined(
            program.arguments, occupancy.resident, {"temporaries": 3 * program.temporaries}
        )
        return compiling.PlannedProgram(
            program.name, "", "compiled", 1.0, parts, 0, 1e12, None, program.tokens
        )

    found = search.largest_setting(run, "generate.slots", 1e12, compiled)
    assert found.value == memory.candidates(run, "generate.slots")[-1]
    assert found.method == "compiled" and found.seconds == len(asked) == 3


# The model.


def test_a_directory_with_config_json_alone_gives_the_shape(tmp_path):
    facts = models.PUBLISHED["Qwen/Qwen2.5-1.5B"] | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    config = dataclasses.replace(CONFIG, model=ModelConfig(checkpoint=str(tmp_path)))
    shape = models.planned_model(config)
    assert shape.model.layers == 2 and shape.model.vocab_size == 151936
    assert "config.json" in shape.source
    with pytest.raises(UserError, match="model.width is 96, but the checkpoint .* has 1536"):
        models.planned_model(config, ["model.width"])


def test_models_of_the_configs_are_known_and_others_ask_for_their_directory():
    for name in ("math_mistral7b", "apps_llama3_8b", "arc_mistral7b", "math_qwen2p5_1p5b"):
        shape = models.planned_model(load_config(str(ROOT / "configs" / f"{name}.py")))
        assert shape.model.vocab_size > 30000 and "published" in shape.source
    other = dataclasses.replace(CONFIG, model=ModelConfig(checkpoint="some/model"))
    with pytest.raises(UserError, match="shape is not known; known are mistralai/Mistral-7B"):
        models.planned_model(other)


def test_a_random_model_has_the_words_of_its_task():
    config = load_config(str(ROOT / "configs" / "arithmetic.py"))
    assert 20 < models.planned_model(config).model.vocab_size < 200
    assert (
        models.planned_model(load_config(str(ROOT / "configs/gsm8k.py"))).model.vocab_size == 2048
    )


# The door.


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "bstar_jax.plan", *flags],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_the_door_says_that_it_fits(tmp_path):
    file = tmp_path / "plan.json"
    done = run("--config=configs/arithmetic.py", "--topology=h100:2", f"--json={file}")
    assert done.returncode == 0, done.stderr
    assert "FITS" in done.stdout and "arithmetic" in done.stdout
    found = json.loads(file.read_text())
    assert found["fits"] and found["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
    names = [program["name"] for program in found["programs"]]
    assert names[:2] == ["step", "gather"] and "decode" in names
    for program in found["programs"]:
        assert program["held_bytes"] == sum(program["bytes"].values()) <= found["limit_bytes"]
        assert program["method"] == "arithmetic"
    settings = {each["setting"] for each in found["largest"]}
    assert settings == {"training.micro_rows", "generate.slots"}


@pytest.mark.slow
def test_the_door_says_what_would_fit_and_exits_with_3(tmp_path):
    file = tmp_path / "plan.json"
    done = run(
        "--config=configs/math_qwen2p5_1p5b.py", "--topology=gpu-30gb:8", f"--json={file}",
        "--config.mesh.data=8",
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert "DOES NOT FIT" in done.stdout and "would fit: --config." in done.stdout
    found = json.loads(file.read_text())
    assert not found["fits"] and found["would_fit"][0]["fits"]
    assert found["would_fit"][0]["held"] <= found["limit_bytes"]
    assert found["would_fit"][0]["changes"]
    assert not found["would_fit_compiled"]


@pytest.mark.slow
def test_the_door_refuses_bad_input_with_exit_2():
    done = run("--config=configs/arithmetic.py", "--topology=v7:2")
    assert done.returncode == 2 and "there is no device 'v7'" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:2x2"], "--config is missing; try --config=configs/arithmetic.py"),
        (["--config=configs/arithmetic.py"], "--topology is missing; try --topology=v5e:8x8"),
        (["--config=configs/arithmetic.py", "x"], "plan takes flags only, not 'x'"),
        (
            ["--config=configs/arithmetic.py", "--topology=h100:3", "--config.mesh.fsdp=2"],
            "sizes must multiply to 3",
        ),
    ],
)
def test_bad_input_names_the_value_and_the_remedy(flags, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        plan.main(["plan", *flags])


# What was compiled before.


def test_a_cache_of_reports_returns_what_was_reported_and_knows_nothing_else(tmp_path):
    cost = Cost(1.0, 2.0, (Collective("all-gather", ("fsdp", "tensor"), 3, 4.0, 5),))
    report = reports.CompilerReport(1.5, 10, 20, 30, 40, 50, cost)
    cache = reports.ReportCache(tmp_path / "room")
    assert cache.read("a") is None
    cache.write("a", report)
    assert cache.read("a") == report and cache.read("b") is None
    assert reports.NO_CACHE.read("a") is None and reports.NO_CACHE.key("text", None, 1) == ""
