"""Finds the schedule of a run: at plateaus of its score the rate drops and at last the run ends."""

import dataclasses
import json
import math
import pathlib
from typing import Literal

from colorize_jax import json_files
from colorize_jax.errors import ConfigError
from colorize_jax.files import atomic_write_text
from colorize_jax.json_files import COUNT, POSITIVE

FACTOR = 0.1  # The rate is multiplied by it at every drop.
FILE = "schedule.json"  # It lies in the workdir of the run that found the schedule.
_FORM = {
    "found": {"steps": POSITIVE, "drops": [POSITIVE], "photos": POSITIVE},
    "full": {"photos": POSITIVE},
    "batch_size": POSITIVE,
    "windows": [{"step": COUNT, "score": (float, None)}],
    "ended": bool,
}
# The form of `EarlyStopping` in a checkpoint's note.
STATE = {
    "minimum": COUNT,
    "drops": COUNT,
    "higher": bool,
    "windows": [[COUNT, (float, None)]],
    "dropped": [COUNT],
    "stopped": (COUNT, None),
}


@dataclasses.dataclass
class EarlyStopping:
    """Decides after every window of steps whether to go on, drop the rate or stop.

    A window is a plateau if it does not score better than the one before, or if its score is not
    finite. Each of the first `drops` plateaus drops the rate; the next one ends the run. The paper,
    and the release's disabled code, have two drops.

    Attributes:
        minimum: no window before this step counts as a plateau.
        drops: how often the rate drops.
        higher: whether a higher score is better; False for a loss.
        windows: (step, score) at the end of every window so far; None is a score that is not
            finite.
        dropped: the steps at which the rate dropped.
        stopped: the step at which the run ended, or None.
    """

    minimum: int = 0
    drops: int = 2
    higher: bool = True
    windows: list[tuple[int, float | None]] = dataclasses.field(default_factory=list)
    dropped: list[int] = dataclasses.field(default_factory=list)
    stopped: int | None = None

    def update(self, step: int, score: float) -> Literal["go_on", "drop", "stop"]:
        """What to do after the window that ends with `step`. Call it once for each, in order.

        Raises:
            ValueError: the window was given before, or the search has ended.
        """
        last, before = self.windows[-1] if self.windows else (-1, None)
        if step <= last or self.stopped is not None:
            raise ValueError(f"window {step} after {last}, stopped at {self.stopped}")
        now = float(score) if math.isfinite(score) else None
        plateau = bool(self.windows) and step >= self.minimum and not self._better(now, before)
        self.windows.append((step, now))
        if not plateau:
            return "go_on"
        if len(self.dropped) < self.drops:
            self.dropped.append(step)
            return "drop"
        self.stopped = step
        return "stop"

    def _better(self, now: float | None, before: float | None) -> bool:
        if now is None or before is None:
            return now is not None
        return now > before if self.higher else now < before

    def to_json(self) -> dict:
        """All attributes as plain JSON, for the note of a checkpoint."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, state: dict) -> "EarlyStopping":
        """The object whose `to_json` returned `state`."""
        state = {name: state[name] for name in STATE}
        return cls(**state | {"windows": [tuple(window) for window in state["windows"]]})


@dataclasses.dataclass(frozen=True)
class ScheduleResult:
    """The schedule that a search has found.

    Attributes:
        steps: the length of the run.
        drops: the steps from which on the rate is `FACTOR` times the rate before.
        photos: the number of photos that the search trained on, a part of the training split.
        full_photos: the number of photos in the whole training split.
        batch_size: the batch size of the search.
        windows: (step, score) of the search, as an explanation; None is a score that is not finite.
        ended: False if the search reached its longest allowed length before the last plateau.
    """

    steps: int
    drops: tuple[int, ...]
    photos: int
    full_photos: int
    batch_size: int
    windows: list[tuple[int, float | None]] = dataclasses.field(default_factory=list)
    ended: bool = True

    def scaled(self, photos: int, batch_size: int) -> tuple[int, tuple[int, ...]]:
        """(steps, drops) for the same epochs over this many photos in batches of this size."""

        def scale(step: int) -> int:
            return round(step * photos * self.batch_size / (self.photos * batch_size))

        return max(scale(self.steps), 1), tuple(scale(step) for step in self.drops)


def write_schedule(path: str | pathlib.Path, found: ScheduleResult) -> None:
    """Writes a schedule.json atomically: as found, and scaled to the whole training split."""
    path = pathlib.Path(path)
    steps, drops = found.scaled(found.full_photos, found.batch_size)
    content = {
        "batch_size": found.batch_size,
        "found": {"photos": found.photos, "steps": found.steps, "drops": found.drops},
        "factor": FACTOR,
        "ended": found.ended,
        "full": {"photos": found.full_photos, "steps": steps, "drops": drops},
        "windows": [{"step": step, "score": score} for step, score in found.windows],
    }
    atomic_write_text(path, json.dumps(content, indent=2) + "\n")


def read_schedule(path: str | pathlib.Path) -> ScheduleResult:
    """Reads the schedule that `write_schedule` wrote.

    Args:
        path: the path of that file, or of the workdir that it lies in.

    Raises:
        ConfigError: the file is missing or damaged, or the search is not finished.
    """
    path = pathlib.Path(path)
    file = path / FILE if path.is_dir() else path
    advice = "write it again with a search, or name another one"
    try:
        content = json_files.read(file, _FORM, ConfigError, advice)
    except FileNotFoundError:
        if (file.parent / "config.json").exists():
            raise ConfigError(
                f"the search in {file.parent} is not finished, for it has no {FILE}: run its "
                "command again until it ends, with config.early_stopping.mode='search'"
            ) from None
        raise ConfigError(
            f"there is no {file}: give the workdir of a run with "
            "config.early_stopping.mode='search', or its schedule.json"
        ) from None
    found = ScheduleResult(
        steps=content["found"]["steps"],
        drops=tuple(content["found"]["drops"]),
        photos=content["found"]["photos"],
        full_photos=content["full"]["photos"],
        batch_size=content["batch_size"],
        windows=[(window["step"], window["score"]) for window in content["windows"]],
        ended=content["ended"],
    )
    if list(found.drops) != sorted(found.drops) or found.steps < max(found.drops, default=0):
        raise ConfigError(
            f'{file} is damaged (the drops of its "found" must come in order, before the end): '
            f"{advice}"
        )
    return found
