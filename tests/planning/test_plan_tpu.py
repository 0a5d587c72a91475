"""A tiny run planned by the real TPU compiler, without a TPU."""

import functools

import pytest

from tests import tpu_compiler
from tests.plan_tpu_compile import CONFIG, MODEL

pytestmark = [tpu_compiler.needed, pytest.mark.slow]

SLOTS = 32  # a row shard
MIB = 2**20


@functools.cache
def planned():
    found = tpu_compiler.programs("tests.plan_tpu_compile", "v5e:2x2")
    return {program["name"]: program for program in found}


def test_every_program_is_compiled_and_fits():
    assert list(planned()) == ["step", "gather", "prefill", "decode"]
    for program in planned().values():
        assert program["method"] == "compiled" and program["fits"]
        assert program["held"] == sum(program["bytes"].values())


@pytest.mark.parametrize("name", ["step", "gather", "prefill", "decode"])
def test_arguments_are_as_large_as_arithmetic_says(name):
    program = planned()[name]
    # What is more are small arrays, and padding to tiles.
    own = program["bytes"]["inputs"] - program["arguments"].get("inputs", 0)
    assert 0 <= own < 0.5 * MIB


def test_products_of_a_step_are_those_of_arithmetic():
    step = planned()["step"]
    assert step["work"]["flops"] == pytest.approx(step["estimated"]["flops"], rel=0.15)


def test_a_decode_step_multiplies_every_weight_once_a_slot():
    decode = planned()["decode"]
    assert decode["work"]["flops"] == pytest.approx(decode["estimated"]["flops"], rel=0.3)
    assert decode["tokens"] == 2 * SLOTS == CONFIG.generate.slots


def test_decoding_exchanges_nothing_as_large_as_scores_or_weights():
    exchanges = planned()["decode"]["work"]["exchanges"]
    hidden, scores = SLOTS * MODEL.width * 4, SLOTS * MODEL.vocab_size * 2
    smallest_matrix = MODEL.width * MODEL.width // 2 * 2
    assert exchanges and hidden < smallest_matrix < scores
    for exchange in exchanges:
        assert exchange["largest"] <= hidden, exchange
        assert "other" not in exchange["axes"]
    by_axis = {
        axis for exchange in exchanges for axis in exchange["axes"] if exchange["received"] > 64
    }
    assert by_axis == {"tensor"}


def test_gathering_moves_the_weights_over_fsdp_once():
    gather = planned()["gather"]
    moved = sum(
        each["received"] for each in gather["work"]["exchanges"] if each["axes"] == ["fsdp"]
    )
    wanted = sum(each["received"] for each in gather["estimated"]["exchanges"])
    assert moved == pytest.approx(wanted, rel=0.1)


def test_a_step_gathers_over_fsdp_and_adds_up_over_tensor():
    axes = {tuple(each["axes"]) for each in planned()["step"]["work"]["exchanges"]}
    assert {("fsdp",), ("tensor",)} <= axes
