"""The checkpoints of a run: written in the background, found and checked when it goes on."""

from collections.abc import Callable, Sequence
from concurrent import futures
import errno
import fcntl
import os
import pathlib
import re
import shutil
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from colorize_jax.checkpoints import manifest, reading, writing
from colorize_jax.errors import CheckpointError, why
from colorize_jax.training import hosts
from colorize_jax.training.step import TrainState, split_variables

Tree = Any
DAMAGED = "damaged"  # beside it: what could not be used, for whoever wants to look at it
_ENDING_SECONDS = 20.0  # what a save gets that was under way when the hosts of a run failed
_NONE, _ALL_DAMAGED = -1, -2
_CLEARING_SECONDS = 5.0


class Verified(NamedTuple):
    """What `Checkpoints.verify` found: the step that is good, and what is wrong with newer ones."""

    newest: int
    problems: dict[pathlib.Path, str]


class Checkpoints:
    """The checkpoints of a run, written in the background; use as a context manager.

    Each holds the training state and a JSON note: config, position in the data, and what else the
    loop wants back. One is complete once it has its manifest of checksums. A save that fails is
    said, and the run goes on.

    Args:
        workdir: of the run; steps lie in `workdir/checkpoints/<step>`.
        keep: how many of the last ones stay.
        snapshots: steps that stay besides.
        say: is told what goes wrong.

    Attributes:
        failure: why the last save failed, or None.

    Raises:
        CheckpointError: another process is training in the workdir.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        keep: int,
        snapshots: Sequence[int] = (),
        say: Callable[[str], None] = print,
    ):
        self.directory = pathlib.Path(workdir).absolute() / reading.FOLDER
        self.failure: str | None = None
        self._keep, self._snapshots, self._say = keep, frozenset(snapshots), say
        self._first = jax.process_index() == 0
        self._pending: futures.Future | None = None
        self._thread = futures.ThreadPoolExecutor(1)

    def __enter__(self):
        hosts.first_does(self._open)
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._tell_unraisable
        return self

    def _open(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        workdir = self.directory.parent
        self._lock, self._home = _lock(workdir), os.stat(workdir)
        for folder in (self.directory, workdir):
            for leftover in folder.glob("*.orbax-checkpoint-tmp*"):  # of a killed save
                shutil.rmtree(leftover, ignore_errors=True)
        for leftover in workdir.glob("*.json*.tmp"):  # of `atomic_write_text`
            leftover.unlink(missing_ok=True)

    def _tell_unraisable(self, found):
        # Orbax closes its event loop when the first write fails, and the others complain of it.
        if str(found.exc_value) != "Event loop is closed":
            self._unraisable(found)

    def __exit__(self, kind, error, trace):
        if kind is not None and jax.process_count() > 1:
            # A save cannot end without a host that is gone; what needs none may.
            futures.wait([self._pending] if self._pending else [], timeout=_ENDING_SECONDS)
            self._thread.shutdown(wait=False)
        else:
            self.wait()
            self._thread.shutdown()
        sys.unraisablehook = self._unraisable
        if self._first:
            self._lock.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return max(self._complete(), default=None)

    def _complete(self) -> set[int]:
        return {s for s in self._steps() if manifest.exists(self.directory / str(s))}

    def verify(self) -> Verified:
        """Reads checkpoints, from the newest one on, until one is complete and undamaged.

        Raises:
            OSError: one cannot be read just now, which does not mean that it is damaged.
        """
        problems = {}
        for step in sorted(self._steps(), reverse=True) if self._first else ():
            folder = self.directory / str(step)
            if (problem := manifest.problem(folder)) is None:
                return Verified(step, problems)
            problems[folder] = problem
        return Verified(_NONE, problems)

    def usable(self, verified: Verified) -> int | None:
        """Step of the newest checkpoint that is complete and undamaged, or None.

        Newer ones are said and moved out of the way.

        Args:
            verified: what `verify` has just found.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged; they stay where they are.
        """
        step = hosts.first_says(
            hosts.together(lambda: self._settle(verified) if self._first else _NONE)
        )
        if step == _ALL_DAMAGED:
            raise CheckpointError(
                f"none of the checkpoints in {self.directory} can be used, and nothing was done "
                "about it. Repair or copy back what is missing, or start again in another --workdir"
            )
        return None if step == _NONE else step

    def _settle(self, verified: Verified) -> int:
        problems = verified.problems
        if verified.newest == _NONE and any(map(manifest.exists, problems)):
            for folder, problem in problems.items():
                self._say(f"the checkpoint of step {folder.name}: {problem}")
            return _ALL_DAMAGED
        for folder, problem in problems.items():
            self._say(
                f"the checkpoint of step {folder.name} is not used: {problem}; moved to "
                f"{_aside(folder)}"
            )
        self._forget_unfinished()
        return verified.newest

    def save(self, step: int, state: TrainState, note: dict) -> None:
        """Starts to write a checkpoint and returns; a step that exists already is left alone."""
        self.wait()
        alone = jax.process_count() == 1
        if step in (self._complete() if alone else self._steps()):
            self.failure = None if alone else self.failure
            return
        try:
            if self._first:
                self._check_home()
                self._clear(step)
            if alone:
                self._check_room(state)
            begun = writing.begin(self.directory / str(step), as_tree(state), note)
        except Exception as error:
            self._failed(step, error)
            return
        self._pending = self._thread.submit(self._finish, step, begun)

    def _check_home(self) -> None:
        """Notices that the workdir was moved, deleted or replaced under the run, and says so.

        A save then makes it anew rather than to lose what was trained; not where its disk is gone,
        since what is written to the empty mount point would be hidden once the disk is back.
        """
        workdir = self.directory.parent
        try:
            now = os.stat(workdir)
            if os.path.samestat(now, self._home):
                self.directory.mkdir(exist_ok=True)
                return
        except FileNotFoundError:
            above = next(folder for folder in workdir.parents if folder.exists())
            if os.stat(above).st_dev != self._home.st_dev:
                raise OSError(f"{workdir} is gone, and its disk with it") from None
        self._lock.close()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock, self._home = _lock(workdir), os.stat(workdir)
        self._say(
            f"{workdir} was moved, deleted or replaced while the run wrote to it: what it writes "
            "from now on is in a folder of that name, and lacks what was written before"
        )

    def _check_room(self, state: TrainState) -> None:
        """OSError if a checkpoint cannot fit: Orbax would fill the disk to the last byte first."""
        newest = self.latest
        if newest is None:  # of the first one only the parameters are sure not to be compressed
            needed = sum(x.nbytes for x in jax.tree.leaves(state.params)) // 2
        else:
            files = (self.directory / str(newest)).rglob("*")
            needed = sum(file.stat().st_size for file in files if file.is_file()) * 9 // 10
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"no space left on device: it takes about {_size(needed)}, {_size(free)} are free",
            )

    def _finish(self, step: int, begun) -> None:
        try:
            begun.result()
            if self._first:
                manifest.write(self.directory / str(step))
            self.failure = None
        except Exception as error:  # whatever Orbax and file systems come up with
            self._failed(step, error)
            return
        if self._first:
            self._forget_old()

    def _failed(self, step: int, error: Exception) -> None:
        self.failure = _reason(error)
        if self._first:
            self._clear(step)
        newest = self.latest
        kept = "there is no checkpoint yet" if newest is None else f"the newest is of step {newest}"
        self._say(f"step {step} could not be saved: {self.failure}; {kept}; the run goes on")

    def _clear(self, step: int) -> None:
        """Removes what an unfinished save of a step has left. Orbax's threads may still be adding
        to it: they get some seconds."""
        deadline = time.monotonic() + _CLEARING_SECONDS
        while True:
            folder = self.directory / str(step)
            left = [*self.directory.glob(f"{step}.orbax-checkpoint-tmp*")]
            if folder.exists() and not manifest.exists(folder):
                left.append(folder)
            for leftover in left:
                shutil.rmtree(leftover, ignore_errors=True)
            if not left or time.monotonic() > deadline:
                return
            time.sleep(0.05)

    def _forget_old(self) -> None:
        """Only once a newer one is complete."""
        steps = sorted(self._complete() - self._snapshots)
        for step in steps[: -self._keep]:
            self._remove(step, "old")
        self._forget_unfinished()

    def _forget_unfinished(self) -> None:
        """What a killed or failed save has left before the newest complete one."""
        complete = self._complete()
        for step in sorted(self._steps() - complete):
            if step < max(complete, default=0):
                self._remove(step, "unfinished")

    def _remove(self, step: int, what: str) -> None:
        try:
            shutil.rmtree(self.directory / str(step))
        except OSError as error:
            self._say(f"the {what} checkpoint of step {step} could not be removed: {why(error)}")

    def _steps(self) -> set[int]:
        return {int(folder.name) for folder in reading.step_folders(self.directory)}

    def note(self, step: int, form: Any) -> dict:
        """What the loop wrote beside the state of a step; CheckpointError if it has not that form
        (see `json_files`)."""
        return reading.note(self.directory / str(step), form)

    def restore(self, step: int, state: TrainState, sharding) -> TrainState:
        """The state of a step, laid out as `sharding` says.

        Args:
            step: as `usable` gave it.
            state: gives the shapes; arrays or their abstract values.
            sharding: of every array.

        Raises:
            CheckpointError: it holds another network.
        """
        return read(self.directory / str(step), state, sharding)

    def wait(self) -> None:
        """Until what was started is written, or has failed."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def _reason(error: Exception) -> str:
    """Of Orbax's long sentence the part that the operating system has said."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(found[1])) if found else why(error)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 10 << 20 else f"{count >> 10} KiB"


def _lock(workdir: pathlib.Path):
    """Two runs in one workdir would spoil each other; the kernel lifts it when a process dies."""
    file = (workdir / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckpointError(
            f"another process is training in {workdir}: wait for its end, or use another --workdir"
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


def _aside(folder: pathlib.Path) -> pathlib.Path:
    damaged = folder.parent.parent / DAMAGED
    damaged.mkdir(exist_ok=True)
    target, number = damaged / folder.name, 1
    while target.exists():
        target, number = damaged / f"{folder.name}.{number}", number + 1
    return folder.rename(target)


def as_tree(state: TrainState) -> dict[str, Tree]:
    """What of a state is written: plain names on disk, so that others can read a part of it."""
    return {"step": state.step, "opt_state": state.opt_state, **state.variables}


def write(folder: pathlib.Path, state: TrainState, note: dict) -> None:
    """One checkpoint outside of the run's sequence; see `writing.write`."""
    writing.write(folder, as_tree(state), note)


def read(folder: pathlib.Path, state: TrainState, sharding) -> TrainState:
    """The state of one checkpoint; see `Checkpoints.restore`."""
    saved = reading.read_state(folder, as_tree(state), sharding)
    nonfinite = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=sharding)()
    params, collections = split_variables({name: saved[name] for name in state.variables})
    return TrainState(saved["step"], params, collections, saved["opt_state"], nonfinite)
