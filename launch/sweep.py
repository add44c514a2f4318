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
from collections.abc import Sequence
import dataclasses
import hashlib
import inspect
import pathlib
import re
import shlex
import sys

# The checkout, also where the package is not installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from colorize_jax import json_files
from colorize_jax.config import recipe
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.paths import argument
from colorize_jax.studies.child import STOPPED, execute

LAUNCH = pathlib.Path(__file__).resolve().parent
# What a table is made of; the scores are the fields besides.
_RESULTS = {"metric?": {"name": str, "value": (float, None), "higher_is_better": bool}}
WAITS = {"local": True, "tpu_vm": True, "slurm": False, "kubernetes": False}


@dataclasses.dataclass
class Run:
    """One setting of the sweep and what became of it."""

    name: str
    workdir: pathlib.Path
    flags: tuple[str, ...]
    state: str = ""

    @property
    def job(self) -> str:
        """A name that schedulers accept: at most 40 of a-z, 0-9 and -, and different for each."""
        digest = hashlib.sha256(str(self.workdir).encode()).hexdigest()[:6]
        readable = re.sub("[^a-z0-9]+", "-", f"{self.workdir.parent.name}-{self.name}".lower())
        return f"c-{readable.strip('-')[:30].strip('-')}-{digest}"

    def scores(self) -> dict | None:
        """What results.json holds, None if there is none."""
        try:
            return json_files.read(
                self.workdir / "results.json", _RESULTS, ColorizeError,
                "the run writes it again once it is deleted",
            )  # fmt: skip
        except FileNotFoundError:
            return None


def load_runs(config_flag: str, workdir: pathlib.Path) -> list[Run]:
    """The runs of FILE or FILE:VARIANT; ConfigError for a file or a setting that is wrong."""
    path, _, variant = config_flag.partition(":")
    module = recipe.load_file(path, "sweep")  # that yields the settings to compare
    config = recipe.read_config(config_flag)
    runs = {}
    # A sweep may depend on the variant.
    takes_variant = bool(inspect.signature(module.sweep).parameters)
    with recipe.explained(path):
        settings = list(module.sweep(*([variant] if takes_variant else [])))
        settings = [dict(overrides) for overrides in settings]
    for overrides in settings:
        check_fields(config, overrides, path)
        name = run_name(overrides)
        if name in runs:
            raise ConfigError(f"sweep() of {path} yields {name} twice")
        flags = tuple(f"--config.{field}={shown(value)}" for field, value in overrides.items())
        runs[name] = Run(name, workdir / name, flags)
    if not runs:
        raise ConfigError(f"sweep() of {path} yields nothing")
    return list(runs.values())


def check_fields(config, overrides: dict, path: str) -> None:
    """ConfigError, by name, for an override of a field that the config does not have."""
    for field in overrides:
        value = config
        for part in field.split("."):
            if not hasattr(value, "keys") or part not in value:
                raise ConfigError(f"sweep() of {path} sets {field}, which the config does not have")
            value = value[part]
        if hasattr(value, "keys"):
            raise ConfigError(f"sweep() of {path} sets {field}, which is a group of fields")


def shown(value) -> str:
    """The value as the command line takes it, the same in every run of Python; no spaces."""
    return repr(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def run_name(overrides: dict) -> str:
    """A folder's name: readable, stable, and short enough for any file system."""
    pairs = (f"{field}={shown(value)}" for field, value in overrides.items())
    name = re.sub(r"[^\w.=+,()-]", "_", ",".join(pairs)) or "unchanged"
    if len(name) > 150:
        name = f"{name[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def command(run: Run, arguments: argparse.Namespace) -> list[str]:
    """The launcher's command line for one run."""
    own = shlex.split(arguments.options)
    if arguments.through == "slurm":
        own.append(f"--job-name={run.job}")
    elif arguments.through == "kubernetes":
        own.append(f"--name={run.job}")
    if arguments.dry_run:
        own.append("--dry-run")
    train = [f"--config={arguments.config}", f"--workdir={run.workdir}"]
    return [
        str(LAUNCH / f"{arguments.through}.sh"), *own, "--", *train, *arguments.more, *run.flags
    ]  # fmt: skip


def go(runs: Sequence[Run], arguments: argparse.Namespace) -> int:
    """Runs or submits what is not done; the exit code of the sweep."""
    code = 0
    for run in runs:
        mark = run.workdir / "submitted.txt"
        if run.scores() is not None:
            run.state = "done"
            continue
        if mark.exists() and not WAITS[arguments.through]:
            run.state = f"submitted before; delete {mark} to submit it again"
            continue
        words = command(run, arguments)
        if arguments.dry_run:
            execute(words)
            continue
        print(f"sweep: {run.name}", file=sys.stderr, flush=True)
        ended = execute(words)
        if ended == STOPPED:
            run.state, code = "stopped; the same command goes on", STOPPED
            break
        if ended:
            run.state, code = f"failed with exit code {ended}", 1
        elif WAITS[arguments.through]:
            run.state = "done"
        else:
            run.state = "submitted"
            run.workdir.mkdir(parents=True, exist_ok=True)
            mark.write_text(shlex.join(words) + "\n")
    return code


def table(runs: Sequence[Run]) -> str:
    """Markdown: a row for each run, a column for each score that any of them has."""
    scores = [run.scores() or {} for run in runs]
    columns = list(dict.fromkeys(name for row in scores for name in row if _is_score(name)))
    lines = [["run", "state", *columns], ["---"] * 2 + ["---:"] * len(columns)]
    for run, row in zip(runs, scores, strict=True):
        values = (row.get(name, "") for name in columns)
        numbers = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
        lines.append([run.name, run.state or "not started", *numbers])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + best(runs)


def _is_score(name: str) -> bool:
    return name == "step" or (name.startswith("eval/") and name.count("/") == 1)


def best(runs: Sequence[Run]) -> str:
    """A line that names the run with the best score, by the scores' own idea of better."""
    metrics = {run.name: (run.scores() or {}).get("metric") for run in runs}
    judged = {name: m for name, m in metrics.items() if m and m["value"] is not None}
    if not judged:
        return ""
    higher = next(iter(judged.values()))["higher_is_better"]
    name = (max if higher else min)(judged, key=lambda run: judged[run]["value"])
    return f"\nbest: {name}, {judged[name]['name']} {judged[name]['value']:.6g}\n"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; `more` are those behind --."""
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
    arguments = parser.parse_args(argv[:split])
    arguments.more = argv[split + 1 :]
    return arguments


def main(argv: Sequence[str]) -> int:
    """The whole command; the exit code."""
    arguments = parse(argv)
    workdir = pathlib.Path(arguments.workdir)
    try:
        runs = load_runs(arguments.config, workdir)
        code = go(runs, arguments)
        if not arguments.dry_run:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / "sweep.md").write_text(table(runs))
            print(table(runs), end="")
    except (ColorizeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = [run.name for run in runs if run.state.startswith("failed")]
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
