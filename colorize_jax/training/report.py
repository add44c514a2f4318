"""Reports a run: a progress bar or plain lines, metrics.jsonl, TensorBoard, pictures, a tracker."""

from collections.abc import Collection
import json
import math
import pathlib
import sys
import time

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from colorize_jax import json_files
from colorize_jax.errors import why
from colorize_jax.log import newly_lost, say_once
from colorize_jax.training.pictures import png
from colorize_jax.training.weights_and_biases import Tracker

# The form of a row of metrics.jsonl. A number that is not finite is null.
ROW = {"step": json_files.COUNT, str: (json_files.Number(float), None)}
FLUSH_SECONDS = 10.0  # Writes of TensorBoard's file are this rare, because each waits for the disk.


class Report:
    """Writes the report, on the first host only. Use it as a context manager.

    If the disk cannot be written to, that is printed once, and rows are kept until it can.

    Args:
        workdir: the folder for all files.
        step: the step that the run resumes from, 0 for a new run. Later rows, which a killed run
            wrote, are cut off.
        evaluated: the last step whose evaluation is in the checkpoint.
        steps: the length of the run.
        evaluators: see `overall_and_classes`.
        tracker: gets the same rows and pictures; None: there is none.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        step: int,
        steps: int,
        evaluated: int = -1,
        evaluators: Collection[str] = (),
        tracker: Tracker | None = None,
    ):
        self._evaluators, self._tracker = evaluators, tracker
        self._steps, self._bar, self._writes = steps, None, jax.process_index() == 0
        self._workdir = workdir
        if self._writes:
            (workdir / "images").mkdir(parents=True, exist_ok=True)
            cut_rows(workdir / "metrics.jsonl", step or -1, evaluated)
            self._rows = Rows(workdir / "metrics.jsonl")
            self._board = Board(workdir / "tensorboard", step)
        self._failing: set[str] = set()  # the outputs whose last write failed
        self._clock = Clock(step)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()
        if self._writes:
            self._trying(self._rows.flush)
            self._trying(self._board.close)
        if self._tracker is not None:
            self._tracker.finish(failed=exception[0] is not None)

    def started(self, step: int) -> None:
        """Starts the clock, after the first step."""
        self._clock = Clock(step)
        if self._writes and self._bar is None and sys.stderr.isatty():
            self._bar = tqdm(total=self._steps, initial=step, unit="step", dynamic_ncols=True)

    def first(self, step: int, values: dict[str, float], seconds: float) -> None:
        """Prints a line after a process's first step, long before the first row."""
        say_once(
            f"step {step}/{self._steps}  loss {values['loss']:.4f}  first step: {seconds:.1f} s"
        )

    def stepped(self, step: int) -> None:
        """Moves the bar, which draws itself at most ten times a second."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one row of metrics.jsonl, and the same numbers for TensorBoard."""
        if not self._writes:
            return
        if lost := newly_lost():
            values = values | {"log/lines_lost": lost}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        # JSON has no NaN, and TensorBoard does not draw it.
        self._trying(self._rows.add, {"step": step} | dict.fromkeys(values) | finite)
        scalars = [summary.scalar(name, value).value[0] for name, value in finite.items()]
        self._trying(self._board.add, step, Summary(value=scalars))
        if self._tracker is not None:
            self._tracker.row(step, finite)

    def _trying(self, function, *arguments) -> None:
        try:
            function(*arguments)
            self._failing.discard(function.__qualname__)
        except OSError as error:
            if not self._failing:
                say_once(f"{self._workdir} cannot be written to: {why(error)}; the run goes on")
            self._failing.add(function.__qualname__)

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Shows a row of training metrics on the bar, or prints a line with the time left."""
        self.write(step, values)
        numbers = f"loss {values['train/loss']:.4f}"
        if "train/images_per_second" in values:
            numbers += f"  {values['train/images_per_second']:.3g} images/s"
            numbers += f"  waiting for data {values['train/data_wait']:.0%}"
        if self._bar is not None:
            self._bar.set_postfix_str(numbers, refresh=False)
            self.stepped(step)
            self._bar.refresh()
        else:
            left = duration(self._clock.left(step, self._steps))
            say_once(f"step {step}/{self._steps}  {numbers}  {left} left")

    def evaluation(
        self, step: int, values: dict[str, float], picture: np.ndarray | None = None
    ) -> None:
        """Writes a row of scores, and a picture, uint8 [height, width, 3], as images/<step>.png."""
        self.write(step, values)
        overall, _ = overall_and_classes(values, self._evaluators)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in overall.items())
        say_once(f"step {step}/{self._steps}  {shown}")
        if self._writes and picture is not None:
            image = Summary.Image(
                height=picture.shape[0], width=picture.shape[1], colorspace=3,
                encoded_image_string=png(picture),
            )  # fmt: skip
            path = self._workdir / "images" / f"{step}.png"
            self._trying(_write_picture, path, image.encoded_image_string)
            value = Summary.Value(tag="pictures", image=image)
            self._trying(self._board.add, step, Summary(value=[value]))
            if self._tracker is not None:
                self._tracker.picture(step, picture)


def _write_picture(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)  # The workdir may have been deleted and made anew.
    path.write_bytes(content)


def overall_and_classes(
    scores: dict[str, float], evaluators: Collection[str] = ()
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Splits scores into those over all classes and {kind: {class: score}}.

    Args:
        scores: {"eval/...": number}.
        evaluators: the names of the other evaluators. With "knn" in it, "eval/knn/top1" is a score
            over all classes, and not the score of a class "top1".
    """
    overall, classes = {}, {}
    for name, value in scores.items():
        kind, _, label = name.removeprefix("eval/").partition("/")
        if kind in evaluators:
            inner, _, label = label.partition("/")
            kind = f"{kind}/{inner}"
        if label:
            classes.setdefault(kind, {})[label] = value
        else:
            overall[name] = value
    return overall, classes


