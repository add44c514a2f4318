"""A run of early stopping: when it looks, what it judges by, and the schedule it leaves."""

from collections.abc import Callable
import pathlib

import jax

from colorize_jax.data import pipeline
from colorize_jax.errors import ConfigError
from colorize_jax.json_files import COUNT
from colorize_jax.training import early_stopping
from colorize_jax.training.early_stopping import EarlyStopping, Found

LOOK_EVERY = 10  # steps between two batches of "accuracy", as in the release

# What a checkpoint's note holds of it.
STATE = {"stopping": early_stopping.STATE, "looks": [[COUNT, float, float]], "looked?": COUNT}


class Search:
    """The protocol of `early_stopping.EarlyStopping`, fed by a run.

    Args:
        config: of the run.
        task: gives the score.
        runner: of the task.
        held_out: the part of the training split that is scored.
        host: {"host": ..., "hosts": ...} of this process.

    Raises:
        ConfigError: the task knows no accuracy, or there is no such metric.
    """

    def __init__(self, config, task, runner, held_out, host):
        self._config, self._settings, self._task = config, config.early_stopping, task
        self._runner, self._held_out, self._host = runner, held_out, host
        self._looks: dict = {}  # step -> (hits, predictions), the later ones on devices
        self._looked = 0  # the last step that was looked at, or had no need to be
        self._batches = None
        metric = self._settings.metric
        if not config.data.labels:
            raise ConfigError(
                "config.early_stopping is for photos with labels: a part of their training split "
                "is held out and scored"
            )
        if metric not in ("score", "accuracy") or (metric == "accuracy" and task.accuracy is None):
            raise ConfigError(
                f"config.early_stopping.metric is {metric!r}; {config.task.name} knows 'score'"
                + ("" if task.accuracy is None else ", 'accuracy'")
            )
        if metric == "accuracy" and self._settings.window < LOOK_EVERY:
            raise ConfigError(
                f"config.early_stopping.window={self._settings.window} is shorter than the "
                f"{LOOK_EVERY} steps between two batches of the metric 'accuracy'"
            )
        self._stopping = EarlyStopping(
            minimum=self._settings.minimum, higher=metric == "accuracy" or task.score.higher
        )

    @property
    def drops(self) -> tuple[int, ...]:
        """Steps at which the rate was dropped so far."""
        return tuple(self._stopping.dropped)

    @property
    def ended(self) -> bool:
        """Whether the third plateau was seen."""
        return self._stopping.stopped is not None

    def look(self, step: int, variables, bad, wait_for: Callable) -> None:
        """After every step: one more batch for the metric "accuracy", if it is time.

        A step that was looked at is not looked at again, so that a run may ask once more when it
        goes on.

        Args:
            step: that was done.
            variables: after it.
            bad: is told which photos cannot be read.
            wait_for: calls a function that may take long, and gives what that does.
        """
        if self._settings.metric != "accuracy" or step % LOOK_EVERY or step <= self._looked:
            return
        index = step // LOOK_EVERY
        if self._batches is None:
            batches = pipeline.training_batches(
                self._held_out, self._config, start=index, stop=2**40, workers=0, **self._host
            )
            self._batches = bad.note(batches, self._held_out)
        batch = wait_for(lambda: next(self._batches))
        self._looks[step] = self._runner.accuracy(index, batch, variables)
        self._looked = step

    def forget(self, step: int) -> None:
        """The steps after this one were none, and come again."""
        self._looks = {at: look for at, look in self._looks.items() if at <= step}
        self._looked = min(self._looked, step)
        self.close()

    def judge(self, step: int, scores: dict[str, float]) -> str:
        """At the end of a window: "go_on", "drop" or "stop"."""
        if self._settings.metric == "accuracy":
            looks = self._read().values()
            score = sum(hits / max(count, 1) for hits, count in looks) / len(looks)
            self._looks = {}
        else:
            score = scores[f"eval/{self._task.score.name}"]
        return self._stopping.update(step, score)

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

    def _read(self) -> dict[int, tuple[float, float]]:
        found = jax.device_get(self._looks)
        self._looks = {step: (float(hits), float(count)) for step, (hits, count) in found.items()}
        return self._looks

    def to_json(self) -> dict:
        """What a resumed run needs."""
        return {
            "stopping": self._stopping.to_json(),
            "looks": [[step, *look] for step, look in self._read().items()],
            "looked": self._looked,
        }

    def restore(self, saved: dict, step: int) -> None:
        """The opposite of `to_json`; `step` is that of the checkpoint, for older ones."""
        self._looked = saved.get("looked", step)
        self._stopping = EarlyStopping.from_json(saved["stopping"])
        self._looks = {step: (hits, count) for step, hits, count in saved["looks"]}

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
            full_photos=photos + len(self._held_out),
            batch_size=self._config.data.batch_size,
            windows=self._stopping.windows,
            ended=self.ended,
        )
        early_stopping.write_schedule(workdir / early_stopping.FILE, found)

    def close(self) -> None:
        """Ends the reading of held-out crops."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
