"""The results of a run: a table on the terminal, and results.json."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import hashlib
import json
import math
import pathlib

import jax

from colorize_jax.files import atomic_write_text
from colorize_jax.json_files import COUNT, Number
from colorize_jax.tasks.task import Score
from colorize_jax.training import hardware, same_run
from colorize_jax.training.report import duration, overall_and_classes

FILE = "results.json"
# The form of the fields that studies read; all other fields are scores.
FORM = {
    "metric": {"name": str, "value": (Number(float), None), "higher_is_better": bool},
    "schedule": {"steps": COUNT, "drops": [COUNT]},
    "data": {"photos": COUNT},
    "seed": COUNT,
    "seconds": Number(float, 0),
    "hardware": str,
}
_MOST_CLASSES = 30  # With more classes the table on the terminal leaves them out.


@dataclasses.dataclass(frozen=True)
class Results:
    """The scores of a run, and everything that is needed to repeat them.

    Attributes:
        config: the config of the run.
        step: the step of the parameters.
        scores: {"eval/...": number} of the last evaluation.
        best: {"step": ..., "eval/<score>": ...} of the best evaluation.
        score: the score by which runs are compared.
        checkpoint: the folder with the parameters.
        trained_on, evaluated_on: the numbers of photos.
        which: the photos of the source that were evaluated, in words; see `evaluated`.
        digest: the digest of the photos' names and labels.
        seconds: the seconds that the whole run took.
        spent: {part: those of them that were not training}; empty after `evaluate`.
        start: the checkpoint that it started from, or "random".
        unreadable: the number of photos to evaluate that could not be read.
        steps, drops: the length and the drops of the schedule.
        evaluators: see `report.overall_and_classes`.
    """

    config: object
    step: int
    scores: dict[str, float]
    best: dict[str, float]
    score: Score
    checkpoint: pathlib.Path
    trained_on: int
    evaluated_on: int
    which: str
    digest: str
    seconds: float
    start: str
    unreadable: int = 0
    steps: int = 0
    drops: tuple[int, ...] = ()
    evaluators: Collection[str] = ()
    spent: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict:
        """The content of results.json; a score that is not finite is null."""
        config, data = self.config, self.config.data
        overall, classes = overall_and_classes(self.scores, self.evaluators)
        name = f"eval/{self.score.name}"
        plain = {key: _finite(value) for key, value in overall.items()}
        return {
            "step": self.step,
            **plain,
            "best": self.best,
            "metric": {
                "name": self.score.name,
                "value": plain.get(name),
                "higher_is_better": self.score.higher,
            },
            "per_class": {
                kind: {label: _finite(value) for label, value in values.items()}
                for kind, values in classes.items()
            },
            "task": config.task.name,
            "network": f"{config.model.name}, width {config.model.width}",
            "init_from": self.start,
            "schedule": {"steps": self.steps, "drops": self.drops},
            "checkpoint": str(self.checkpoint),
            "config_hash": config_hash(config, self.steps, self.drops),
            "data": {
                "source": data.source,
                "split": data.split,
                "eval_split": self.which,
                "photos": self.trained_on,
                "eval_photos": self.evaluated_on,
                "unreadable": self.unreadable,
                "digest": self.digest,
            },
            "seed": config.seed,
            "hardware": hardware.describe(),
            "jax": jax.__version__,
            "seconds": round(self.seconds, 1),
            "spent": {part: round(seconds, 1) for part, seconds in self.spent.items()},
        }


def config_hash(config, steps: int, drops: Sequence[int]) -> str:
    """Twelve hexadecimal digits that are equal for all runs that compute the same.

    The names of their sources and starts must be equal too.
    """
    settings = {
        name: value
        for name, value in same_run.flat(same_run.plain(config)).items()
        if not name.startswith(same_run.FREE)
    }
    described = json.dumps([settings, steps, list(drops)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def write(path: pathlib.Path, found: Results) -> None:
    """Writes results.json atomically; OSError if that fails."""
    atomic_write_text(path, json.dumps(found.to_json(), indent=2) + "\n")


def table(found: Results) -> str:
    """A table for the terminal: the scores, then every class."""
    config = found.config
    overall, classes = overall_and_classes(found.scores, found.evaluators)
    begun = "random start" if found.start == "random" else f"start: {found.start}"
    unread = f", {found.unreadable:,} more could not be read" if found.unreadable else ""
    lines = [
        "",
        f"{config.task.name}, {config.model.name} of width {config.model.width:g}, {begun}",
        f"{found.evaluated_on:,} photos of {config.data.source} ({found.which}{unread}), step "
        f"{found.step:,}, seed {config.seed}, {duration(found.seconds)}",
        "",
    ]
    width = max(len(name) for name in overall)
    for name, value in overall.items():
        mark = "  <- the score" if name == f"eval/{found.score.name}" else ""
        lines.append(f"  {name.removeprefix('eval/'):{width}}  {_number(value)}{mark}")
    labels = list(dict.fromkeys(label for values in classes.values() for label in values))
    if len(labels) > _MOST_CLASSES:
        lines += ["", f"  {len(labels)} classes: see per_class in {FILE}"]
    elif labels:
        width = max(map(len, labels))
        lines += ["", f"  {'':{width}}" + "".join(f"  {kind:>12}" for kind in classes)]
        for label in labels:
            values = (classes[kind].get(label, math.nan) for kind in classes)
            lines.append(f"  {label:{width}}" + "".join(f"  {_number(v):>12}" for v in values))
    return "\n".join([*lines, ""])


def shares(found: Results) -> str:
    """A line that says what the run's time went to."""
    training = found.seconds - sum(found.spent.values())
    parts = (
        f"{part} {duration(seconds)} ({seconds / found.seconds:.0%})"
        for part, seconds in (*found.spent.items(), ("training", training))
    )
    return f"{duration(found.seconds)} in all: {', '.join(parts)}"


def markdown_table(header: str, rows: Sequence[Sequence]) -> str:
    """A table in Markdown; "|" separates the columns of the header."""
    names = [name.strip() for name in header.split("|")]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def evaluated(config) -> str:
    """The photos that are scored, in words: the name of a split, or the share held out."""
    if config.early_stopping.mode == "search":
        return f"{config.early_stopping.holdout:.0%} of {config.data.split or 'all'}, held out"
    return config.data.eval_split or "held out"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "none"
