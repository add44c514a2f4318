"""What every kernel of a compiled GPU program reads, writes and computes: counted in its text."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import math
import re

from colorize_jax.training.results import markdown_table

# Bits of an element. What is not here, as a token, has no bytes.
_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64,
    "c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3": 8,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_NAMES = re.compile(r"%([\w.\-]+)")
# These move no bytes and launch nothing.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier",
    "partition-id", "replica-id", "add-dependency",
}  # fmt: skip
# These run other computations of the text.
_CALLS = {"call": "to_apply", "while": "body", "conditional": "branch_computations"}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-")
# A fusion of nothing else only moves its operand.
_MOVES = {"parameter", "transpose", "copy", "bitcast", "convert", "tuple", "reshape"}
# Each result takes a part of the operand that is as large as the result's part of all results.
_WHOLE = {"reduce", "reduce-window", "dot", "convolution", "sort", "concatenate"}
# These change a part of their first operand, where it lies: which operand holds the new values.
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: of its result.
        type: of its result, as written.
        opcode: such as "fusion".
        operands: names.
        rest: all that stands behind the operands.
        text: between the parentheses of the operands.
        root: whether it is the result of its computation.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    text: str
    root: bool

    def attribute(self, name: str) -> str:
        """`window={...}` without its braces, `calls=%x` as x; "" if it is not there."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|\"([^\"]*)\"|([^\s,]+))", self.rest)
        if not found:
            return ""
        return next(part for part in found.groups() if part is not None).lstrip("%")

    @property
    def source(self) -> str:
        """The JAX operation that it was made for, as far as the compiler knows one."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One launch.

    Attributes:
        name: of the instruction.
        kind: one of a few; see `_kind`.
        read, written: bytes.
        flops: of convolutions and matrix products; a multiply-add is two, taps on padding count.
        source: the JAX operation that it was made for.
    """

    name: str
    kind: str
    read: float
    written: float
    flops: float
    source: str

    @property
    def moved(self) -> float:
        """Bytes."""
        return self.read + self.written


def count(text: str) -> list[Kernel]:
    """The kernels of a scheduled program, in order.

    Of an operand those elements count that the results take: where a slice is read, or some
    elements are gathered, no more than these. A scatter or an update of a slice works in place, so
    that what it touches counts. The body of a loop counts once.

    Args:
        text: `compiled.as_text()`.
    """
    computations, entry = _parse(text)
    return list(_count(computations, entry))


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """{computation: {name: instruction}}, and the name of the entry."""
    computations, current, entry = {}, None, ""
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY: it is no HLO module")
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    found = _START.match(line)
    if not found:
        return None
    left = line[found.end() :]
    end = _closing(left) if left.startswith("(") else left.find(" ")
    kind, left = left[:end], left[end:].lstrip()
    opcode, _, left = left.partition("(")
    end = _closing("(" + left) - 1
    operands, rest = left[: end - 1], left[end:]
    names = tuple(_NAMES.findall(operands))
    return Instruction(found[2], kind, opcode, names, rest, operands, bool(found[1]))


