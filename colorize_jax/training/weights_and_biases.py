"""Sends the report of a run to Weights & Biases too, if `config.log.wandb` names a project."""

from collections.abc import Mapping
import contextlib
import json
import pathlib
import secrets
from typing import Any

import numpy as np

from colorize_jax import json_files
from colorize_jax.errors import ConfigError, DataError, why
from colorize_jax.files import atomic_write_text
from colorize_jax.log import say_once

FILE = "wandb.json"  # It holds the identity of the run there, which a resumed run goes on with.


def check(config) -> None:
    """ConfigError if the package is needed and not installed."""
    if config.log.wandb:
        _package(config.log.wandb)


def _package(project: str) -> Any:
    try:
        import wandb
    except ImportError:
        wandb = None
    # The package makes a folder "wandb" where it runs, which Python would import in its place.
    if not hasattr(wandb, "init"):
        raise ConfigError(
            f"config.log.wandb={project!r} needs the package of Weights & Biases: "
            "pip install 'colorize_jax[wandb]', or leave the setting empty"
        )
    return wandb


def start(config, workdir: pathlib.Path) -> "Tracker | None":
    """Starts the run in the project, or goes on with it; None if there is no project.

    Raises:
        ConfigError: the package is not installed.
    """
    if not config.log.wandb:
        return None
    wandb = _package(config.log.wandb)
    tracker = Tracker(wandb)
    tracker.attempt(lambda: tracker.begin(config, workdir))
    return tracker


class Tracker:
    """A run in a project of Weights & Biases. Problems there are printed once and end no run.

    Rows have their step as a number named "step". Steps that a killed run had sent, and that are
    repeated after it resumes, appear twice.

    Args:
        wandb: the package.
    """

    def __init__(self, wandb: Any):
        self._wandb, self._run, self._failed = wandb, None, False

    def begin(self, config, workdir: pathlib.Path) -> None:
        """Starts the run with the identity in the workdir, or with a new one."""
        self._run = self._wandb.init(
            project=config.log.wandb,
            id=_identity(workdir / FILE),
            resume="allow",
            name=workdir.name,
            dir=str(workdir),
            config=config.to_dict(),
        )
        self._run.define_metric("*", step_metric="step")

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Sends finite numbers of a step."""
        self.attempt(lambda: self._run.log({"step": step} | dict(values)))

    def picture(self, step: int, picture: np.ndarray) -> None:
        """Sends a picture of a step, uint8 [height, width, 3]."""
        self.attempt(lambda: self._run.log({"step": step, "pictures": self._wandb.Image(picture)}))

    def finish(self, failed: bool) -> None:
        """Ends this process's part of the run, after all is sent."""
        if self._run is not None:
            self.attempt(lambda: self._run.finish(exit_code=int(failed)))

    def attempt(self, function) -> None:
        """Calls the function; after the first failure it says why, and calls nothing any more."""
        if self._failed:
            return
        try:
            function()
        except Exception as error:  # Whatever the package raises, the run is worth more.
            self._failed = True
            text = why(error) if isinstance(error, OSError) else f"{error}"
            say_once(
                f"Weights & Biases: {text.splitlines()[0] if text else type(error).__name__}; the "
                "run goes on without it, and metrics.jsonl has all rows"
            )


def _identity(path: pathlib.Path) -> str:
    """The run's identity, which the first process of a run draws and writes."""
    with contextlib.suppress(FileNotFoundError, DataError):
        return json_files.read(path, {"id": str}, DataError, "")["id"]
    found = secrets.token_hex(4)
    atomic_write_text(path, json.dumps({"id": found}) + "\n")
    return found
