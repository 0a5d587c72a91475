"""What is read out of a compiled program's text, against counts by hand and by XLA on a CPU."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bstar_jax import sharding
from bstar_jax.config import MeshConfig
from bstar_jax.hlo import collectives, cost_of, parsing

MESH = {"data": 1, "fsdp": 2, "tensor": 2}

LOOP = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %w = f32[8,8]{1,0:T(8,128)} constant({...})
  %y = f32[4,8]{1,0:T(8,128)} convolution(%x, %w), dim_labels=bf_io->bf
  %z = f32[4,8]{1,0:T(8,128)} all-reduce(%y), channel_id=1, replica_groups={{0,1},{2,3}}
  ROOT %r = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%next, %z)
}

%cond (q: (s32[], f32[4,8])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} constant(LIMIT)
  ROOT %lt = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(START)
  %t = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) while(%t), condition=%cond, body=%body
  ROOT %out = f32[4,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def loop(start=0, limit=7):
    return LOOP.replace("START", str(start)).replace("LIMIT", str(limit))


@pytest.mark.parametrize(("start", "limit", "turns"), [(0, 7, 7), (3, 7, 4), (0, 1, 1)])
def test_a_loop_that_counts_to_a_constant_counts_so_often(start, limit, turns):
    done = cost_of(loop(start, limit), MESH)
    assert done.flops == turns * 2 * 4 * 8 * 8
    (only,) = done.collectives
    assert only.kind == "all-reduce" and only.axes == ("tensor",) and only.count == turns
    assert only.received == turns * 2 * 0.5 * 4 * 8 * 4  # twice (n - 1) / n of 128 bytes
    assert only.largest == 128


def test_a_loop_of_unknown_length_gives_the_work_of_a_turn_and_its_share_of_the_rest():
    text = loop().replace("constant(7)", "get-tuple-element(%q), index=0")
    assert cost_of(text, MESH).flops == 2 * 4 * 8 * 8
    assert cost_of(text, MESH, turns=64).flops == 2 * 4 * 8 * 8


def test_a_stated_number_of_turns_goes_before_the_counter():
    stated = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    assert cost_of(loop().replace("body=%body", stated), MESH).flops == 5 * 2 * 4 * 8 * 8


@pytest.mark.parametrize("turns", [1, 6])
def test_products_of_a_scan_are_those_of_its_turns(turns):
    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=turns)[0]

    shapes = (
        jax.ShapeDtypeStruct((16, 32), jnp.float32),
        jax.ShapeDtypeStruct((32, 32), jnp.float32),
    )
    text = jax.jit(scanned).lower(*shapes).compile().as_text()
    assert cost_of(text, {"data": 1}).flops == turns * 2 * 16 * 32 * 32


def test_products_agree_with_the_compilers_count_where_there_is_no_loop():
    def plain(x, w, v):
        return jnp.einsum("bij,bjk->bik", x, w) @ v

    sizes = (3, 16, 32), (3, 32, 8), (8, 5)
    shapes = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    compiled = jax.jit(plain).lower(*shapes).compile()
    assert cost_of(compiled.as_text(), {"data": 1}).flops == compiled.cost_analysis()["flops"]


WINDOW = """ENTRY %main (a: f32[7,4,1], b: f32[1,2,2]) -> f32[7,5,2] {
  %a = f32[7,4,1]{2,1,0} parameter(0)
  %b = f32[1,2,2]{2,1,0} parameter(1)
  ROOT %c = f32[7,5,2]{2,1,0} convolution(%a, %b), window={size=2 pad=1_1}, dim_labels=b0f_i0o->b0f
}
"""


def test_places_of_a_window_that_meet_padding_are_no_products():
    # TPUs write products over heads so. 5 places, 2 taps, 4 of input: of 10 pairs 8 meet input;
    # 7 rows, 1 channel in, 2 out.
    assert cost_of(WINDOW, {"data": 1}).flops == 2 * 8 * 7 * 2


FUSED = """HloModule jit_g

