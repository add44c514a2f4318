r"""Runs the runs of a study that are not done yet, and writes its page: tables, plots, commands.

python -m colorize_jax.study small --workdir=/ckpt/small --data=/data

Every run has its own folder in --workdir and is a run of `python -m colorize_jax.main`: after a
kill the same command resumes. A run with a results.json is done. --only=col runs only that run, and
--only='seg_*' those whose names match; --only=nothing (which matches none) runs none and writes the
page from the finished runs. --records=FOLDER copies the files that the page is made of to another
folder, without checkpoints: with it as --workdir and --only=nothing the same page is written. The
exit code is 75 if a run was stopped, and 1 if a run has failed.
"""

import argparse
import pathlib
import sys

from colorize_jax import command_line, help
from colorize_jax.config.recipe import explained, load_file
from colorize_jax.errors import ColorizeError, ConfigError, printable
from colorize_jax.files import atomic_write_text
from colorize_jax.paths import argument
from colorize_jax.studies import execution, page, plan, plots
from colorize_jax.studies.child import STOPPED
from colorize_jax.studies.workplace import Workplace


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, runs the study and writes its page."""
    parser = help.Parser("python -m colorize_jax.study", description=__doc__, studies=True)
    parser.add_argument("study", help="name of one, or Python file with get_study()")
    parser.add_argument("--workdir", required=True, type=argument, help="folder of the study")
    parser.add_argument("--data", default="", type=argument, help="folder that $DATA stands for")
    parser.add_argument("--only", action="append", default=[], help="names, or patterns of them")
    parser.add_argument("--page", default="", type=argument, help="Markdown file; plots lie beside "
                        "it. Default: results.md in the workdir")  # fmt: skip
    parser.add_argument(
        "--records", default="", type=argument, help="folder for all but the checkpoints"
    )
    asked = parser.parse_args(arguments)
    try:
        module = load_file(asked.study, "get_study")
        with explained(asked.study):
            study = module.get_study()
        plan.check(study)
        place = Workplace(study, pathlib.Path(asked.workdir).absolute(), asked.data)
        place.workdir.mkdir(parents=True, exist_ok=True)
        path = pathlib.Path(asked.page or place.workdir / "results.md")
        try:
            states = execution.go(place, execution.pick(study, asked.only), _say)
        finally:
            _write(place, path, asked)
    except (ColorizeError, OSError) as error:
        sys.exit(f"error: {error}")
    problems = [f"{name} {state}" for name, state in states.items() if state != execution.DONE]
    if execution.WAS_STOPPED in states.values():
        print(problems[-1], file=sys.stderr)
        sys.exit(STOPPED)
    if problems:
        sys.exit("error: " + "\n".join(problems))


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _write(place: Workplace, path: pathlib.Path, asked: argparse.Namespace) -> None:
    command = f"python -m colorize_jax.study {asked.study} --workdir=$STUDY --data=$DATA"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, page.page(place, command))
    for section in place.study.sections:
        drawn = isinstance(section, plan.Plot | plan.Sensitivity)
        if drawn and page.started(place, section):
            try:
                plots.draw(place, section, path.parent / section.file)
            except ConfigError as error:
                _say(str(error))
    _say(f"the page is {path}")
    if asked.records:
        place.copy_records(pathlib.Path(asked.records))
        _say(f"the records are in {asked.records}")


if __name__ == "__main__":
    command_line.interruptible(main)
