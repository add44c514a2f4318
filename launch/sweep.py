r"""Runs every setting that a config's `sweep()` yields, here or as jobs, and compares the scores.

python launch/sweep.py --config=configs/vgg16_col.py --workdir=sweeps/rates \
    [--through=slurm --options="--nodes=2 --time=1-0"] [--dry-run] [-- --config.data.source=/photos]

A config file takes part with a generator of dictionaries such as {"optimizer.rate": 1e-3}; it may
take the variant as its argument. Every run has its own folder, WORKDIR/optimizer.rate=0.001; one
that has a results.json there is done and skipped. Everything behind -- goes to all runs.
WORKDIR/sweep.md holds the table that is printed at the end, with the best run below it.

local and tpu_vm train one after the other: a run that fails is passed over, one that is stopped
(exit code 75) stops the sweep; the same command goes on. slurm and kubernetes submit all at once
and leave submitted.txt in each folder, so that the same command later prints scores and submits
nothing twice; delete it to submit that run again. The folder must be visible from here for that,
and for the table.
"""

import argparse
from collections.abc import Mapping, Sequence
import hashlib
import inspect
import pathlib
import re
import shlex
import sys

# This finds the package in the checkout even if it is not installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from colorize_jax.config import recipe
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.paths import argument
from colorize_jax.studies import execution
from colorize_jax.studies.child import STOPPED, execute
from colorize_jax.studies.plan import Run, Study
from colorize_jax.studies.workplace import Workplace, shown
from colorize_jax.training.results import markdown_table

LAUNCH = pathlib.Path(__file__).resolve().parent
WAITS = {"local": True, "tpu_vm": True, "slurm": False, "kubernetes": False}


def load(config_flag: str) -> Study:
    """The runs of FILE or FILE:VARIANT; ConfigError if the file or a setting is invalid."""
    path, _, variant = config_flag.partition(":")
    module = recipe.load_file(path, "sweep")  # `sweep` yields the settings to compare.
    # A sweep may depend on the variant.
    takes_variant = bool(inspect.signature(module.sweep).parameters)
    with recipe.explained(module.__file__):
        sweep = [dict(settings) for settings in module.sweep(*([variant] if takes_variant else []))]
    runs = {}
    for settings in sweep:
        name = run_name(settings)
        if name in runs:
            raise ConfigError(f"sweep() of {path} yields {name} twice")
        config = recipe.read_config(config_flag)
        try:
            recipe.change(config, [f"{field}={shown(value)}" for field, value in settings.items()])
        except ConfigError as error:
            raise ConfigError(f"sweep() of {path} yields {name}: {error}") from None
        runs[name] = Run(name, config_flag, settings)
    if not runs:
        raise ConfigError(f"sweep() of {path} yields nothing")
    return Study(f"Sweep of {path}", "", list(runs.values()), sections=())


def run_name(settings: Mapping) -> str:
    """The name of a run's folder: readable, stable, and short enough for any file system."""
    pairs = (f"{field}={shown(value)}" for field, value in settings.items())
    name = re.sub(r"[^\w.=+,()-]", "_", ",".join(pairs)) or "unchanged"
    if len(name) > 150:
        name = f"{name[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def job_name(workdir: pathlib.Path) -> str:
    """A unique name that schedulers accept: at most 40 characters of a-z, 0-9 and -."""
    digest = hashlib.sha256(str(workdir).encode()).hexdigest()[:6]
    readable = re.sub("[^a-z0-9]+", "-", f"{workdir.parent.name}-{workdir.name}".lower())
    return f"c-{readable.strip('-')[:30].strip('-')}-{digest}"


def launcher(run: Sequence[str], job: str, asked: argparse.Namespace) -> list[str]:
    """The launcher's command line for a run with these arguments and this job name."""
    own = shlex.split(asked.options)
    if asked.through == "slurm":
        own.append(f"--job-name={job}")
    elif asked.through == "kubernetes":
        own.append(f"--name={job}")
    if asked.dry_run:
        own.append("--dry-run")
    config, workdir, *settings = run
    script = str(LAUNCH / f"{asked.through}.sh")
    return [script, *own, "--", config, workdir, *asked.more, *settings]


def go(place: Workplace, asked: argparse.Namespace) -> dict[str, str]:
    """Runs or submits the runs that are not done; returns the state of every run."""
    marks = {run.name: place.workdir / run.name / "submitted.txt" for run in place.study.runs()}

    def start(name: str, arguments: Sequence[str]) -> int:
        words = launcher(arguments, job_name(place.workdir / name), asked)
        code = execute(words)
        if not (WAITS[asked.through] or asked.dry_run or code):
            marks[name].parent.mkdir(parents=True, exist_ok=True)
            marks[name].write_text(shlex.join(words) + "\n")
            submitted[name] = "submitted"
        return code

    submitted = {
        name: f"submitted before; delete {mark} to submit it again"
        for name, mark in marks.items()
        if not WAITS[asked.through] and mark.exists() and place.results(name) is None
    }
    runs = [run for run in place.study.runs() if run.name not in submitted]
    # Settings are not checked, because the arguments after -- of a run that is done are unknown.
    return execution.go(place, runs, say, start, check=False) | submitted


def say(line: str) -> None:
    """Prints a message to stderr, apart from the table."""
    print(f"sweep: {line}", file=sys.stderr, flush=True)


def table(place: Workplace, states: Mapping[str, str]) -> str:
    """A Markdown table with a row for each run and a column for each score, and the best run."""
    found = {run.name: place.results(run.name) or {} for run in place.study.runs()}
    columns = list(dict.fromkeys(name for row in found.values() for name in row if _is_score(name)))
    lines = []
    for name, row in found.items():
        values = (row.get(column, "") for column in columns)
        numbers = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
        lines.append([name, states.get(name, "not started"), *numbers])
    text = markdown_table("|".join(["run", "state", *columns]), lines) + "\n"
    if best := place.best(found):
        metric = found[best]["metric"]
        text += f"\nbest: {best}, {metric['name']} {metric['value']:.6g}\n"
    return text


def _is_score(name: str) -> bool:
    return name == "step" or (name.startswith("eval/") and name.count("/") == 1)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments; `more` holds those after --."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, type=argument, help="FILE or FILE:VARIANT")
    parser.add_argument("--workdir", required=True, type=argument, help="folder of the sweep")
    parser.add_argument("--through", choices=WAITS, default="local", help="launch/THROUGH.sh")
    parser.add_argument("--options", default="", help="for launch/THROUGH.sh, as one word")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    argv = list(argv)
    split = argv.index("--") if "--" in argv else len(argv)
    asked = parser.parse_args(argv[:split])
    asked.more = argv[split + 1 :]
    return asked


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    asked = parse(argv)
    try:
        # $DATA in a setting stays as it is: the run replaces it.
        place = Workplace(load(asked.config), pathlib.Path(asked.workdir), data="$DATA")
        states = go(place, asked)
        if not asked.dry_run:
            place.workdir.mkdir(parents=True, exist_ok=True)
            (place.workdir / "sweep.md").write_text(table(place, states))
            print(table(place, states), end="")
    except (ColorizeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = [name for name, state in states.items() if state.startswith("failed")]
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    if execution.WAS_STOPPED in states.values():
        return STOPPED
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
