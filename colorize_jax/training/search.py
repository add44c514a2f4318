"""A run of early stopping: what it judges by, and the schedule it leaves."""

import pathlib

from colorize_jax.errors import ConfigError
from colorize_jax.log import say_once
from colorize_jax.tasks.task import Score
from colorize_jax.training import early_stopping
from colorize_jax.training.early_stopping import EarlyStopping, Found


def begin(config, score: Score) -> EarlyStopping | None:
    """The state of a search that begins, for the progress of the run; None: it does not search.

    Raises:
        ConfigError: there is no such mode, or the photos have no labels.
    """
    mode = config.early_stopping.mode
    if mode == "off":
        return None
    if mode != "search":
        raise ConfigError(
            f"config.early_stopping.mode is {mode!r}; known: 'off', 'search', 'crossval'"
        )
    if not config.data.labels:
        raise ConfigError(
            "config.early_stopping is for photos with labels: a part of their training split "
            "is held out and scored"
        )
    return EarlyStopping(minimum=config.early_stopping.minimum, higher=score.higher)


class Search:
    """The protocol of `early_stopping.EarlyStopping`, fed by a run.

    Args:
        config: of the run.
        score: what its task is judged by.
        held_out: photos of the part of the training split that is scored.
        stopping: the state of the search, which `judge` changes.
    """

    def __init__(self, config, score: Score, held_out: int, stopping: EarlyStopping):
        self._score, self._held_out, self._stopping = score, held_out, stopping
        self._batch_size = config.data.batch_size

    @property
    def drops(self) -> tuple[int, ...]:
        """Steps at which the rate was dropped so far."""
        return tuple(self._stopping.dropped)

    @property
    def ended(self) -> int | None:
        """The step at which the third plateau ended the run, if it was seen."""
        return self._stopping.stopped

    def judge(self, step: int, scores: dict[str, float]) -> str:
        """At the end of a window: "go_on", "drop" or "stop"."""
        return self._stopping.update(step, scores[f"eval/{self._score.name}"])

    def described(self) -> str:
        """The last judgement in words."""
        step, _ = self._stopping.windows[-1]
        scores = [
            "not a number" if score is None else f"{score:.4f}"
            for _, score in self._stopping.windows[-2:]
        ]
        before = f", {scores[0]} before" if len(scores) > 1 else ""
        if self.ended is not None:
            what = "the third plateau ends the run"
        elif self.drops and self.drops[-1] == step:
            what = f"no better: drop {len(self.drops)} of {self._stopping.drops} of the rate"
        else:
            what = "goes on"
        return f"early stopping: {scores[-1]}{before}: {what}"

    def write(self, workdir: pathlib.Path, step: int, photos: int) -> None:
        """schedule.json, for `config.schedule_from`.

        Args:
            workdir: of the run.
            step: the run's last one.
            photos: that it trained on.
        """
        if self.ended is None:
            say_once(
                f"the search was ended by its longest allowed length, {step} steps, before the "
                "last plateau: more of config.steps may find a better schedule"
            )
        found = Found(
            steps=step,
            drops=self.drops,
            photos=photos,
            full_photos=photos + self._held_out,
            batch_size=self._batch_size,
            windows=self._stopping.windows,
            ended=self.ended is not None,
        )
        early_stopping.write_schedule(workdir / early_stopping.FILE, found)
