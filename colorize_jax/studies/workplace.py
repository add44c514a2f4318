"""Where the runs of a study lie, what became of them, and the command behind each."""

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
from colorize_jax.studies.plan import Plot, Run, Search, Study
from colorize_jax.training import early_stopping, known, report, results, same_run

_METRICS = "metrics.jsonl"
# What a page, and a run that takes a schedule, are made of.
_RECORDS = ("config.json", results.FILE, early_stopping.FILE)
# Settings that say where something lies and not what is computed.
_PLACES = ("init_from", "data.source", "data.sbd", "schedule_from")


class NotYet(ColorizeError):
    """A run needs another one first."""


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A study in its folder.

    Attributes:
        study: checked.
        workdir: holds one folder for every run.
        data: what $DATA stands for; "" if it is not known.
    """

    study: Study
    workdir: pathlib.Path
    data: str = ""

    def results(self, name: str, score: str = "") -> dict | None:
        """What results.json of a run holds, or None; ColorizeError if it is damaged, or a score."""
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
        """One number of a run that is done; None if it is not, or has no such number.

        ColorizeError if it is done and knows no such score.
        """
        found = self.results(name, score)
        if found is None:
            return None
        if score not in found:
            known = ", ".join(key for key in found if key.startswith("eval/"))
            raise ColorizeError(f"{name} has no score {score!r}; it has {known}")
        return found[score]

    def metrics(self, name: str) -> list[dict]:
        """The rows of metrics.jsonl of a run that can be read; none if there is no such file."""
        good, _ = json_files.rows(self.workdir / name / _METRICS, report.ROW)
        return [row for _, row in good]

    def copy_records(self, folder: pathlib.Path) -> None:
        """What pages are made of, of every run that is done; the rest of a run is left out."""
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
        """The one of these runs with the best score; "" if none of them is done and has one."""
        metrics = {name: found["metric"] for name in names if (found := self.results(name))}
        signed = {
            name: metric["value"] * (1 if metric["higher_is_better"] else -1)
            for name, metric in metrics.items()
            if metric["value"] is not None
        }
        return max(signed, key=signed.get, default="")

    def chosen(self, search: Search) -> tuple[str, Mapping[str, Any]]:
        """The best candidate of a search, its name and settings; NotYet before all are done."""
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

    def settings(self, run: Run) -> dict[str, Any]:
        """All settings of a run, in terms of $DATA and $STUDY; NotYet if a search is missing."""
        settings = dict(run.settings)
        if run.start:
            name, _, step = run.start.partition("@")
            settings["init_from"] = f"$STUDY/{name}" + (f"/checkpoints/{step}" if step else "")
        if run.search:
            best, candidate = self.chosen(self.study.searches()[run.search])
            settings |= {**candidate, "schedule_from": f"$STUDY/{best}"}
        if run.branch:
            settings["checkpoint.accept_changes"] = True
        return settings

    def copies(self, run: Run) -> dict[str, str]:
        """What a branch takes from the run that it leaves, {from: to}, in terms of $STUDY."""
        if not run.branch:
            return {}
        encoder, _, step = run.branch.partition("@")
        # The checkpoint last: with it the run has begun.
        names = (_METRICS, f"{reading.FOLDER}/{step}")
        return {f"$STUDY/{encoder}/{name}": f"$STUDY/{run.name}/{name}" for name in names}

    def branch_off(self, run: Run) -> None:
        """Copies them, unless the run has begun; ConfigError if the checkpoint is not there."""
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

    def arguments(self, run: Run) -> list[str]:
        """Of `python -m colorize_jax.main`, in terms of $DATA and $STUDY."""
        flags = [f"--config.{name}={shown(value)}" for name, value in self.settings(run).items()]
        return [f"--config={run.recipe}", f"--workdir=$STUDY/{run.name}", *flags]

    def command(self, run: Run) -> list[str]:
        """The arguments with the folders in them; ConfigError if $DATA is not known."""
        arguments = self.arguments(run)
        if not self.data and any("$DATA" in argument for argument in arguments):
            raise ConfigError(f"{run.name} reads $DATA: name the folder of the data with --data=")
        return [self._placed(argument) for argument in arguments]

    def _placed(self, text: str) -> str:
        return text.replace("$DATA", self.data).replace("$STUDY", str(self.workdir))

    def check_same(self, run: Run) -> None:
        """ConfigError, by setting, if the folder of a run that is done holds another one."""
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


def shown(value) -> str:
    """The value of a setting as the command line takes it."""
    return repr(value).replace(" ", "") if isinstance(value, tuple) else str(value)
