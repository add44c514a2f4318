"""The tables of `python -m colorize_jax.bench cost`: what was counted, and the model of time."""

import dataclasses
import math

from colorize_jax.bench import cost
from colorize_jax.training.results import markdown_table

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Question:
    """What the tables are about.

    Attributes:
        dtypes: of the computation, each counted; that of the config is modelled as well.
        rows: photos of one device in a step, each compiled.
        microbatches: for the largest of them, the memory in so many parts is counted too.
        chips: how many chips to model.
        global_batches: for the tables in which the batch of all devices is fixed.
        photo_bytes: of a stored photo.
        core_rate: photos a second that one core prepares.
        topology: a TPU slice to compile for; "": the first device of this machine.
        assumed: shares of the peaks.
    """

    dtypes: tuple[str, ...] = cost.DTYPES
    rows: tuple[int, ...] = (8, 32)
    microbatches: tuple[int, ...] = (2, 4)
    chips: tuple[int, ...] = (1, 8, 64, 512)
    global_batches: tuple[int, ...] = (8, 1024, 4096)
    photo_bytes: float = 195e3
    core_rate: float = 578.0
    topology: str = ""
    assumed: cost.Assumptions = dataclasses.field(default_factory=cost.Assumptions)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the tables are made of.

    Attributes:
        counts: {dtype: one `cost.Counts` for each number of rows}.
        split: {(rows, microbatches): bytes of memory} in the dtype of the config.
        state: of the run, as shapes.
        devices: that the step was compiled for, and their number.
    """

    counts: dict[str, list[cost.Counts]]
    split: dict[tuple[int, int], float]
    state: object
    devices: tuple[str, int]


def gather(config, question: Question) -> Facts:
    """Compiles everything that the tables need; nothing is run or allocated."""
    import jax

    if question.topology:
        devices = cost.topology_devices(question.topology)
    else:
        devices = jax.devices()[:1]
    counts, split, state = {}, {}, None
    whole = config.copy_and_resolve_references()
    whole.microbatches = 1
    for dtype in sorted({*question.dtypes, config.model.dtype}, key=cost.DTYPES.index):
        whole.model.dtype = dtype
        counts[dtype] = [cost.count_step(whole, rows, devices) for rows in sorted(question.rows)]
    whole.model.dtype = config.model.dtype
    state = cost.plan_step(whole, 1, devices).state
    most = max(question.rows)
    for parts in question.microbatches:
        if parts > 1 and most % parts == 0:
            whole.microbatches = parts
            split[most, parts] = cost.count_step(whole, most, devices).memory
    return Facts(counts, split, state, (devices[0].device_kind, len(devices)))


def report(config, question: Question, facts: Facts) -> str:
    """All tables, in Markdown."""
    parts = [
        _network(config, facts), _counted(facts), _memory(config, facts),
        *(_weak(config, question, facts, chip) for chip in cost.CHIPS),
        _strong(config, question, facts),
        _limits(config, question, facts), _input(config, question, facts),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _network(config, facts) -> str:
    params, stats = facts.state.params, facts.state.batch_stats
    name, size, share = cost.largest(params)
    count = cost.tree_bytes(params) // 4
    rows = [
        ["parameters", f"{count:,}"],
        [f"largest array, {name}", f"{size:,} ({share:.1%})"],
        ["parameters, float32", f"{cost.tree_bytes(params) / GB:.3f} GB"],
        ["state of the optimizer", f"{cost.tree_bytes(facts.state.opt_state) / GB:.3f} GB"],
        *(
            [f"gradients exchanged, {dtype}", f"{cost.gradient_bytes(params, dtype) / GB:.3f} GB"]
            for dtype in cost.DTYPES
        ),
        [
            f"batch norm exchanged, in {cost.norm_reductions(stats)} reductions",
            f"{cost.norm_bytes(stats) / 1e6:.3f} MB",
        ],
    ]
    return f"**{config.model.name} at {config.data.crop}**\n\n" + markdown_table("| ", rows)


def _counted(facts) -> str:
    kind, devices = facts.devices
    rows = [
        [
            dtype, count.rows, f"{count.flops / count.rows / 1e9:.1f}",
            f"{count.bytes_accessed / GB:.1f}", f"{count.bytes_accessed / count.rows / GB:.2f}",
            f"{count.reduced / 1e6:.1f}", count.reductions,
        ]
        for dtype, counts in facts.counts.items()
        for count in counts
    ]  # fmt: skip
    header = (
        "dtype | photos a device | GFLOP a photo | GB accessed | GB a photo | MB all-reduced | "
        "all-reduces"
    )
    title = f"**Counted in the step compiled for {devices} x {kind}**"
    return title + "\n\n" + markdown_table(header, rows)


def _memory(config, facts) -> str:
    rows = [
        [dtype, count.rows, 1, f"{count.temporaries / GB:.2f}", f"{count.memory / GB:.2f}"]
        for dtype, counts in facts.counts.items()
        for count in counts
    ]
    whole = facts.counts[config.model.dtype][-1]
    state = whole.memory - whole.temporaries
    rows += [
        [config.model.dtype, size, parts, f"{(memory - state) / GB:.2f}", f"{memory / GB:.2f}"]
        for (size, parts), memory in facts.split.items()
    ]
    header = "dtype | photos a device | microbatches | GB temporaries | GB in all"
    return "**Memory of one device**\n\n" + markdown_table(header, rows)


def _step(config, question, facts, chip, chips, rows) -> tuple[cost.Counts, cost.Step]:
    dtype = config.model.dtype
    counts = cost.interpolate(facts.counts[dtype], rows)
    params, stats = facts.state.params, facts.state.batch_stats
    return counts, cost.step_seconds(
        counts, chip, chips, dtype=dtype, gradient=cost.gradient_bytes(params, dtype),
        norm=cost.norm_bytes(stats), exchanges=cost.norm_reductions(stats),
        assumed=question.assumed,
    )  # fmt: skip


def _fits(counts: cost.Counts, chip: cost.Chip) -> str:
    """The share of the chip's memory, or the microbatches that would make it fit."""
    if counts.memory <= chip.memory:
        return f"{counts.memory / chip.memory:.0%}"
    room = chip.memory - (counts.memory - counts.temporaries)
    return f"{math.ceil(counts.temporaries / room)} microbatches" if room > 0 else "too large"


