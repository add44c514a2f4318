"""A study in its folder: the results, settings and commands of its runs."""

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
import shutil
from typing import Any

from colorize_jax import json_files
from colorize_jax.checkpoints import reading
from colorize_jax.config import config_form
from colorize_jax.config.recipe import load_config
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.studies.plan import Frozen, Plot, Run, Search, Study
from colorize_jax.training import early_stopping, known, report, results, same_run

_METRICS = "metrics.jsonl"
# The files that a page is made of; a run that takes over a schedule reads them too.
_RECORDS = ("config.json", results.FILE, early_stopping.FILE)
# Settings that are paths or threads, which do not change what is computed.
_PLACES = ("init_from", "data.source", "data.sbd", "schedule_from")
_FREE_OPTIONS = ("checkpoint", "output", "source", "threads")


class NotYet(ColorizeError):
    """A run needs another run that is not done."""


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A study in its folder.

    Attributes:
        study: the study, which `plan.check` has passed.
        workdir: the folder that holds one folder for every run.
        data: the folder that $DATA stands for; "" if unknown.
    """

    study: Study
    workdir: pathlib.Path
    data: str = ""

    def results(self, name: str, score: str = "") -> dict | None:
        """The content of a run's results.json, or None; ColorizeError if it is damaged."""
        path = self.workdir / name / results.FILE
        try:
            return json_files.read(
                path,
                results.FORM | {f"{score}?": (json_files.Number(float), None)},
                ColorizeError,
                "the run writes it again once it is deleted",
            )
        except FileNotFoundError:
            return None

    def score(self, name: str, score: str) -> float | None:
        """A score of a run; None if the run is not done or the score is not a number.

        ColorizeError if the run is done and has no score of that name.
        """
        found = self.results(name, score)
        if found is None:
            return None
        if score not in found:
            known = ", ".join(key for key in found if key.startswith("eval/"))
            raise ColorizeError(f"{name} has no score {score!r}; it has {known}")
        return found[score]

    def metrics(self, name: str) -> list[dict]:
        """The readable rows of a run's metrics.jsonl; none if there is no such file."""
        good, _ = json_files.rows(self.workdir / name / _METRICS, report.ROW)
        return [row for _, row in good]

    def copy_records(self, folder: pathlib.Path) -> None:
        """Copies the files that a page is made of, for every run that is done."""
        plots = (section for section in self.study.sections if isinstance(section, Plot))
        curves = {name for plot in plots for name in plot.curves.values()}
        for run in self.study.runs():
            there, here = self.workdir / run.name, folder / run.name
            if self.results(run.name) is None:
                continue
            here.mkdir(parents=True, exist_ok=True)
            for name in (*_RECORDS, *([_METRICS] if run.name in curves else [])):
                if (there / name).exists():
                    shutil.copyfile(there / name, here / name)

    def best(self, names: Iterable[str]) -> str:
        """The name of the run with the best score; "" if no run is done and has a score."""
        metrics = {name: found["metric"] for name in names if (found := self.results(name))}
        signed = {
            name: metric["value"] * (1 if metric["higher_is_better"] else -1)
            for name, metric in metrics.items()
            if metric["value"] is not None
        }
        return max(signed, key=signed.get, default="")

    def chosen(self, search: Search) -> tuple[str, Mapping[str, Any]]:
        """The name and the settings of a search's best candidate; NotYet before all are done."""
        candidates = {
            run.name: candidate
            for run, candidate in zip(search.runs(), search.candidates, strict=True)
        }
        for name in candidates:
            if self.results(name) is None:
                raise NotYet(f"{name} is not done")
        best = self.best(candidates)
        if not best:
            raise NotYet(f"no candidate of {search.name} has a score")
        return best, candidates[best]

    def settings(self, run: Run | Frozen) -> dict[str, Any]:
        """All settings of a run, with $DATA and $STUDY in paths; NotYet if a search is not done."""
        settings = dict(run.settings)
        if run.start:
            name, _, step = run.start.partition("@")
            place = f"$STUDY/{name}" + (f"/checkpoints/{step}" if step else "")
            settings["checkpoint" if isinstance(run, Frozen) else "init_from"] = place
        if run.search:
            best, candidate = self.chosen(self.study.searches()[run.search])
            settings |= {**candidate, "schedule_from": f"$STUDY/{best}"}
        if run.branch:
            settings["checkpoint.accept_changes"] = True
        return settings

    def copies(self, run: Run) -> dict[str, str]:
        """The files that a branch copies from its origin, {from: to}, with $STUDY in paths."""
        if not run.branch:
            return {}
        encoder, _, step = run.branch.partition("@")
        # The checkpoint comes last, because it marks the run as begun.
        names = (_METRICS, f"{reading.FOLDER}/{step}")
        return {f"$STUDY/{encoder}/{name}": f"$STUDY/{run.name}/{name}" for name in names}

    def branch_off(self, run: Run) -> None:
        """Copies those files unless the run has begun; ConfigError if the checkpoint is missing."""
        if reading.step_folders(self.workdir / run.name / reading.FOLDER):
            return
        for source, target in self.copies(run).items():
            there, here = (pathlib.Path(self._placed(path)) for path in (source, target))
            if not there.exists():
                raise ConfigError(f"{run.name} branches off {run.branch}, and {there} is missing")
            draft = here.with_name(f"{here.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            here.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if there.is_dir() else shutil.copyfile)(there, draft)
            os.replace(draft, here)

    def arguments(self, run: Run | Frozen) -> list[str]:
        """The arguments of the run's program, with $DATA and $STUDY in paths."""
        if isinstance(run, Frozen):
            options = self.settings(run) | {"output": f"$STUDY/{run.name}"}
            return [
                f"--{name}" if value is True else f"--{name}={shown(value)}"
                for name, value in options.items()
            ]
        flags = [f"--config.{name}={shown(value)}" for name, value in self.settings(run).items()]
        return [f"--config={run.recipe}", f"--workdir=$STUDY/{run.name}", *flags]

    def command(self, run: Run | Frozen) -> list[str]:
        """The arguments with the real folders; ConfigError if $DATA is unknown."""
        arguments = self.arguments(run)
        if not self.data and any("$DATA" in argument for argument in arguments):
            raise ConfigError(f"{run.name} reads $DATA: name the folder of the data with --data=")
        return [self._placed(argument) for argument in arguments]

    def _placed(self, text: str) -> str:
        return text.replace("$DATA", self.data).replace("$STUDY", str(self.workdir))

    def check_same(self, run: Run | Frozen) -> None:
        """ConfigError that names the settings if a run that is done had other settings."""
        if isinstance(run, Frozen):
            self._check_options(run)
            return
        changes = [f"{n}={shown(v)}" for n, v in self.settings(run).items()]
        wanted = load_config(run.recipe, [self._placed(change) for change in changes])
        path = self.workdir / run.name / "config.json"
        there = json_files.read(
            path, config_form(), ConfigError, "delete the folder, or move it away"
        )
        if wanted.init_from != "random":
            known.follow(wanted, there, set(self.settings(run)))
        lines = [
            line
            for line in same_run.differences(there, wanted)
            if not line.strip().startswith(tuple(f"config.{name}:" for name in _PLACES))
        ]
        if lines:
            raise ConfigError(
                f"{path.parent} holds a run with other settings than the study asks for. Delete "
                "it, or move it away:\n" + "\n".join(lines)
            )

    def _check_options(self, run: Frozen) -> None:
        path = self.workdir / run.name / results.FILE
        form = results.FORM | {"options": {str: object}}
        there = json_files.read(path, form, ConfigError, "delete the folder, or move it away")
        lines = [
            f"  --{name}={there['options'].get(name)} there, {value} wanted"
            for name, value in run.settings.items()
            if name not in _FREE_OPTIONS and str(there["options"].get(name)) != shown(value)
        ]
        if lines:
            raise ConfigError(
                f"{path.parent} holds scores of other options than the study asks for. Delete it, "
                "or move it away:\n" + "\n".join(lines)
            )


def shown(value) -> str:
    """The value of a setting in the syntax of the command line."""
    return repr(value).replace(" ", "") if isinstance(value, tuple) else str(value)
