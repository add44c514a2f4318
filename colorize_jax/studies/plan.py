"""The parts of a study: runs, searches for schedules, tables and plots."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any, ClassVar

from colorize_jax.errors import ConfigError

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: the name of its workdir in the study's workdir.
        recipe: the name or path of a recipe, with variants after a colon, as --config takes it.
        settings: settings of the config, {"model.width": 0.25}. $DATA is the folder of the data.
        start: an earlier run whose newest checkpoint it starts from, or one of its checkpoints as
            NAME@STEP.
        search: the name of a `Search`. The settings of its best candidate and the schedule that it
            found are used.
        branch: NAME@STEP. The run resumes from that checkpoint of an earlier run, as if it had been
            that run until then. This is right only if their settings make no difference before
            that step, such as later drops of the rate.
    """

    name: str
    recipe: str
    settings: Settings
    start: str = ""
    search: str = ""
    branch: str = ""
    program: ClassVar = "colorize_jax.main"


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The frozen features of an earlier run, scored on labelled photos; see frozen.py.

    Attributes:
        name: see `Run`.
        settings: the options of `python -m colorize_jax.frozen` besides --checkpoint and --output,
            such as {"kinds": "svm"}. $DATA is the folder of the data.
        start: an earlier run, or one of its checkpoints as NAME@STEP.
    """

    name: str
    settings: Settings
    start: str
    search: ClassVar = ""
    branch: ClassVar = ""
    program: ClassVar = "colorize_jax.frozen"


@dataclasses.dataclass(frozen=True)
class Search:
    """Early stopping with several settings; the held-out part of the training split decides.

    Attributes:
        name, recipe, settings, start: see `Run`.
        candidates: the settings to choose from; each is a run, NAME-0, NAME-1, ...
    """

    name: str
    recipe: str
    settings: Settings
    candidates: Sequence[Settings]
    start: str = ""

    def runs(self) -> list[Run]:
        """The runs of all candidates."""
        mode = {"early_stopping.mode": "search"}
        return [
            Run(f"{self.name}-{i}", self.recipe, {**self.settings, **candidate, **mode}, self.start)
            for i, candidate in enumerate(self.candidates)
        ]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: the label of the line.
        runs: the names of runs that differ only in their seed.
        paper: the paper's number, as printed there.
        not_run: the reason why there are no runs.
    """

    label: str
    runs: Sequence[str] = ()
    paper: str = ""
    not_run: str = ""


