"""A run of early stopping: what it judges by, and the schedule it leaves."""

import pathlib

from colorize_jax.errors import ConfigError
from colorize_jax.tasks.task import Score
from colorize_jax.training import early_stopping
from colorize_jax.training.early_stopping import EarlyStopping, Found

# What a checkpoint's note holds of it.
STATE = {"stopping": early_stopping.STATE}


class Search:
    """The protocol of `early_stopping.EarlyStopping`, fed by a run.

    Args:
        config: of the run.
        score: what its task is judged by.
        held_out: photos of the part of the training split that is scored.

    Raises:
        ConfigError: the photos have no labels.
    """

    def __init__(self, config, score: Score, held_out: int):
        self._score, self._held_out = score, held_out
        self._batch_size = config.data.batch_size
        if not config.data.labels:
            raise ConfigError(
                "config.early_stopping is for photos with labels: a part of their training split "
                "is held out and scored"
            )
        self._stopping = EarlyStopping(minimum=config.early_stopping.minimum, higher=score.higher)

    @property
    def drops(self) -> tuple[int, ...]:
        """Steps at which the rate was dropped so far."""
        return tuple(self._stopping.dropped)

    @property
    def ended(self) -> bool:
        """Whether the third plateau was seen."""
        return self._stopping.stopped is not None

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
        if self.ended:
            what = "the third plateau ends the run"
        elif self.drops and self.drops[-1] == step:
            what = f"no better: drop {len(self.drops)} of {self._stopping.drops} of the rate"
        else:
            what = "goes on"
        return f"early stopping: {scores[-1]}{before}: {what}"

    def to_json(self) -> dict:
        """What a resumed run needs."""
        return {"stopping": self._stopping.to_json()}

    def restore(self, saved: dict) -> None:
        """The opposite of `to_json`."""
        self._stopping = EarlyStopping.from_json(saved["stopping"])

    def write(self, workdir: pathlib.Path, step: int, photos: int) -> None:
        """schedule.json, for `config.schedule_from`.

        Args:
            workdir: of the run.
            step: the run's last one.
            photos: that it trained on.
        """
        found = Found(
            steps=step,
            drops=self.drops,
            photos=photos,
            full_photos=photos + self._held_out,
            batch_size=self._batch_size,
            windows=self._stopping.windows,
            ended=self.ended,
        )
        early_stopping.write_schedule(workdir / early_stopping.FILE, found)
