"""Makes the page of a study in Markdown: tables, plots, and the command of every run."""

from collections.abc import Sequence
import math
import re
import statistics

from colorize_jax.studies.plan import (
    Frozen,
    Gain,
    Grid,
    Plot,
    Row,
    Run,
    Search,
    Sensitivity,
    Table,
)
from colorize_jax.studies.workplace import NotYet, Workplace
from colorize_jax.training.report import duration
from colorize_jax.training.results import markdown_table

NOT_RUN = "not run"
_PYTHON = ("python", "-m")
_WIDTH = 100  # the width of a line of a command
_COMMANDS = """
From the root of the sources, with `DATA` and `STUDY` set to the folders of the data and of the
study. Runs that differ in their seed alone are written once, and so is what the candidates of a
search share. A run that takes what a search finds is started by the study until that is known.
"""


def page(place: Workplace, command: str) -> str:
    """The whole page.

    Args:
        place: the study in its folder.
        command: the command that makes the page.
    """
    study = place.study
    parts = [
        f"# {study.title}",
        f"This page is the output of\n\n```sh\n{command}\n```",
        study.text.strip(),
    ]
    for section in study.sections:
        parts += [f"## {section.title}", section.text.strip()]
        if not started(place, section):
            parts.append("None of it was run yet.")
            continue
        if isinstance(section, Plot | Sensitivity):
            parts.append(f"![{section.title}]({section.file})")
        show = {Table: table, Grid: grid, Sensitivity: _sensitivities, Plot: _points}
        parts.append(show[type(section)](place, section))
        if section.seen:
            parts.append(section.seen.strip())
    return "\n\n".join([*parts, *_appendix(place, command)]) + "\n"


def table(place: Workplace, section: Table) -> str:
    """A table with the mean and the standard deviation over the seeds in every row."""
    paper = [section.paper] if section.paper else []
    header, lines = ["row", *paper, section.ours, "seeds", "minutes a run", "runs"], []
    for row in section.rows:
        if isinstance(row, Gain):
            cells = [row.label, *([""] if paper else []), *_gain(place, row, section.score), "", ""]
        else:
            values = _values(place, row.runs, section.score)
            cells = [
                row.label,
                *([row.paper or "-"] if paper else []),
                spread(values, row.not_run),
                str(len(values) or "-"),
                _minutes(place, row),
                ", ".join(f"`{name}`" for name in row.runs) or "-",
            ]
        lines.append(cells)
    return markdown_table("|".join(header), lines)


def grid(place: Workplace, section: Grid) -> str:
    """A table with the mean and the standard deviation over the seeds in every cell.

    A cell says how many runs it has, if some are missing.
    """

    def cell(runs, score):
        values = _values(place, runs, score)
        some = 1 < len(values) < len(runs)
        return spread(values) + (f" ({len(values)} of {len(runs)} runs)" if some else "")

    lines = [
        [label, *(cell(row.get(name, ()), score) for name, score in section.columns.items())]
        for label, row in section.rows.items()
    ]
    return markdown_table("|".join(["row", *section.columns]), lines)


def started(place: Workplace, section: Table | Plot | Grid | Sensitivity) -> bool:
    """Whether there is a number to show; tables and curves are shown without one too."""
    if isinstance(section, Sensitivity):
        return bool(sensitivity(place, section))
    if not isinstance(section, Grid):
        return True
    return any(
        _values(place, row.get(heading, ()), score)
        for row in section.rows.values()
        for heading, score in section.columns.items()
    )


def sensitivity(place: Workplace, section: Sensitivity) -> dict[str, tuple[float, float, float]]:
    """{label: (mean score, sensitivity, spread of seeds)} of the rows that have all sizes.

    See `plan.Sensitivity`. The mean is over columns and sizes. The spread is NaN where no size has
    two runs.
    """
    found = {}
    for label, sizes in section.rows.items():
        columns, seeds = [], []
        for heading, score in section.columns.items():
            values = [_values(place, row.get(heading, ()), score) for row in sizes.values()]
            if not all(values):
                break
            columns.append([statistics.mean(own) for own in values])
            seeds += [statistics.stdev(own) for own in values if len(own) > 1]
        else:
            mean = statistics.mean(x for own in columns for x in own)
            deviation = statistics.mean(
                statistics.stdev(own) if len(own) > 1 else math.nan for own in columns
            )
            found[label] = mean, deviation, statistics.mean(seeds) if seeds else math.nan
    return found


def _sensitivities(place: Workplace, section: Sensitivity) -> str:
    found = sensitivity(place, section)
    lines = []
    for label in section.rows:
        numbers = found.get(label)
        shown = [NOT_RUN, "-", "-"]
        if numbers:
            shown = ["-" if math.isnan(x) else f"{100 * x:.1f}" for x in numbers]
        lines.append([label, *shown])
    return markdown_table("row|mean, %|sensitivity to photos|spread of seeds", lines)