def _weak(config, question, facts, chip) -> str:
    rows = []
    for each in sorted(question.rows):
        for chips in question.chips:
            counts, step = _step(config, question, facts, chip, chips, each)
            rows.append([
                each, chips, f"{each * chips:,}",
                *(f"{seconds * 1e3:.1f}" for seconds in
                  (step.compute, step.memory, step.gradients, step.norm, step.total)),
                f"{each * chips / step.total:,.0f}",
                f"{step.alone / step.total:.0%}", f"{step.alone / step.overlapped:.0%}",
                _fits(counts, chip),
            ])  # fmt: skip
    header = (
        "photos a chip | chips | batch | ms arithmetic | ms memory | ms gradients | ms batch norm "
        "| ms step | photos/s | efficiency | if overlapped | memory"
    )
    title = f"**{chip.name}, {config.model.dtype}, the same photos on every chip**"
    return title + "\n\n" + markdown_table(header, rows)


def _strong(config, question, facts) -> str:
    rows = []
    for batch in question.global_batches:
        for chips in question.chips:
            row = [f"{batch:,}", chips, f"{batch // chips:,}" if batch % chips == 0 else "-"]
            for chip in cost.CHIPS:
                if batch % chips:
                    row += ["-", "-"]
                    continue
                counts, step = _step(config, question, facts, chip, chips, batch // chips)
                alone = _step(config, question, facts, chip, 1, batch)[1].total
                gain = f"{alone / step.total:.1f} ({_fits(counts, chip)})"
                row += [f"{step.total * 1e3:.1f}", gain]
            rows.append(row)
    header = "batch | chips | photos a chip" + "".join(
        f" | {chip.name}: ms step | times one chip (memory)" for chip in cost.CHIPS
    )
    title = f"**The same batch for all chips, {config.model.dtype}**"
    return title + "\n\n" + markdown_table(header, rows)


def smallest_rows(holds, most: int = 1 << 16) -> int | None:
    """The number of photos from which on `holds(rows)`, by bisection; None above `most`."""
    low, high = 0, 1
    while not holds(high):
        low, high = high, high * 2
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _limits(config, question, facts) -> str:
    rows = []
    for chip in cost.CHIPS:
        for chips in question.chips:
            if chips == 1:
                continue

            def step(each, chip=chip, chips=chips):
                return _step(config, question, facts, chip, chips, each)[1]

            limits = (
                lambda s: s.compute >= s.gradients,
                lambda s: s.alone >= s.gradients,
                lambda s: s.alone >= 0.9 * s.total,
                lambda s: s.alone >= 0.9 * s.overlapped,
            )
            rows.append([
                chip.name, chips, f"{step(1).gradients * 1e3:.1f}",
                *(smallest_rows(lambda n, at=step, holds=holds: holds(at(n))) or "none"
                  for holds in limits),
            ])  # fmt: skip
    header = (
        "chip | chips | ms gradients | photos a chip: arithmetic as long | the rest as long | "
        "90 % efficiency | 90 % if overlapped"
    )
    return f"**Where data parallelism stops paying, {config.model.dtype}**\n\n" + markdown_table(
        header, rows
    )


def _input(config, question, facts) -> str:
    rows = []
    each = max(question.rows)
    for chip in cost.CHIPS:
        for chips in question.chips:
            _, step = _step(config, question, facts, chip, chips, each)
            rate = each * chips / step.total
            rows.append([
                chip.name, chips, f"{rate:,.0f}", f"{rate * question.photo_bytes / 1e6:,.0f}",
                f"{math.ceil(rate / question.core_rate):,}",
                f"{rate / chips / question.core_rate:.1f}",
            ])  # fmt: skip
    header = "chip | chips | photos/s | MB/s from storage | cores | cores a chip"
    title = (
        f"**What the input pipeline must deliver, {each} photos a chip, "
        f"{question.photo_bytes / 1e3:.0f} kB a photo, {question.core_rate:.0f} photos/s a core**"
    )
    return title + "\n\n" + markdown_table(header, rows)
