"""What the kernels of a program move and compute, counted by hand; and how long they took."""

from types import SimpleNamespace
from unittest import mock

import jax
import pytest

from colorize_jax.bench import kernel_times, kernels
from colorize_jax.bench.kernel_times import Timed
from colorize_jax.bench.kernels import Kernel, Speeds

# As XLA writes a scheduled program for a GPU, cut down to one kernel of each kind.
TEXT = r"""
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%gathered (p.0: bf16[8,100,4], p.1: s32[6,2], p.2: bf16[8,100,4]) -> bf16[6,8] {
  %p.0 = bf16[8,100,4]{2,1,0} parameter(0)
  %zero = bf16[] constant(0)
  %zeros = bf16[8,100,4]{2,1,0} broadcast(%zero), dimensions={}
  %relu = bf16[8,100,4]{2,1,0} maximum(%p.0, %zeros)
  %flat = bf16[800,4]{1,0} bitcast(%relu)
  %p.1 = s32[6,2]{1,0} parameter(1)
  %gather.1 = bf16[6,4]{1,0} gather(%flat, %p.1), offset_dims={1}, slice_sizes={1,4}
  %p.2 = bf16[8,100,4]{2,1,0} parameter(2)
  %cut = bf16[6,4]{1,0} slice(%p.2), slice={[0:6]}
  ROOT %columns = bf16[6,8]{1,0} concatenate(%gather.1, %cut), dimensions={1}
}

%scattered (q.0: f32[100,4], q.1: s32[3,1], q.2: f32[3,4]) -> f32[100,4] {
  %q.0 = f32[100,4]{1,0} parameter(0)
  %q.1 = s32[3,1]{1,0} parameter(1)
  %q.2 = f32[3,4]{1,0} parameter(2)
  ROOT %scatter = f32[100,4]{1,0} scatter(%q.0, %q.1, %q.2), to_apply=%add
}

%reduced (r.0: f32[10,4]) -> (f32[4], f32[4]) {
  %r.0 = f32[10,4]{1,0} parameter(0)
  %none = f32[] constant(0)
  %square = f32[10,4]{1,0} multiply(%r.0, %r.0)
  %sums = f32[4]{0} reduce(%r.0, %none), dimensions={0}, to_apply=%add
  %squares = f32[4]{0} reduce(%square, %none), dimensions={0}, to_apply=%add
  ROOT %both = (f32[4]{0}, f32[4]{0}) tuple(%sums, %squares)
}

%turned (s.0: f32[10,4]) -> bf16[4,10] {
  %s.0 = f32[10,4]{1,0} parameter(0)
  %t = f32[4,10]{1,0} transpose(%s.0), dimensions={1,0}
  ROOT %c = bf16[4,10]{1,0} convert(%t)
}

%multiplied (m.0: bf16[16,32], m.1: bf16[32,8]) -> f32[16,8] {
  %m.0 = bf16[16,32]{1,0} parameter(0)
  %m.1 = bf16[32,8]{1,0} parameter(1)
  ROOT %dot = f32[16,8]{1,0} dot(%m.0, %m.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%graph (g.0: f32[10,4]) -> f32[10,4] {
  %g.0 = f32[10,4]{1,0} parameter(0)
  ROOT %copy.1 = f32[10,4]{1,0} copy(%g.0)
}

ENTRY %main (x: bf16[2,8,8,3], w: bf16[16,3,3,3], /*index=2*/y: bf16[2,8,8,16]) -> f32[4] {
  %x = bf16[2,8,8,3]{3,2,1,0} parameter(0), metadata={op_name="batch[\'image\']"}
  %w = bf16[16,3,3,3]{3,2,1,0} parameter(1)
  %y = bf16[2,8,8,16]{3,2,1,0} parameter(2)
  %map = bf16[8,100,4]{2,1,0} parameter(3)
  %at = s32[6,2]{1,0} parameter(4)
  %grid = f32[100,4]{1,0} parameter(5)
  %rows = s32[3,1]{1,0} parameter(6)
  %more = f32[3,4]{1,0} parameter(7)
  %wide = f32[10,4]{1,0} parameter(8)
  %left = bf16[16,32]{1,0} parameter(9)
  %right = bf16[32,8]{1,0} parameter(10)
  %conv = (bf16[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(N)/encoder/encoder._layer/conv1_1/conv_general_dilated"}
  %back = (bf16[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%y, %w), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %filter = (bf16[16,3,3,3]{3,2,1,0}, u8[256]{0}) custom-call(%x, %y), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %item = bf16[2,8,8,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %gather_fusion = bf16[6,8]{1,0} fusion(%map, %at, %map), kind=kLoop, calls=%gathered, metadata={op_name="jit(step)/jvp(N)/N.columns/concatenate"}
  %scatter_fusion = f32[100,4]{1,0} fusion(%grid, %rows, %more), kind=kInput, calls=%scattered
  %reduce_fusion = (f32[4]{0}, f32[4]{0}) fusion(%wide), kind=kInput, calls=%reduced, metadata={op_name="jit(step)/transpose(jvp(N))/encoder/batch_conv1_1/reduce_sum"}
  %transpose_fusion = bf16[4,10]{1,0} fusion(%wide), kind=kInput, calls=%turned
  %gemm_fusion = f32[16,8]{1,0} fusion(%left, %right), kind=kCustom, calls=%multiplied
  %library = (f32[16,8]{1,0}, s8[1024]{0}) custom-call(%left, %right), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %sum-start = f32[10,4]{1,0} all-reduce-start(%wide), replica_groups={{0,1}}, to_apply=%add
  %sum-done = f32[10,4]{1,0} all-reduce-done(%sum-start)
  %command_buffer = f32[10,4]{1,0} call(%wide), to_apply=%graph
  ROOT %adds = f32[10,4]{1,0} add(%wide, %wide), metadata={op_name="jit(step)/add"}
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def counted():
    return {kernel.name: kernel for kernel in kernels.count(TEXT)}


@pytest.mark.parametrize(
    ("name", "kind", "read", "written", "flops"),
    [
        ("conv", "convolutions, forward", 768 + 864, 4096, 2 * 128 * 27 * 16),
        ("back", "convolutions, gradient of maps", 4096 + 864, 768, 2 * 128 * 27 * 16),
        ("filter", "convolutions, gradient of kernels", 768 + 4096, 864 + 256, 2 * 128 * 27 * 16),
        # Of the maps only what is gathered, also through a ReLU, or cut out; the indices whole.
        ("gather_fusion", "columns, forward", 48 + 48 + 48, 96, 0),
        # In place: what is added to is read and written, the rest of the array stays.
        ("scatter_fusion", "columns, scatter into the maps' gradients", 48 + 12 + 48, 48, 0),
        ("reduce_fusion", "batch norm, backward", 160, 32, 0),
        ("transpose_fusion", "copies, transposes, conversions", 160, 80, 0),
        ("gemm_fusion", "matrix products", 1024 + 512, 512, 2 * 16 * 32 * 8),
        ("library", "matrix products", 1024 + 512, 512 + 1024, 2 * 16 * 32 * 8),
        ("sum-start", "exchange between devices", 160, 160, 0),
        ("copy.1", "copies, transposes, conversions", 160, 160, 0),
        ("adds", "update, norms, latch", 320, 160, 0),
    ],
)
def test_kernel(counted, name, kind, read, written, flops):
    kernel = counted[name]
    assert (kernel.kind, kernel.read, kernel.written, kernel.flops) == (kind, read, written, flops)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("jvp(N)/encoder/encoder._block/encoder._layer/batch_conv1_1/mul", "batch norm, forward"),
        ("transpose(jvp(N))/encoder/bn2a_branch2a/reduce_sum", "batch norm, backward"),
        ("jvp(N)/encoder/encoder._block/encoder._layer/jit(relu)/max", "ReLU, forward"),
        ("jvp(N)/encoder/encoder._block/max", "pooling and LRN, forward"),
        ("transpose(jvp(N))/encoder/encoder._block/mul", "pooling and LRN, backward"),
        ("jvp(N)/encoder/encoder._layer/fc6/convert", "encoder, other, forward"),
        ("transpose(jvp(N))/N.columns/add", "columns, backward"),
        ("jvp(N)/head/head.hidden_units/hidden/add", "head and dropout"),
        ("jvp(vmap(jit(_where)))/select_n", "targets and losses"),
        ("jit(_where)/select_n", "update, norms, latch"),
    ],
)
def test_kind_is_the_part_of_the_step(source, kind):
    line = f'%y = f32[4]{{0}} add(%x, %x), metadata={{op_name="jit(train_step)/{source}"}}'
    text = (
        f"ENTRY %main (x: f32[4]) -> f32[4] {{\n  %x = f32[4]{{0}} parameter(0)\n  ROOT {line}\n}}"
    )
    assert [kernel.kind for kernel in kernels.count(text)] == [kind]


def test_nothing_else_is_a_kernel(counted):
    assert len(counted) == 12
    with pytest.raises(ValueError, match="no HLO module"):
        kernels.count("")


def test_estimate_is_of_the_slower_half_and_the_launch():
    speeds = Speeds(flops=1e12, bandwidth=1e9, share=0.5, memory_share=0.5, launch=0.25)
    arithmetic = Kernel("a", "matrix products", 1e6, 0, 1e12, "")
    bytes_ = Kernel("b", "zeros", 0, 1e9, 0, "")
    assert speeds.seconds(arithmetic) == 2.25 and speeds.seconds(bytes_) == 2.25
    text = kernels.report([arithmetic, bytes_], 9, speeds, "an abacus")
    assert "| zeros | 1 | 1.00 | 0.00 | 2250.00 | 50.0% |" in text
    assert "| all | 2 | 1.00 | 1.00 | 4500.00 | 100% |" in text
    assert "9 photos on an abacus: 2 photos/s, 22% of 1 TFLOP/s" in text


EVENTS = [
    ("sgemm", "conv", 0.0, 4.0), ("sgemm", "conv", 10.0, 4.0), ("shuffle", "conv", 4.0, 1.0),
    ("memcpy", "", 4.5, 1.5),
]  # fmt: skip


def test_profile_is_condensed_by_instruction():
    profile = kernel_times.condense(EVENTS, 2, 16.0)
    assert profile.kernels == [Timed("sgemm", "conv", 1.5, 4.5), Timed("memcpy", "", 0.5, 0.75)]
    # Two streams at the same time are busy once.
    assert (profile.step_seconds, profile.busy_seconds) == (8.0, (4 + 4 + 2) / 2)


def test_profile_shows_what_a_kernel_reaches(counted):
    profile = kernel_times.condense(EVENTS, 2, 16.0)
    text = kernel_times.table(profile, list(counted.values()))
    row = "| `sgemm` | `encoder._layer/conv1_1/conv_general_dilated` | convolutions, forward | 1.5 "
    assert row + "| 4500.000 | 85.7% |" in text
    assert "| `memcpy` |  |  | 0.5 | 750.000 | 14.3% |  |  |" in text
    assert "| unknown to the program | 0.5 | 0.00 | 750.00 | 14.3% |" in text
    assert "sgemm" not in kernel_times.table(profile, [], most=0)


def _planes(monkeypatch, planes):
    """Lets the profiler have written {plane: {line: [(name, instruction, start, length)]}}."""

    def event(name, instruction, start, duration):
        stats = [("hlo_op", instruction), ("correlation_id", 3)] if instruction else []
        start_ns, duration_ns = 1.7e18 + 1e3 * start, 1e3 * duration
        return SimpleNamespace(name=name, stats=stats, start_ns=start_ns, duration_ns=duration_ns)

    written = [
        SimpleNamespace(name=plane, lines=[
            SimpleNamespace(name=line, events=[event(*each) for each in events])
            for line, events in lines.items()
        ])
        for plane, lines in planes.items()
    ]  # fmt: skip
    data = mock.Mock(from_file=lambda path: SimpleNamespace(planes=written))
    monkeypatch.setattr(jax.profiler, "ProfileData", data)
    return [event[:2] for event in kernel_times._events("x")]


def test_kernels_of_a_gpu_are_those_on_its_streams(monkeypatch):
    assert _planes(monkeypatch, {
        "/host:CPU": {"python": [("step", "", 0, 50)]},
        "/device:GPU:1": {"Stream #7(Compute)": [("of another", "conv", 0, 5)]},
        "/device:GPU:0": {
            "Stream #7(Compute)": [("sgemm", "conv", 0, 5), ("add", "fusion", 5, 5)],
            "Stream #9(MemcpyD2D)": [("MemcpyD2D", "", 3, 2)],
            "XLA Modules": [("jit_train_step", "", 0, 10)],
        },
    }) == [("sgemm", "conv"), ("add", "fusion"), ("MemcpyD2D", "")]  # fmt: skip


def test_a_kernel_may_begin_before_the_one_before_it_ends(monkeypatch):
    assert _planes(monkeypatch, {
        "/device:GPU:0": {"Stream #7(Compute)": [("sgemm", "conv", 0, 9), ("add", "fusion", 4, 9)]},
    }) == [("sgemm", "conv"), ("add", "fusion")]  # fmt: skip


def test_kernels_of_a_graph_are_told_apart_by_their_names(monkeypatch):
    stream = [("loop_add_fusion_12", "command_buffer_1", 0, 5), ("sum", "command_buffer_1", 5, 5)]
    assert _planes(monkeypatch, {"/device:GPU:0": {"Stream #7(Compute)": stream}}) == [
        ("loop_add_fusion_12", "loop_add_fusion.12"),
        ("sum", "sum"),
    ]


def test_a_loop_is_counted_by_its_body(monkeypatch):
    assert _planes(monkeypatch, {
        "/device:TPU:0": {
            "Steps": [("1", "", 0, 100)],
            "XLA Ops": [("while", "while.1", 0, 100), ("a", "dot.1", 9, 40), ("b", "add.1", 50, 9)],
        },
    }) == [("a", "dot.1"), ("b", "add.1")]  # fmt: skip
    assert _planes(monkeypatch, {
        "/host:CPU": {
            "python": [("step", "", 0, 50)],
            "tf_XLAEigen": [("dot", "dot.1", 0, 10), ("end: dot", "dot.1", 10, 1)],
        },
    }) == [("dot", "dot.1")]  # fmt: skip