def _closing(text: str) -> int:
    """Where the parenthesis that text begins with is closed: the index behind it."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return at + 1
    return len(text)


def _arrays(kind: str) -> list[tuple[str, list[int]]]:
    return [
        (name, [int(side) for side in sides.split(",") if side])
        for name, sides in _ARRAY.findall(kind)
        if name in _BITS
    ]


def _size(kind: str) -> int:
    """Bytes of a type, of a tuple of all its elements."""
    return sum(-(-_BITS[name] * math.prod(sides) // 8) for name, sides in _arrays(kind))


def _count(computations: dict, entry: str) -> Iterator[Kernel]:
    instructions = computations[entry]
    for one in instructions.values():
        if one.opcode in _FREE or one.opcode.endswith("-done"):
            continue
        if one.opcode in _CALLS:
            for name in one.attribute(_CALLS[one.opcode]).split(","):
                yield from _count(computations, name.strip().lstrip("%"))
            continue
        body = computations.get(one.attribute("calls"), {})
        if body and one.opcode == "fusion":
            read, written = _fused(body)
        else:
            read = sum(_size(instructions[name].type) for name in one.operands)
            written = _size(one.type)
            if one.opcode.endswith("-start"):  # its result holds the operands too
                written = read
        flops = sum(_flops(inner, body) for inner in body.values()) or _flops(one, instructions)
        yield Kernel(one.name, _kind(one, body), read, written, flops, one.source)


def _fused(body: dict[str, Instruction]) -> tuple[float, float]:
    """(bytes read, bytes written) by a fusion."""
    (root,) = (one for one in body.values() if one.root)
    needed = dict.fromkeys(body, 0.0)  # elements of every value, backwards from the results
    results = root.operands if root.opcode == "tuple" else (root.name,)
    for name in results:
        needed[name] = _elements(body[name])
    for one in reversed(body.values()):  # an operand stands before what reads it
        for position, name in enumerate(one.operands):
            if name in body and one.opcode != "tuple":
                asked = _asked(one, position, needed[one.name], body)
                needed[name] = min(_elements(body[name]), needed[name] + asked)
    read = sum(
        needed[one.name] / max(_elements(one), 1) * _size(one.type)
        for one in body.values()
        if one.opcode == "parameter"
    )

    def written(one: Instruction) -> float:
        while one.opcode == "bitcast" and one.operands[0] in body:
            one = body[one.operands[0]]
        if one.opcode in _IN_PLACE:
            return _size(body[one.operands[_IN_PLACE[one.opcode]]].type)
        return _size(one.type)

    return read, sum(written(body[name]) for name in results)


def _asked(one: Instruction, position: int, needed: float, body: dict[str, Instruction]) -> float:
    """Elements of an operand that it takes to compute so many elements of a value."""
    if one.opcode in _IN_PLACE:
        update = body[one.operands[_IN_PLACE[one.opcode]]]
        if position == 0:  # what is added to is read
            return _elements(update) if one.opcode == "scatter" else 0.0
        return _elements(body[one.operands[position]])
    if one.opcode in _WHOLE:
        return _elements(body[one.operands[position]]) * needed / max(_elements(one), 1)
    return needed


def _elements(one: Instruction) -> int:
    """Of an array; of a tuple the elements of its first, which of what a fusion computes together
    is that of the others."""
    arrays = _arrays(one.type)
    return math.prod(arrays[0][1]) if arrays else 0


def _flops(one: Instruction, known: dict[str, Instruction]) -> float:
    """Of a convolution or a matrix product; 0 of all else."""

    def shape(name: str) -> list[int]:
        return _arrays(known[name].type)[0][1] if name in known else []

    target = one.attribute("custom_call_target")
    if one.opcode == "convolution" or "conv" in target:
        result = _arrays(one.type)[0][1]
        left, right = (shape(name) for name in one.operands[:2])
        kernel, pixels = right, result
        if "BackwardInput" in target:
            pixels = left
        if "BackwardFilter" in target:
            kernel, pixels = result, right
        labels = one.attribute("dim_labels").split("->")[0].split("_")[1]
        return 2 * math.prod(pixels) * math.prod(kernel) / kernel[labels.index("o")]
    if one.opcode == "dot" or "gemm" in target or "matmul" in target:
        contracted = one.attribute("lhs_contracting_dims")
        if not contracted:  # a library's call has it in its settings
            found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.rest)
            contracted = found[1].replace('"', "") if found else ""
        left = shape(one.operands[0])
        inner = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
        return 2 * math.prod(_arrays(one.type)[0][1]) * inner
    return 0.0


def _kind(one: Instruction, body: dict[str, Instruction]) -> str:
    """In words: by what it computes, or by the part of the step that it belongs to."""
    source, target = one.source, one.attribute("custom_call_target")
    opcodes = {inner.opcode for inner in body.values()} or {one.opcode}
    backward = "backward" if "transpose(" in source else "forward"
    if "conv" in target or "convolution" in opcodes:
        if "BackwardFilter" in target:
            return "convolutions, gradient of kernels"
        if "BackwardInput" in target:
            return "convolutions, gradient of maps"
        return "convolutions, forward" if target else f"convolutions, {backward}"
    if "gemm" in target or "matmul" in target or "dot" in opcodes:
        return "matrix products"
    if one.opcode.startswith(_COLLECTIVES):
        return "exchange between devices"
    if opcodes <= _MOVES:
        return "copies, transposes, conversions"
    if "scatter" in opcodes:
        return "columns, scatter into the maps' gradients"
    if opcodes <= _MOVES | {"broadcast", "constant"}:
        return "zeros"
    for part, found in (
        ("batch norm", re.search(r"/(batch_|bn|scale)[^/]*/", source)),
        ("ReLU", "relu" in source or "_layer/select_n" in source),
        ("pooling and LRN", re.search(r"_block/[^/]*$", source)),
        ("columns", ".columns" in source and "encoder" not in source),
        ("head and dropout", "head" in source or "/drop" in source),
        ("encoder, other", "encoder" in source),
    ):
        if found:
            return f"{part}, {backward}" if part != "head and dropout" else part
    if "jvp(" in source or "vmap(" in source:
        return "targets and losses"
    return "update, norms, latch"


@dataclasses.dataclass(frozen=True)
class Speeds:
    """What a card reaches, to turn counts into an estimate.

    Attributes:
        flops: a second, of the largest matrix products.
        bandwidth: bytes a second, of the largest copies.
        share: of `flops` that a convolution reaches.
        memory_share: of `bandwidth` that a kernel reaches.
        launch: seconds that every kernel takes besides.
    """

    flops: float
    bandwidth: float
    share: float = 0.70
    memory_share: float = 0.90
    launch: float = 2e-6

    def seconds(self, kernel: Kernel) -> float:
        """As long as the slower of its arithmetic and its bytes takes, and the launch."""
        arithmetic = kernel.flops / (self.flops * self.share)
        memory = kernel.moved / (self.bandwidth * self.memory_share)
        return max(arithmetic, memory) + self.launch


# Products of bfloat16 matrices and copies, as measured on an H100 of 80 GB.
H100 = Speeds(flops=800e12, bandwidth=3.0e12)


def by_kind(kernels: Sequence[Kernel]) -> dict[str, list[Kernel]]:
    """Kernels of each kind."""
    found: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        found.setdefault(kernel.kind, []).append(kernel)
    return found


def report(kernels: Sequence[Kernel], rows: int, speeds: Speeds, name: str) -> str:
    """A table by kind of kernel, and what is estimated of the whole step.

    Args:
        kernels: of one device's step.
        rows: its photos.
        speeds: of the card.
        name: of the card.
    """
    seconds = functools.partial(_sum, speeds.seconds)
    moved, flops = functools.partial(_sum, lambda k: k.moved), functools.partial(_sum, _arithmetic)
    total = seconds(kernels)
    lines = [
        [
            kind, len(some), f"{moved(some) / 1e9:.2f}", f"{flops(some) / 1e12:.2f}",
            f"{1e3 * seconds(some):.2f}", f"{seconds(some) / total:.1%}",
        ]
        for kind, some in sorted(by_kind(kernels).items(), key=lambda item: -seconds(item[1]))
    ]  # fmt: skip
    lines.append([
        "all", len(kernels), f"{moved(kernels) / 1e9:.2f}", f"{flops(kernels) / 1e12:.2f}",
        f"{1e3 * total:.2f}", "100%",
    ])  # fmt: skip
    table = markdown_table("kind | kernels | GB moved | TFLOP | ms, estimated | share", lines)
    return (
        f"{table}\n\n"
        f"An estimate for {rows} photos on {name}: {rows / total:,.0f} photos/s, "
        f"{flops(kernels) / total / speeds.flops:.0%} of {speeds.flops / 1e12:.0f} TFLOP/s. Every "
        f"kernel takes its bytes at {speeds.memory_share:.0%} of {speeds.bandwidth / 1e12:.1f} "
        f"TB/s or its arithmetic at {speeds.share:.0%} of that peak, whichever is longer, and "
        f"{1e6 * speeds.launch:.0f} microseconds."
    )


def _sum(of, kernels: Sequence[Kernel]) -> float:
    return sum(of(kernel) for kernel in kernels)


def _arithmetic(kernel: Kernel) -> float:
    return kernel.flops
