"""What a study consists of: runs, searches for their schedules, tables and plots of them."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from colorize_jax.errors import ConfigError

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: of its workdir in that of the study.
        recipe: its name or the path of its file, with variants after a colon, as --config takes it.
        settings: of the config, {"model.width": 0.25}. $DATA stands for the folder of the data.
        start: an earlier run whose newest checkpoint it starts from, or NAME@STEP, a checkpoint.
        search: the name of a `Search`: the settings of its best candidate are added, and the
            schedule that was found for it is used.
        branch: NAME@STEP: it does not start, but goes on from that checkpoint of an earlier run as
            if it had been that run until then. Right where their settings make no difference
            before, such as drops of the rate that come later.
    """

    name: str
    recipe: str
    settings: Settings
    start: str = ""
    search: str = ""
    branch: str = ""


@dataclasses.dataclass(frozen=True)
class Search:
    """Early stopping with several settings; the best by the held-out part of the training split.

    Attributes:
        name, recipe, settings, start: as those of a run.
        candidates: settings to choose from, each a run of its own, NAME-0, NAME-1, ...
    """

    name: str
    recipe: str
    settings: Settings
    candidates: Sequence[Settings]
    start: str = ""

    def runs(self) -> list[Run]:
        """One for every candidate."""
        mode = {"early_stopping.mode": "search"}
        return [
            Run(f"{self.name}-{i}", self.recipe, {**self.settings, **candidate, **mode}, self.start)
            for i, candidate in enumerate(self.candidates)
        ]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: what it is.
        runs: names, the same thing with different seeds.
        paper: the number of the paper, as it stands there.
        not_run: why there are no runs.
    """

    label: str
    runs: Sequence[str] = ()
    paper: str = ""
    not_run: str = ""


@dataclasses.dataclass(frozen=True)
class Gain:
    """A line with the differences of two lines, seed by seed.

    Attributes:
        label: what it is.
        runs, over: names, in the same order of seeds.
    """

    label: str
    runs: Sequence[str]
    over: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows that are compared.

    Attributes:
        title: of the section.
        text: what is shown; Markdown.
        score: its name in results.json, shown in percent.
        ours: head of the column of our numbers.
        rows: in the order of the paper.
        paper: head of the column of the paper's numbers; "": there is no such column.
        seen: what came out, and why we think it did; written after the runs.
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
    """Training curves over the photos seen, above what snapshots along the way are worth.

    Attributes:
        title, text, seen: as those of a table.
        file: name of the PNG.
        curves: {label: run}; their training loss, with a mark at every drop of the rate.
        score: of the runs in `points`, in percent.
        points: {label: {photos seen: names of runs with different seeds}}.
    """

    title: str
    text: str
    file: str
    curves: Mapping[str, str]
    score: str
    points: Mapping[str, Mapping[int, Sequence[str]]]
    seen: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """All of it.

    Attributes:
        title: of the page.
        text: what it is about; Markdown.
        steps: runs and searches in the order in which they are run.
        sections: of the page.
    """

    title: str
    text: str
    steps: Sequence[Run | Search]
    sections: Sequence[Table | Plot]

    def runs(self) -> list[Run]:
        """All runs, those of the searches included, in order."""
        steps = ([step] if isinstance(step, Run) else step.runs() for step in self.steps)
        return [run for runs in steps for run in runs]

    def searches(self) -> dict[str, Search]:
        """By name."""
        return {step.name: step for step in self.steps if isinstance(step, Search)}


def seeded(run: Run, seeds: Sequence[int]) -> list[Run]:
    """The same run with several seeds, called NAME-SEED."""
    return [
        dataclasses.replace(run, name=f"{run.name}-{seed}", settings={**run.settings, "seed": seed})
        for seed in seeds
    ]


def check(study: Study) -> None:
    """ConfigError, by name, if a run is there twice, or one is named that does not come before."""
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
        for run in [step] if isinstance(step, Run) else step.runs():
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


def _named(section: Table | Plot) -> list[str]:
    if isinstance(section, Plot):
        points = [runs for along in section.points.values() for runs in along.values()]
        return [*section.curves.values(), *(name for runs in points for name in runs)]
    rows = ([*r.runs, *r.over] if isinstance(r, Gain) else r.runs for r in section.rows)
    return [name for names in rows for name in names]
