"""Runs what a study has not run yet."""

from collections.abc import Callable, Sequence
import fnmatch
import sys

from colorize_jax.errors import Interrupted
from colorize_jax.studies.child import STOPPED, execute
from colorize_jax.studies.plan import Run
from colorize_jax.studies.workplace import NotYet, Workplace
from colorize_jax.training.report import duration


def go(
    place: Workplace,
    only: Sequence[str] = (),
    say: Callable[[str], None] = print,
    run_command: Callable[[Sequence[str]], int] = execute,
) -> list[str]:
    """Every run of the study that is not done, in order.

    Args:
        place: the study.
        only: names of runs, or patterns of them as a shell has them (`seg_*`); (): all.
        say: is told what is run.
        run_command: gives the exit code of a command.

    Returns:
        What failed, or waits for what failed: one line for each. It does not keep the others.

    Raises:
        Interrupted: a run was stopped; the same command goes on.
        ConfigError: a run that is done had other settings.
    """
    runs = [
        run
        for run in place.study.runs()
        if not only or any(fnmatch.fnmatchcase(run.name, pattern) for pattern in only)
    ]
    problems = []
    for number, run in enumerate(runs, 1):
        try:
            if place.results(run.name) is not None:
                place.check_same(run)
                continue
            _check_start(place, run)
            command = place.command(run)
            place.branch_off(run)
        except NotYet as reason:
            problems.append(f"{run.name} waits: {reason}")
            continue
        say(f"run {number} of {len(runs)}: {run.name}{_expected(place, run)}")
        code = run_command([sys.executable, "-m", "colorize_jax.main", *command])
        if code == STOPPED:
            raise Interrupted(f"{run.name} was stopped; the same command goes on")
        if code:
            problems.append(f"{run.name} failed with exit code {code}")
    return problems


def _check_start(place: Workplace, run: Run) -> None:
    for origin in (run.start, run.branch):
        name = origin.partition("@")[0]
        if name and place.results(name) is None:
            raise NotYet(f"{name} is not done")


def _expected(place: Workplace, run: Run) -> str:
    """How long the same run with another seed took."""
    stem = run.name.rpartition("-")[0]
    for other in place.study.runs():
        if stem and other.name.rpartition("-")[0] == stem and (found := place.results(other.name)):
            return f" ({other.name} took {duration(found['seconds'])})"
    return ""