%cut (p0: f32[32,128,64], p1: s32[]) -> f32[1,128,64] {
  %p0 = f32[32,128,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %n = s32[] constant(0)
  ROOT %d = f32[1,128,64]{2,1,0} dynamic-slice(%p0, %p1, %n, %n), dynamic_slice_sizes={1,128,64}
}

%put (q0: f32[32,128,64], q1: f32[1,128,64], q2: s32[]) -> f32[32,128,64] {
  %q0 = f32[32,128,64]{2,1,0} parameter(0)
  %q1 = f32[1,128,64]{2,1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %m = s32[] constant(0)
  ROOT %u = f32[32,128,64]{2,1,0} dynamic-update-slice(%q0, %q1, %q2, %m, %m)
}

ENTRY %main (a: f32[32,128,64], i: s32[]) -> f32[32,128,64] {
  %a = f32[32,128,64]{2,1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %c = f32[1,128,64]{2,1,0PLACE} fusion(%a, %i), kind=kLoop, calls=%cut
  ROOT %r = f32[32,128,64]{2,1,0} fusion(%a, %c, %i), kind=kLoop, calls=%put
}
"""


def test_of_what_a_fusion_cuts_or_changes_the_part_alone_is_moved():
    part = 128 * 64 * 4
    both = cost_of(FUSED.replace("PLACE", ""), {"data": 1}).bytes
    assert both == 4 * part  # cut: read and written; put: read and written
    near = cost_of(FUSED.replace("PLACE", ":S(1)"), {"data": 1}).bytes
    assert near == 2 * part  # what stays on the processor is neither written nor read


@pytest.mark.parametrize(
    ("attributes", "groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3}}, x=1", [[0, 1], [2, 3]], ("tensor",)),
        ("replica_groups=[2,2]<=[4], x=1", [[0, 1], [2, 3]], ("tensor",)),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x=1", [[0, 2], [1, 3]], ("fsdp",)),
        ("replica_groups=[1,4]<=[4], x=1", [[0, 1, 2, 3]], ("fsdp", "tensor")),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x=1", [[0, 1], [2, 3]], ("tensor",)),
        ("replica_groups=mesh['a'=1,'b'=2,'c'=2] {'a','b'}", [[0, 2], [1, 3]], ("fsdp",)),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
            [[0, 2], [1, 3]],
            ("fsdp",),
        ),
        (
            "source_target_pairs={{0,2},{2,0},{1,3},{3,1}}",
            [[0, 2], [2, 0], [1, 3], [3, 1]],
            ("fsdp",),
        ),
        ("replica_groups=?", [], ("other",)),
    ],
)
def test_groups_are_read_in_every_notation(attributes, groups, axes):
    assert collectives.groups_of(attributes) == groups
    assert collectives.mesh_axes_of(groups, MESH) == axes


def test_pieces_of_one_collective_count_once_and_where_it_starts():
    piece = (
        "all-gather(%%%s), channel_id=9, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}, "
        'frontend_attributes={chain_id="0"}'
    )
    text = loop(0, 5).replace(
        "  %z = f32[4,8]{1,0:T(8,128)} all-reduce(%y), channel_id=1, replica_groups={{0,1},{2,3}}",
        f"  %z = f32[4,8]{{1,0}} add(%y, %y)\n  %g = f32[8,8]{{1,0}} {piece % 'y'}",
    )
    text = text.replace("  %zero =", f"  %h = f32[8,8]{{1,0}} {piece % 'a'}\n  %zero =")
    (only,) = cost_of(text, MESH).collectives
    assert only.count == 1 and only.received == 4 * 8 * 4 and only.largest == 8 * 8 * 4


@pytest.mark.parametrize(
    ("kind", "received"),
    [("all-gather", 384), ("reduce-scatter", 96), ("all-reduce", 192), ("all-to-all", 96)],
)
def test_what_a_device_receives_of_128_bytes_among_four(kind, received):
    text = f"""ENTRY %main (a: f32[4,8]) -> f32[4,8] {{
  %a = f32[4,8]{{1,0}} parameter(0)
  ROOT %r = f32[4,8]{{1,0}} {kind}(%a), channel_id=1, replica_groups=[1,4]<=[4]
}}
"""
    (only,) = cost_of(text, MESH).collectives
    assert only.received == received and only.axes == ("fsdp", "tensor")


def test_shapes_are_read_with_their_place():
    found = parsing.arrays(
        "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[4]{0:T(128)}, pred[]{:S(6)})"
    )
    assert [array.bytes for array in found] == [12, 16, 1]
    assert [array.is_main for array in found] == [False, True, False]


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        cost_of("HloModule nothing", MESH)


def test_on_a_mesh_the_exchanges_of_a_real_program_have_their_axes():
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2), jax.devices()[:8])
    place = functools.partial(NamedSharding, mesh)
    rows = jax.ShapeDtypeStruct(
        (16, 32), jnp.float32, sharding=place(PartitionSpec(("data", "fsdp"), "tensor"))
    )
    weight = jax.ShapeDtypeStruct(
        (32, 64), jnp.float32, sharding=place(PartitionSpec("tensor", None))
    )
    program = jax.jit(jnp.matmul, out_shardings=place(PartitionSpec(("data", "fsdp"))))
    done = cost_of(program.lower(rows, weight).compile().as_text(), dict(mesh.shape))
    assert {each.axes for each in done.collectives} == {("tensor",)}
    assert sum(each.received for each in done.collectives) == 2 * 0.5 * (4 * 64 * 4)
    assert done.flops == 2 * 4 * 16 * 64