@dataclasses.dataclass(frozen=True)
class Gain:
    """A line with the differences between two lines, seed by seed.

    Attributes:
        label: the label of the line.
        runs, over: the names of runs, in the same order of seeds; `over` is subtracted.
    """

    label: str
    runs: Sequence[str]
    over: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of rows to compare.

    Attributes:
        title: the title of the section.
        text: the text before the table, in Markdown.
        score: the name of the score in results.json; it is shown in percent.
        ours: the heading of the column with our numbers.
        rows: the rows, in the order of the paper.
        paper: the heading of the column with the paper's numbers; "" leaves the column out.
        seen: the text after the table: the results and our explanation.
    """

    title: str
    text: str
    score: str
    ours: str
    rows: Sequence[Row | Gain]
    paper: str = ""
    seen: str = ""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot of training curves over the photos seen, and of the scores of snapshots below it.

    Attributes:
        title, text, seen: see `Table`.
        file: the name of the PNG.
        curves: {label: run}; the training loss is drawn, with a mark at every drop of the rate.
        score: the name of the score of the runs in `points`; it is shown in percent.
        points: {label: {photos seen: names of runs that differ only in their seed}}.
    """

    title: str
    text: str
    file: str
    curves: Mapping[str, str]
    score: str
    points: Mapping[str, Mapping[int, Sequence[str]]]
    seen: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table with several scores in a row.

    Attributes:
        title, text, seen: see `Table`.
        columns: {heading: name of the score in results.json}; scores are shown in percent.
        rows: {label: {heading: names of runs that differ only in their seed}}.
    """

    title: str
    text: str
    columns: Mapping[str, str]
    rows: Mapping[str, Mapping[str, Sequence[str]]]
    seen: str = ""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How scores depend on the number of photos: a table, and a plot of it against the mean score.

    The sensitivity is the standard deviation over the sizes, averaged over the columns; where a
    size has several runs, their mean counts. Beside it stands the standard deviation over seeds,
    averaged over the columns and sizes that have several.

    Attributes:
        title, text, seen: see `Table`.
        file: the name of the PNG.
        columns: see `Grid`.
        rows: {label: {size: {heading: names of runs}}}.
    """

    title: str
    text: str
    file: str
    columns: Mapping[str, str]
    rows: Mapping[str, Mapping[int, Mapping[str, Sequence[str]]]]
    seen: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        title: the title of the page.
        text: the introduction, in Markdown.
        steps: runs, searches and scores of frozen features, in the order in which they are run.
        sections: the tables and plots of the page, in order.
    """

    title: str
    text: str
    steps: Sequence[Run | Search | Frozen]
    sections: Sequence[Table | Plot | Grid | Sensitivity]

    def runs(self) -> list[Run | Frozen]:
        """All runs in order, including those of the searches."""
        steps = (step.runs() if isinstance(step, Search) else [step] for step in self.steps)
        return [run for runs in steps for run in runs]

    def searches(self) -> dict[str, Search]:
        """By name."""
        return {step.name: step for step in self.steps if isinstance(step, Search)}


def seeded(run: Run, seeds: Sequence[int]) -> list[Run]:
    """The same run with several seeds; their names are NAME-SEED."""
    return [
        dataclasses.replace(run, name=f"{run.name}-{seed}", settings={**run.settings, "seed": seed})
        for seed in seeds
    ]


def check(study: Study) -> None:
    """ConfigError that names a run if it occurs twice or is used before it is defined."""
    known, searches = set(), set()
    for step in study.steps:
        before = step.start.partition("@")[0]
        if before and before not in known:
            raise ConfigError(f"{step.name} starts from {before!r}, which is no run before it")
        if isinstance(step, Run) and step.search and step.search not in searches:
            raise ConfigError(f"{step.name} names {step.search!r}, which is no search before it")
        if isinstance(step, Run) and step.branch:
            encoder, _, number = step.branch.partition("@")
            if encoder not in known or not number.isdecimal():
                raise ConfigError(
                    f"{step.name} branches off {step.branch!r}, which is not NAME@STEP of a run "
                    "before it"
                )
        for run in step.runs() if isinstance(step, Search) else [step]:
            if run.name in known:
                raise ConfigError(f"two runs are called {run.name}")
            if not re.fullmatch(r"\w[\w.+-]*", run.name):
                raise ConfigError(f"{run.name!r} is no name for a folder")
            known.add(run.name)
        if isinstance(step, Search):
            if not step.candidates:
                raise ConfigError(f"{step.name} has no candidates")
            searches.add(step.name)
    for section in study.sections:
        for name in _named(section):
            if name not in known:
                raise ConfigError(f"{section.title!r} names the run {name!r}, which does not exist")


def _named(section: Table | Plot | Grid | Sensitivity) -> list[str]:
    if isinstance(section, Plot):
        points = [runs for along in section.points.values() for runs in along.values()]
        return [*section.curves.values(), *(name for runs in points for name in runs)]
    if isinstance(section, Grid | Sensitivity):
        rows = list(section.rows.values())
        if isinstance(section, Sensitivity):
            rows = [row for sizes in rows for row in sizes.values()]
        return [name for row in rows for runs in row.values() for name in runs]
    rows = ([*r.runs, *r.over] if isinstance(r, Gain) else r.runs for r in section.rows)
    return [name for names in rows for name in names]