def spread(values: Sequence[float], not_run: str = "") -> str:
    """The mean and the standard deviation of scores, in percent."""
    if not values:
        return f"{NOT_RUN}: {not_run}" if not_run else NOT_RUN
    mean = f"{100 * statistics.mean(values):.1f}"
    if len(values) == 1:
        return f"{mean} (one run)"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _values(place: Workplace, runs: Sequence[str], score: str) -> list[float]:
    scores = (place.score(name, score) for name in runs)
    return [value for value in scores if value is not None]


def _gain(place: Workplace, gain: Gain, score: str) -> tuple[str, str]:
    pairs = [
        (place.score(a, score), place.score(b, score))
        for a, b in zip(gain.runs, gain.over, strict=True)
    ]
    found = [a - b for a, b in pairs if a is not None and b is not None]
    shown = spread(found)
    return (f"+{shown}" if found and statistics.mean(found) > 0 else shown), str(len(found) or "-")


def _minutes(place: Workplace, row: Row) -> str:
    seconds = [found["seconds"] for name in row.runs if (found := place.results(name))]
    return f"{statistics.mean(seconds) / 60:.1f}" if seconds else "-"


def _points(place: Workplace, plot: Plot) -> str:
    lines = []
    for label, along in plot.points.items():
        for photos, runs in along.items():
            values = _values(place, runs, plot.score)
            names = ", ".join(f"`{name}`" for name in runs)
            lines.append([label, f"{photos:,}", spread(values), str(len(values) or "-"), names])
    return markdown_table("curve|photos seen|score of snapshot|seeds|runs", lines)


def _appendix(place: Workplace, command: str) -> list[str]:
    """The runs with their hardware, time and commands."""
    rows = []
    for run in place.study.runs():
        if not (found := place.results(run.name)):
            continue
        metric, schedule = found["metric"], found["schedule"]
        value = "none" if metric["value"] is None else f"{metric['value']:.4f}"
        rows.append([
            f"`{run.name}`", str(found["seed"]), f"{metric['name']} {value}",
            f"{schedule['steps']:,}", ", ".join(map(str, schedule["drops"])) or "-",
            f"{found['data']['photos']:,}", duration(found["seconds"]),
            found["hardware"],
        ])  # fmt: skip
    header = "run|seed|score|steps|drops after|photos|time|hardware"
    commands = [
        _search(place, step) if isinstance(step, Search) else _command(place, step, command)
        for step in place.study.steps
    ]
    return [
        "## Every run",
        markdown_table(header, rows) if rows else "None was run yet.",
        "## Every command",
        _COMMANDS.strip(),
        "```sh\n" + "\n".join(dict.fromkeys(commands)) + "\n```",
    ]


def _search(place: Workplace, search: Search) -> str:
    """A shell function with the arguments that all candidates share, and one call for each."""
    candidates = [place.arguments(run)[:1] + place.arguments(run)[2:] for run in search.runs()]
    shared = [word for word in candidates[0] if all(word in words for words in candidates)]
    workdir = f"--workdir=$STUDY/{search.name}-$1"
    lines = [f'search() {{ {shell([*_PYTHON, Run.program, *shared, workdir])} "${{@:2}}"; }}']
    for number, words in enumerate(candidates):
        own = [word for word in words if word not in shared]
        lines.append(shell(["search", str(number), *own]))
    return "\n".join(lines)


def _command(place: Workplace, run: Run | Frozen, study: str) -> str:
    """The command for all seeds of a run, after the copies that a branch needs.

    It is the study's own command if the study decides settings of the run.
    """
    seed = run.settings.get("seed")
    seeded = run.name.endswith(f"-{seed}")
    try:
        words = place.arguments(run)
    except NotYet:
        name = f"'{run.name.removesuffix(str(seed))}*'" if seeded else run.name
        return f"{study} --only={name}"
    if seeded:
        own = {f"--workdir=$STUDY/{run.name}", f"--config.seed={seed}"}
        if isinstance(run, Frozen):
            own = {f"--output=$STUDY/{run.name}", f"--seed={seed}"}
            if run.start.endswith(f"-{seed}"):
                own.add(f"--checkpoint=$STUDY/{run.start}")
        words = [word.removesuffix(str(seed)) + "$SEED" if word in own else word for word in words]
    copied = [
        f"mkdir -p {target.rpartition('/')[0]} && cp -r {source} {target}"
        for source, target in place.copies(run).items()
    ]
    return "\n".join([*copied, shell([*_PYTHON, run.program, *words])])


def shell(words: Sequence[str]) -> str:
    """A command on lines of about 100 characters, for a shell with the variables DATA and STUDY."""
    lines = [""]
    for word in words:
        if not re.fullmatch(r"[\w%+,./:=@$-]+", word):
            word = '"' + re.sub(r'(["\\`])', r"\\\1", word) + '"'
        if len(lines[-1]) + len(word) > _WIDTH:
            lines.append("   ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines).strip()
