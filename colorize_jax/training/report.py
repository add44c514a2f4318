"""What a run shows: a progress bar or plain lines, metrics.jsonl, TensorBoard, pictures."""

from collections.abc import Sequence
import json
import pathlib
import sys
import time

import jax
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tqdm import tqdm


class Report:
    """Writes on the first host only; use as a context manager.

    Args:
        workdir: where everything goes.
        step: that the run goes on from, 0 for a fresh start: rows that a killed run left behind are
            cut.
        steps: length of the run.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int, steps: int):
        self._steps, self._bar, self._writes = steps, None, jax.process_index() == 0
        self._workdir = workdir
        if self._writes:
            (workdir / "images").mkdir(parents=True, exist_ok=True)
            cut_rows(workdir / "metrics.jsonl", step or -1)
            self._rows = (workdir / "metrics.jsonl").open("a")
            self._board = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=step + 1 if step else 0
            )
        self._clock = Clock(step)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()
        if self._writes:
            self._rows.close()
            self._board.close()

    def started(self, step: int, compile_seconds: float) -> None:
        """The first step is done: from here on time is counted, without the compilation."""
        self._clock = Clock(step)
        self.say(f"compiled in {compile_seconds:.1f} s")
        if self._writes and sys.stderr.isatty():
            self._bar = tqdm(total=self._steps, initial=step, unit="step", dynamic_ncols=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row of metrics.jsonl, and the same numbers for TensorBoard."""
        if not self._writes:
            return
        self._rows.write(json.dumps({"step": step} | values) + "\n")
        self._rows.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def progress(self, step: int, values: dict[str, float]) -> None:
        """A row of training metrics, on the bar or as a line with the time left."""
        self.write(step, values)
        numbers = f"loss {values['train/loss']:.4f}"
        if "train/images_per_second" in values:
            numbers += f"  {values['train/images_per_second']:.3g} images/s"
            numbers += f"  waiting for data {values['train/data_wait']:.0%}"
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(numbers)
        else:
            left = duration(self._clock.left(step, self._steps))
            self.say(f"step {step}/{self._steps}  {numbers}  {left} left")

    def evaluation(self, step: int, values: dict[str, float], strips: Sequence[np.ndarray]) -> None:
        """A row of scores, and images/<step>.png: one strip below the other."""
        self.write(step, values)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.say(f"step {step}/{self._steps}  {shown}")
        if self._writes and len(strips):
            grid = picture_grid(np.stack(strips))
            Image.fromarray(grid).save(self._workdir / "images" / f"{step}.png")
            self._board.add_image("pictures", grid, step, dataformats="HWC")
            self._board.flush()

    def say(self, text: str) -> None:
        """A line that does not tear the bar."""
        if self._writes:
            tqdm.write(text, file=sys.stderr)


class Clock:
    """Time left, from the steps since the clock was made."""

    def __init__(self, step: int):
        self._step, self._start = step, time.monotonic()

    def left(self, step: int, steps: int) -> float:
        """Seconds from `step` to `steps` at the pace so far; NaN while there is none."""
        done = step - self._step
        elapsed = time.monotonic() - self._start
        return (steps - step) * elapsed / done if done > 0 else float("nan")


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss; "?" if not known."""
    if seconds != seconds:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def picture_grid(strips: np.ndarray, gap: int = 2) -> np.ndarray:
    """uint8 strips [rows, height, width, 3], one below the other with a white gap."""
    framed = np.pad(strips, ((0, 0), (0, gap), (0, 0), (0, 0)), constant_values=255)
    return framed.reshape(-1, *framed.shape[2:])[:-gap]


def cut_rows(path: pathlib.Path, step: int) -> None:
    """Drops the rows after `step`, and a last row that was not written to its end."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(kept))
    draft.replace(path)