class Rows:
    """Appends JSON objects to a file, one per line, and only whole lines."""

    def __init__(self, path: pathlib.Path):
        self._path, self._unwritten = path, b""

    def add(self, row: dict) -> None:
        """Writes the row and earlier rows that could not be written; OSError if that fails."""
        self._unwritten += json.dumps(row).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Writes the rows that could not be written so far; OSError if that fails again."""
        if not self._unwritten:
            return
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                written = file.write(self._unwritten)
                if written != len(self._unwritten):
                    raise OSError(None, "no space left for a whole line")
            except OSError:
                file.truncate(end)
                raise
        self._unwritten = b""


class Board:
    """TensorBoard's file. It is our own, because SummaryWriter blocks once the disk was full."""

    def __init__(self, folder: pathlib.Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = Event(wall_time=time.time(), step=step + 1 if step else 0)
        # TensorBoard then drops later steps, which a killed run wrote.
        start.session_log.status = SessionLog.START
        self._writer.write_event(start)
        self._flushed = time.monotonic()

    def add(self, step: int, values: Summary) -> None:
        """Writes scalars or pictures of a step; OSError if that fails."""
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=values))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class Clock:
    """Estimates the time left from the steps since the clock was made."""

    def __init__(self, step: int):
        self._step, self._start = step, time.monotonic()

    def left(self, step: int, steps: int) -> float:
        """The seconds from `step` to `steps` at the pace so far; NaN if it is not known yet."""
        done = step - self._step
        elapsed = time.monotonic() - self._start
        return (steps - step) * elapsed / done if done > 0 else float("nan")


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss; "?" if unknown."""
    if seconds != seconds:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def cut_rows(path: pathlib.Path, step: int, evaluated: int) -> None:
    """Removes rows of training after `step` and of scores after `evaluated`; moves aside the rest.

    A file with lines that are no rows is kept beside the new one.
    """

    def wanted(row: dict) -> bool:
        scores = any(name.startswith("eval/") for name in row)
        return row["step"] <= (min(step, evaluated) if scores else step)

    json_files.keep_good_rows(path, ROW, say_once, wanted)
