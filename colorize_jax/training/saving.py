"""The checkpoints of a run: written in the background; found and verified when it resumes."""

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
DAMAGED = "damaged"  # Unusable checkpoints are moved into this folder beside the checkpoints.
_ENDING_SECONDS = 20.0  # A pending save gets this long to end after the hosts of a run failed.
_NONE, _ALL_DAMAGED = -1, -2
_CLEARING_SECONDS = 5.0


class Verified(NamedTuple):
    """What `Checkpoints.verify` found: the newest good step, and the problems of newer ones."""

    newest: int
    problems: dict[pathlib.Path, str]


class Checkpoints:
    """The checkpoints of a run, written in the background. Use it as a context manager.

    Each holds the training state and a JSON note: the config, the position in the data, and the
    rest of the loop's progress. A checkpoint is complete once it has its manifest of checksums. If
    a save fails, that is printed and the run continues.

    Args:
        workdir: the workdir of the run; a step is in `workdir/checkpoints/<step>`.
        keep: how many of the newest checkpoints are kept.
        snapshots: the steps that are kept as well.
        say: prints problems.

    Attributes:
        failure: the reason why the last save failed, or None.

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
            for leftover in folder.glob("*.orbax-checkpoint-tmp*"):  # A killed save left it.
                shutil.rmtree(leftover, ignore_errors=True)
        for leftover in workdir.glob("*.json*.tmp"):  # A killed `atomic_write_text` left it.
            leftover.unlink(missing_ok=True)

    def _tell_unraisable(self, found):
        # When a write fails Orbax closes its event loop, and all other writes then raise this.
        if str(found.exc_value) != "Event loop is closed":
            self._unraisable(found)

    def __exit__(self, kind, error, trace):
        if kind is not None and jax.process_count() > 1:
            # A save that needs a lost host never ends; one that needs no other host does.
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
        """The step of the newest complete checkpoint, or None."""
        return max(self._complete(), default=None)

    def _complete(self) -> set[int]:
        return {s for s in self._steps() if manifest.exists(self.directory / str(s))}

    def verify(self) -> Verified:
        """Reads checkpoints, newest first, until one is complete and undamaged.

        Raises:
            OSError: a checkpoint cannot be read at the moment, but may be undamaged.
        """
        problems = {}
        for step in sorted(self._steps(), reverse=True) if self._first else ():
            folder = self.directory / str(step)
            if (problem := manifest.problem(folder)) is None:
                return Verified(step, problems)
            problems[folder] = problem
        return Verified(_NONE, problems)

    def usable(self, verified: Verified) -> int | None:
        """The step of the newest complete and undamaged checkpoint, or None.

        Newer, damaged checkpoints are reported and moved aside.

        Args:
            verified: what `verify` has just returned.

        Raises:
            CheckpointError: all checkpoints are damaged; they are not moved.
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
        self._remove_unfinished()
        return verified.newest

    def save(self, step: int, state: TrainState, note: dict) -> None:
        """Starts to write a checkpoint and returns; an existing step is not written again."""
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
        """Reports it if the workdir was moved, deleted or replaced during the run.

        The save then makes the workdir anew, so that the training is not lost. If the disk itself
        is gone it raises instead: files in the empty mount point would be hidden when the disk is
        back.
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
        """OSError if a checkpoint does not fit on the disk. Orbax would first fill the disk."""
        newest = self.latest
        if newest is None:  # Of a first checkpoint only the parameters surely do not compress.
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
        except Exception as error:  # Orbax and file systems raise many kinds of errors.
            self._failed(step, error)
            return
        if self._first:
            self._remove_old()

    def _failed(self, step: int, error: Exception) -> None:
        self.failure = _reason(error)
        if self._first:
            self._clear(step)
        newest = self.latest
        kept = "there is no checkpoint yet" if newest is None else f"the newest is of step {newest}"
        self._say(f"step {step} could not be saved: {self.failure}; {kept}; the run goes on")

    def _clear(self, step: int) -> None:
        """Removes the files of an unfinished save of a step.

        Orbax's threads may still write to it, so they get some seconds to end.
        """
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

    def _remove_old(self) -> None:
        """Removes old checkpoints; call it only after a newer one is complete."""
        steps = sorted(self._complete() - self._snapshots)
        for step in steps[: -self._keep]:
            self._remove(step, "old")
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Removes unfinished checkpoints that are older than the newest complete one."""
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
        """The note of a step; CheckpointError if it does not have that form (see `json_files`)."""
        return reading.note(self.directory / str(step), form)

    def restore(self, step: int, state: TrainState, sharding) -> TrainState:
        """Reads the state of a step.

        Args:
            step: the step that `usable` returned.
            state: a state of arrays or abstract arrays, which gives the shapes.
            sharding: the sharding of every array, or a state of shardings.

        Raises:
            CheckpointError: the checkpoint holds another network.
        """
        return read(self.directory / str(step), state, sharding)

    def wait(self) -> None:
        """Waits until a started save is written or has failed."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def _reason(error: Exception) -> str:
    """The operating system's part of Orbax's long message."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(found[1])) if found else why(error)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 10 << 20 else f"{count >> 10} KiB"


def _lock(workdir: pathlib.Path):
    """Locks the workdir against a second run; the kernel unlocks it when the process dies."""
    file = (workdir / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckpointError(
            f"another process is training in {workdir}: wait for its end, or use another --workdir"
        ) from None
    except OSError:  # Some file systems have no locks.
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
    """The tree of a state that is written, with plain names that other programs can read."""
    return {"step": state.step, "opt_state": state.opt_state, **state.variables}


def write(folder: pathlib.Path, state: TrainState, note: dict) -> None:
    """Writes one checkpoint outside of the run's sequence; see `writing.write`."""
    writing.write(folder, as_tree(state), note)


def read(folder: pathlib.Path, state: TrainState, sharding) -> TrainState:
    """Reads the state of one checkpoint; see `Checkpoints.restore`."""
    several = isinstance(sharding, TrainState)
    saved = reading.read_state(folder, as_tree(state), as_tree(sharding) if several else sharding)
    same = sharding.nonfinite if several else sharding
    nonfinite = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=same)()
    params, collections = split_variables({name: saved[name] for name in state.variables})
    return TrainState(saved["step"], params, collections, saved["opt_state"], nonfinite)
