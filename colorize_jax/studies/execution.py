"""Runs the runs of a study that are not done yet."""

from collections.abc import Callable, Sequence
import fnmatch
import sys

from colorize_jax.studies.child import STOPPED, execute
from colorize_jax.studies.plan import Frozen, Run, Study
from colorize_jax.studies.workplace import NotYet, Workplace
from colorize_jax.training.report import duration

DONE = "done"
WAS_STOPPED = "was stopped; the same command goes on"


def pick(study: Study, only: Sequence[str] = ()) -> list[Run | Frozen]:
    """The runs with these names, which may be shell patterns (`seg_*`); () means all."""
    return [
        run
        for run in study.runs()
        if not only or any(fnmatch.fnmatchcase(run.name, pattern) for pattern in only)
    ]


def go(
    place: Workplace,
    runs: Sequence[Run | Frozen],
    say: Callable[[str], None] = print,
    start: Callable[[str, Sequence[str]], int] | None = None,
    check: bool = True,
) -> dict[str, str]:
    """Runs the runs that are not done, in order. If one fails, only runs that need it are skipped.

    Args:
        place: the study in its folder.
        runs: some of its runs.
        say: prints which run starts.
        start: runs one run, given its name and the arguments of its program, and returns the exit
            code. None runs it on this machine.
        check: whether to check that runs that are done had the settings of the study.

    Returns:
        The state of every run, as the end of a sentence that begins with its name: `DONE`, "failed
        with exit code 1", "waits: col is not done". After a run that `WAS_STOPPED` the others are
        left out.

    Raises:
        ConfigError: a run that is done had other settings.
    """
    states = {}
    for number, run in enumerate(runs, 1):
        try:
            if place.results(run.name) is not None:
                if check:
                    place.check_same(run)
                states[run.name] = DONE
                continue
            _check_start(place, run)
            arguments = place.command(run)
            place.branch_off(run)
        except NotYet as reason:
            states[run.name] = f"waits: {reason}"
            continue
        say(f"run {number} of {len(runs)}: {run.name}{_expected(place, run)}")
        if start is None:
            code = execute([sys.executable, "-m", run.program, *arguments])
        else:
            code = start(run.name, arguments)
        if code == STOPPED:
            states[run.name] = WAS_STOPPED
            break
        states[run.name] = f"failed with exit code {code}" if code else DONE
    return states


def _check_start(place: Workplace, run: Run | Frozen) -> None:
    for origin in (run.start, run.branch):
        name = origin.partition("@")[0]
        if name and place.results(name) is None:
            raise NotYet(f"{name} is not done")


def _expected(place: Workplace, run: Run | Frozen) -> str:
    """The time that the same run took with another seed, as text."""
    stem = run.name.rpartition("-")[0]
    for other in place.study.runs():
        if stem and other.name.rpartition("-")[0] == stem and (found := place.results(other.name)):
            return f" ({other.name} took {duration(found['seconds'])})"
    return ""
