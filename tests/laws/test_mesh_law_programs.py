"""What devices of a mesh exchange is small, and the compiler finds a way that is no last resort."""

import json
import math
import os
import subprocess
import sys

import pytest

from tests import structure
from tests.mesh_law_programs import MODEL, SIZES, exchanges

pytestmark = pytest.mark.slow  # one process compiles for all of them

LAST_RESORT = "Involuntary full rematerialization"
DATA, FSDP, TENSOR = SIZES
PADDED = 20_480


@pytest.fixture(scope="module")
def compiled():
    """({program: its exchanges}, {program: what the compiler wrote to stderr})."""
    environment = os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "0",  # a program that is found gives no warning
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.mesh_law_programs"],
        cwd=structure.ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    programs = [json.loads(line) for line in done.stdout.splitlines()]
    _, *parts = done.stderr.split("compiling ")
    warnings = dict(part.split("\n", 1) for part in parts)
    return {each["name"]: each["exchanges"] for each in programs}, warnings


@pytest.mark.parametrize("name", ["step", "prefill", "decode"])
def test_the_compiler_copies_no_array_to_all_devices_as_a_last_resort(compiled, name):
    _, warnings = compiled
    assert LAST_RESORT in warnings["plain"], "the compiler no longer warns: this test sees nothing"
    assert LAST_RESORT not in warnings[name], warnings[name][-2000:]


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_sampling_exchanges_nothing_as_large_as_the_vocabulary(compiled, name):
    each, _ = compiled
    kinds = {kind for kind, _ in each[name]}
    assert "all-reduce" in kinds, "tensor is 2: there is something to add up"
    assert [part for part in each[name] if math.prod(part[1]) >= MODEL.vocab_size] == []


def test_training_exchanges_no_table(compiled):
    """Its gradient is summed where it lies; what is as large belongs to the head, [D, V]."""
    each, _ = compiled
    own = [PADDED // TENSOR, MODEL.width // FSDP]
    large = [part for part in each["step"] if math.prod(part[1]) >= math.prod(own)]
    assert ["all-reduce", own] in large
    head = [MODEL.width, PADDED // TENSOR]
    assert {tuple(shape) for _, shape in large} <= {tuple(own), tuple(head)}


def test_exchanges_are_read_from_the_text_of_a_program():
    text = """
    %a = f32[4,8]{1,0} all-gather(%b), dimensions={1}
    %c = (s32[], bf16[2,3]{1,0}) all-reduce-start(%d, %e)
    %f = f32[4,8]{1,0} all-reduce-done(%c)
    %g = f32[9]{0} add(%h, %i)
    """
    assert exchanges(text) == [["all-gather", [4, 8]], ["all-reduce", []], ["all-reduce", [2, 3]]]
