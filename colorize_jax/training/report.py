"""What a run shows: a progress bar or plain lines, metrics.jsonl, TensorBoard, pictures."""

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

# Of metrics.jsonl; what is not finite is null.
ROW = {"step": json_files.COUNT, str: (json_files.Number(float), None)}
FLUSH_SECONDS = 10.0  # between two writes of TensorBoard's file, each of which waits for the disk


class Report:
    """Writes on the first host only; use as a context manager. A disk that takes nothing is said
    once, and the rows are kept until it does.

    Args:
        workdir: where everything goes.
        step: that the run goes on from, 0 for a fresh start: rows that a killed run left behind are
            cut.
        evaluated: the last step whose evaluation the checkpoint knows of.
        steps: length of the run.
        evaluators: see `overall_and_classes`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        step: int,
        steps: int,
        evaluated: int = -1,
        evaluators: Collection[str] = (),
    ):
        self._evaluators = evaluators
        self._steps, self._bar, self._writes = steps, None, jax.process_index() == 0
        self._workdir = workdir
        if self._writes:
            (workdir / "images").mkdir(parents=True, exist_ok=True)
            cut_rows(workdir / "metrics.jsonl", step or -1, evaluated)
            self._rows = Rows(workdir / "metrics.jsonl")
            self._board = Board(workdir / "tensorboard", step)
        self._failing: set[str] = set()  # what could not be written the last time
        self._clock = Clock(step)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()
        if self._writes:
            self._trying(self._rows.flush)
            self._trying(self._board.close)

    def started(self, step: int) -> None:
        """The first step is done: from here on time is counted."""
        self._clock = Clock(step)
        if self._writes and self._bar is None and sys.stderr.isatty():
            self._bar = tqdm(total=self._steps, initial=step, unit="step", dynamic_ncols=True)

    def first(self, step: int, values: dict[str, float], seconds: float) -> None:
        """A line on the terminal alone after a process's first step, long before the first row."""
        say_once(
            f"step {step}/{self._steps}  loss {values['loss']:.4f}  first step: {seconds:.1f} s"
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row of metrics.jsonl, and the same numbers for TensorBoard."""
        if not self._writes:
            return
        if lost := newly_lost():
            values = values | {"log/lines_lost": lost}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        # JSON knows no NaN; TensorBoard draws none.
        self._trying(self._rows.add, {"step": step} | dict.fromkeys(values) | finite)
        scalars = [summary.scalar(name, value).value[0] for name, value in finite.items()]
        self._trying(self._board.add, step, Summary(value=scalars))

    def _trying(self, function, *arguments) -> None:
        try:
            function(*arguments)
            self._failing.discard(function.__qualname__)
        except OSError as error:
            if not self._failing:
                say_once(f"{self._workdir} cannot be written to: {why(error)}; the run goes on")
            self._failing.add(function.__qualname__)

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
            say_once(f"step {step}/{self._steps}  {numbers}  {left} left")

    def evaluation(
        self, step: int, values: dict[str, float], picture: np.ndarray | None = None
    ) -> None:
        """A row of scores, and the picture, uint8 [height, width, 3], as images/<step>.png."""
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


def _write_picture(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)  # of a workdir that was made anew
    path.write_bytes(content)


def overall_and_classes(
    scores: dict[str, float], evaluators: Collection[str] = ()
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scores over all classes, and {kind: {class: score}}.

    Args:
        scores: {"eval/...": number}.
        evaluators: whose scores are called after them: "eval/knn/top1" is then one over all classes
            and none of a class "top1".
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
    """Appends objects to a file, one a line, whole lines only."""

    def __init__(self, path: pathlib.Path):
        self._path, self._unwritten = path, b""

    def add(self, row: dict) -> None:
        """Writes the row, and those before it that could not be written; OSError if it cannot."""
        self._unwritten += json.dumps(row).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Writes what could not be written so far; OSError if it still cannot."""
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
    """TensorBoard's file. SummaryWriter has a thread that dies of a full disk and then blocks."""

    def __init__(self, folder: pathlib.Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = Event(wall_time=time.time(), step=step + 1 if step else 0)
        start.session_log.status = SessionLog.START  # what a killed run wrote after it is void
        self._writer.write_event(start)
        self._flushed = time.monotonic()

    def add(self, step: int, values: Summary) -> None:
        """Scalars or pictures of a step; OSError if they cannot be written."""
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=values))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


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


def cut_rows(path: pathlib.Path, step: int, evaluated: int) -> None:
    """Drops training after `step` and scores after `evaluated`, and sets aside what is no row."""

    def wanted(row: dict) -> bool:
        scores = any(name.startswith("eval/") for name in row)
        return row["step"] <= (min(step, evaluated) if scores else step)

    json_files.keep_good_rows(path, ROW, say_once, wanted)
