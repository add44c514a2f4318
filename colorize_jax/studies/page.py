"""The page of a study in Markdown: tables, plots, and the command behind every number."""

from collections.abc import Sequence
import statistics

from colorize_jax.studies.plan import Gain, Plot, Row, Run, Search, Table
from colorize_jax.studies.workplace import NotYet, Workplace, shell
from colorize_jax.training.report import duration
from colorize_jax.training.results import markdown_table

NOT_RUN = "not run"


def page(place: Workplace, command: str) -> str:
    """The whole page.

    Args:
        place: the study in its folder.
        command: that makes the page.
    """
    study = place.study
    parts = [
        f"# {study.title}",
        f"This page is the output of\n\n```sh\n{command}\n```",
        study.text.strip(),
    ]
    for section in study.sections:
        parts += [f"## {section.title}", section.text.strip()]
        if isinstance(section, Table):
            parts.append(table(place, section))
        else:
            parts.append(f"![{section.title}]({section.file})")
            parts.append(_points(place, section))
        if section.seen:
            parts.append(section.seen.strip())
    return "\n\n".join([*parts, *_appendix(place)]) + "\n"


def table(place: Workplace, section: Table) -> str:
    """Rows with mean and standard deviation over the seeds."""
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


def spread(values: Sequence[float], not_run: str = "") -> str:
    """Mean and standard deviation of scores, in percent."""
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


def _appendix(place: Workplace) -> list[str]:
    """What was run, on what, how long, and by which command."""
    rows = []
    for run in place.study.runs():
        found = place.results(run.name)
        if found is None:
            rows.append([f"`{run.name}`", str(run.settings.get("seed", 0)), NOT_RUN, *[""] * 5])
            continue
        metric, schedule = found["metric"], found["schedule"]
        value = "none" if metric["value"] is None else f"{metric['value']:.4f}"
        rows.append([
            f"`{run.name}`", str(found["seed"]), f"{metric['name']} {value}",
            f"{schedule['steps']:,}", ", ".join(map(str, schedule["drops"])) or "-",
            f"{found['data']['photos']:,}", duration(found["seconds"]),
            found["hardware"],
        ])  # fmt: skip
    commands = (_command(place, step) for step in place.study.steps)
    listed = "\n".join(dict.fromkeys(line for lines in commands for line in lines))
    return [
        "## Every run",
        markdown_table("run|seed|score|steps|drops after|photos|time|hardware", rows),
        "## Every command",
        "From the root of the sources, with `DATA` and `STUDY` set to the folders of the data and "
        "of the study. Runs that differ in their seed alone are written once.",
        f"```sh\n{listed}\n```",
    ]


def _command(place: Workplace, step: Run | Search) -> list[str]:
    if isinstance(step, Search):
        return [line for run in step.runs() for line in _command(place, run)]
    # One line for all seeds of a run.
    seed = step.settings.get("seed", 0)
    name = step.name.removesuffix(f"-{seed}")
    try:
        arguments = place.arguments(step)
    except NotYet as reason:
        return [f"# {name}: {reason}, and decides its settings"]
    copied = [
        f"mkdir -p {target.rpartition('/')[0]} && cp -r {source} {target}"
        for source, target in place.copies(step).items()
    ]
    line = shell(arguments)
    if "seed" in step.settings and name != step.name:
        line = line.replace(f"--config.seed={seed}", "--config.seed=$SEED")
        line = line.replace(f"/{step.name} ", f"/{name}-$SEED ")
    return [*copied, line]
