"""Finding the schedule of a run: when its score no longer rises the rate drops, then it ends."""

import dataclasses
import json
import math
import pathlib
from typing import Literal

from colorize_jax import json_files
from colorize_jax.errors import ConfigError
from colorize_jax.files import atomic_write_text
from colorize_jax.json_files import COUNT, POSITIVE

FACTOR = 0.1  # of the rate at every drop
FILE = "schedule.json"  # in the workdir of the run that found it
_FORM = {
    "found": {"steps": POSITIVE, "drops": [POSITIVE], "photos": POSITIVE},
    "full": {"photos": POSITIVE},
    "batch_size": POSITIVE,
    "windows": [{"step": COUNT, "score": (float, None)}],
    "ended": bool,
}
# What a checkpoint's note holds of `EarlyStopping`.
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
    """Decides after every window of steps what becomes of the run.

    A window that scores no better than the one before is a plateau, and so is a score that is not
    finite. Each of the first `drops` plateaus drops the rate, the next one ends the run (the paper,
    and the release's disabled code: two drops).

    Attributes:
        minimum: steps before which no window counts as a plateau.
        drops: how often the rate drops.
        higher: whether a higher score is better; False for a loss.
        windows: (step, score) at the end of every window so far; None: not finite.
        dropped: steps at which the rate dropped.
        stopped: step at which the run ended, or None.
    """

    minimum: int = 0
    drops: int = 2
    higher: bool = True
    windows: list[tuple[int, float | None]] = dataclasses.field(default_factory=list)
    dropped: list[int] = dataclasses.field(default_factory=list)
    stopped: int | None = None

    def update(self, step: int, score: float) -> Literal["go_on", "drop", "stop"]:
        """What to do after the window that ends with `step`; each window is given once, in order.

        Raises:
            ValueError: the window was there already, or the search had ended.
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
        """All of it as plain JSON, for the note of a checkpoint."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, state: dict) -> "EarlyStopping":
        """As it was when `to_json` gave `state`."""
        state = {name: state[name] for name in STATE}
        return cls(**state | {"windows": [tuple(window) for window in state["windows"]]})


@dataclasses.dataclass(frozen=True)
class ScheduleResult:
    """The schedule that a search has found.

    Attributes:
        steps: length of the run.
        drops: steps from which on the rate is `FACTOR` of what it was.
        photos: of the part of the training split that the search trained on.
        full_photos: of the whole training split.
        batch_size: of the search.
        windows: (step, score) of the search, for whoever wants to see why; None: not finite.
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
        """(steps, drops) of as many epochs over so many photos in batches of that size."""

        def scale(step: int) -> int:
            return round(step * photos * self.batch_size / (self.photos * batch_size))

        return max(scale(self.steps), 1), tuple(scale(step) for step in self.drops)


def write_schedule(path: str | pathlib.Path, found: ScheduleResult) -> None:
    """Writes a schedule.json in one go: as found, and scaled to the whole training split."""
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
    """What `write_schedule` wrote.

    Args:
        path: of that file, or of the workdir that it lies in.

    Raises:
        ConfigError: there is none, the search has not got so far, or it is damaged.
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
