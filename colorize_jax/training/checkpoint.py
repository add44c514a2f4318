"""Saving, resuming and loading for transfer: the only file that knows Orbax."""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
import sys
import time
from typing import Any, NamedTuple

from absl import logging
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from colorize_jax import json_files, paths
from colorize_jax.config import config_form, default_config
from colorize_jax.errors import CheckpointError, ConfigError, SaveError, why
from colorize_jax.models import registry
from colorize_jax.training import hosts, manifest
from colorize_jax.training.report import say
from colorize_jax.training.step import TrainState

Tree = Any
FOLDER = "checkpoints"
DAMAGED = "damaged"  # beside it: what could not be used, for whoever wants to look at it
_ENDING_SECONDS = 20.0  # what a save gets that was under way when the hosts of a run failed
_NONE, _ALL_DAMAGED = -1, -2
_CLEARING_SECONDS = 5.0

# Orbax logs a failed save with several stack traces; `Checkpoints` says it in a sentence.
logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)


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
        self.directory = pathlib.Path(workdir).absolute() / FOLDER
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
        for leftover in workdir.glob("*.json*.tmp"):  # of `whole_file`
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
            writing = ocp.save_checkpointables_async(
                self.directory / str(step), {"state": _tree(state), "note": note}
            )
        except Exception as error:
            self._failed(step, error)
            return
        self._pending = self._thread.submit(self._finish, step, writing)

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

    def _finish(self, step: int, writing) -> None:
        try:
            writing.result()
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
        return {int(folder.name) for folder in step_folders(self.directory)}

    def note(self, step: int, form: Any) -> dict:
        """What the loop wrote beside the state of a step; CheckpointError if it has not that form
        (see `json_files`)."""
        return _note(self.directory / str(step), form)

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


def write(folder: pathlib.Path, state: TrainState, note: dict) -> None:
    """One checkpoint outside of the run's sequence, written at once; replaces what is there."""
    ocp.save_checkpointables(folder, {"state": _tree(state), "note": note}, overwrite=True)
    if jax.process_index() == 0:
        manifest.write(folder)


def save_encoder(
    output: str | pathlib.Path,
    variables: Mapping[str, Tree],
    settings: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> pathlib.Path:
    """A checkpoint of weights from elsewhere, for `init_from`, `load_encoder` and `evaluate`.

    It is written to a draft beside and renamed once it is whole: whatever fails, `output` stays as
    it was.

    Args:
        output: becomes a workdir with one checkpoint, of step 0; absent or an empty folder.
        variables: {"params": {"encoder": ..., and "head" if there is one}, "batch_stats": ...}.
        settings: what differs from the defaults, {"model": {"name": "vgg16", ...}, "task": ...}.
        origin: where the weights come from, for the note.

    Returns:
        The step folder.

    Raises:
        CheckpointError: `output` exists and is no empty folder.
        SaveError: it cannot be written.
    """
    output = pathlib.Path(output).absolute()
    check_output(output)
    config = json.loads(json.dumps(default_config().to_dict()))
    for group, values in settings.items():
        config[group] |= values
    state = TrainState(
        step=np.zeros((), np.int32),
        params=jax.tree.map(np.asarray, variables["params"]),
        batch_stats=jax.tree.map(np.asarray, variables.get("batch_stats", {})),
        opt_state=(),
        nonfinite=np.zeros((), np.int32),
    )
    start = origin.get("file", "elsewhere")
    note = {"step": 0, "config": config, "origin": dict(origin), "start": start}
    needed = sum(array.nbytes for array in jax.tree.leaves((state.params, state.batch_stats)))
    draft = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(output.parent).free) < needed:
            raise OSError(f"it takes {needed >> 20} MiB, and {free >> 20} MiB are free there")
        draft = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        draft.mkdir()
        write(draft / FOLDER / "0", state, note)
        draft.replace(output)  # an empty folder gives way
    except Exception as error:  # whatever Orbax and file systems come up with
        raise SaveError(f"{output} could not be written: {why(error)}") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return output / FOLDER / "0"


def is_import(workdir: str | pathlib.Path) -> bool:
    """Whether `save_encoder` has made the checkpoint there; does not ask whether it is damaged."""
    for folder in step_folders(pathlib.Path(workdir).absolute() / FOLDER):
        with contextlib.suppress(Exception):  # Orbax has many kinds for what is not there
            return "origin" in _note(folder, object)
    return False


def check_output(output: pathlib.Path) -> None:
    """CheckpointError unless a checkpoint can be made there: it is absent or an empty folder."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise CheckpointError(f"{output} exists and is no folder: name another output")
    if output.is_dir() and any(output.iterdir()):
        raise CheckpointError(f"{output} exists and is not empty: name another output")


def read(folder: pathlib.Path, state: TrainState, sharding) -> TrainState:
    """The state of one checkpoint; see `Checkpoints.restore`."""
    wanted = _abstract(_tree(state), sharding)
    _check_shapes(folder, {kind: wanted[kind] for kind in ("params", "batch_stats")})
    try:
        saved = ocp.load_checkpointables(folder, {"state": wanted})
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} does not fit this config: {error}") from error
    nonfinite = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=sharding)()
    return TrainState(**saved["state"], nonfinite=nonfinite)


def _note(folder: pathlib.Path, form: Any) -> dict:
    try:
        note = ocp.load_checkpointables(folder, {"note": None})["note"]
    except Exception as error:  # Orbax has many kinds for what is not there
        raise CheckpointError(f"the note of {folder} cannot be read: {why(error)}") from error
    return json_files.checked(note, form, CheckpointError, f"the note of {folder}")


def _network_note() -> dict:
    """The form of a note that tells which network was saved."""
    config = config_form() | {"model": {"name": str}, "task": {"name": str}, "data": {}}
    return {"config": config, "start?": str, "names?": str, "classes?": [str]}


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


def _tree(state: TrainState) -> dict:
    """Plain names on disk, so that other programs can read a part of it."""
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }


def _abstract(tree: Tree, sharding) -> Tree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def load_encoder(path: str | pathlib.Path) -> tuple[Any, dict[str, Tree]]:
    """The trunk of a pretrained network, ready for `encoder.apply`.

    Says which checkpoint it takes where the path leaves a choice.

    Args:
        path: a run's workdir (its newest complete checkpoint), one step folder in its
            `checkpoints`, or what `colorize_jax.convert` wrote.

    Returns:
        encoder: Linen module; `encoder.apply(variables, gray, train=False)` gives
            {layer: activation} for gray from `colorize_jax.network_input`.
        variables: {"params": ..., "batch_stats": ...} of the encoder alone.

    Raises:
        CheckpointError: there is no complete checkpoint.
    """
    folder = find(path)
    if folder != pathlib.Path(path).absolute():
        say(f"loading the encoder of {folder}")
    encoder = saved_encoder(folder)
    shapes = registry.variable_shapes(encoder)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # A step without batch norm saved an empty tree, which has nothing to ask for.
    wanted = {kind: {"encoder": tree} for kind, tree in shapes.items()}
    state = read_variables(folder, wanted, sharding)
    return encoder, {kind: state[kind]["encoder"] for kind in wanted}


def saved_encoder(path: str | pathlib.Path):
    """The encoder of a checkpoint, without its weights; CheckpointError if there is none that is
    complete."""
    return registry.make_encoder(saved_note(find(path))["config"]["model"])


def saved_note(folder: pathlib.Path) -> dict:
    """What the run that wrote a checkpoint noted beside the state: its "config" and more.

    Raises:
        CheckpointError: the folder is no checkpoint of a network, is not complete, or is damaged.
    """
    if problem := manifest.problem(folder):
        raise CheckpointError(_unusable(folder, problem))
    try:
        note = _note(folder, _network_note())
        _ = registry.make_encoder(note["config"]["model"])
        return note
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{folder} holds no network of a run or of `colorize_jax.convert`: {error}"
        ) from error


def read_variables(folder: pathlib.Path, wanted: dict[str, Tree], sharding) -> dict[str, Tree]:
    """Some of "params" and "batch_stats" of a checkpoint.

    Args:
        folder: from `find`.
        wanted: shapes, nested as in the checkpoint; what is left out there is not read.
        sharding: of every array.

    Raises:
        CheckpointError: the checkpoint holds another network, or is damaged.
    """
    _check_shapes(folder, wanted)
    # An empty tree has nothing to ask for, and Orbax refuses to be asked.
    asked = {kind: _abstract(tree, sharding) for kind, tree in wanted.items() if tree}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        state = ocp.load_checkpointables(folder, {"state": asked})["state"]
    return {kind: state.get(kind, {}) for kind in wanted}


def _check_shapes(folder: pathlib.Path, wanted: dict[str, Tree]) -> None:
    """CheckpointError, by name, if a parameter is not there or has another shape."""
    saved = _saved_shapes(folder)
    for name, shape in _shapes(wanted).items():
        if saved.get(name) != shape:
            there = saved.get(name, "missing")
            raise CheckpointError(
                f"{folder} does not fit this config: {name} is {there} there and {shape} here"
            )


def groups_besides(path: str | pathlib.Path, used: str) -> list[str]:
    """Layers of the parameters in a checkpoint that are not in the group `used`, "group/layer"."""
    names = [name.split("/") for name in _saved_shapes(find(path)) if name.startswith("params/")]
    return sorted({f"{group}/{layer}" for _, group, layer, *_ in names if group != used})


def saved_arrays(folder: pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """{"params/encoder/conv1_1/kernel": its shape and type, ...} of a checkpoint from `find`."""
    metadata = ocp.checkpointables_metadata(folder).metadata["state"]
    tree = {kind: metadata[kind] for kind in ("params", "batch_stats")}
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in flat.items()}


def load_head(path: str | pathlib.Path) -> Tree:
    """The head of a trained network, {layer: {"kernel", "bias"}}.

    CheckpointError: there is no checkpoint, it is damaged, or it has no head.
    """
    folder = find(path)
    saved_note(folder)  # finds out whether it is damaged
    prefix = "params/head/"
    wanted = traverse_util.unflatten_dict(
        {
            name.removeprefix(prefix): array
            for name, array in saved_arrays(folder).items()
            if name.startswith(prefix)
        },
        sep="/",
    )
    if not wanted:
        raise CheckpointError(f"{folder} has no head, but an encoder alone")
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return read_variables(folder, {"params": {"head": wanted}}, sharding)["params"]["head"]


def _saved_shapes(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in saved_arrays(folder).items()}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


def step_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders there that are called as a step is, complete or not, from the newest one on."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
    steps = {int(name) for name in names if name.isdecimal()}
    return [folder / str(step) for step in sorted(steps, reverse=True) if str(step) in names]


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The checkpoint that a path stands for: itself, or the newest complete one of a workdir.

    Complete is one whose manifest lists all that is there, with the right checksums. Newer ones
    that are not are said.

    Raises:
        CheckpointError: there is none, or none that is complete.
        OSError: one cannot be read just now.
    """
    path = pathlib.Path(paths.expand(str(path))).absolute()
    for folder in (path / FOLDER, path) if not manifest.exists(path) else ():
        problems = {}
        for step in step_folders(folder):
            if not (problem := manifest.problem(step)):
                for other, what in problems.items():
                    say(f"the checkpoint {other} is not used: {what}")
                return step
            problems[step] = problem
        if problems:
            raise CheckpointError(
                "; ".join(_unusable(other, what) for other, what in problems.items())
            )
    if manifest.exists(path) or (path.is_dir() and path.name.isdecimal()):
        if problem := manifest.problem(path):
            others = [folder for folder in step_folders(path.parent) if manifest.exists(folder)]
            known = [folder.name for folder in others if folder != path]
            beside = f". Beside it are those of step {', '.join(known)}" if known else ""
            raise CheckpointError(_unusable(path, problem) + beside)
        return path
    raise CheckpointError(
        f"no checkpoint in {path}: give the workdir of a run or one of its checkpoints/<step>"
    )


def _unusable(folder: pathlib.Path, problem: str) -> str:
    """A sentence about a checkpoint that is not loaded, with what to do if it is an old one."""
    said = f"the checkpoint {folder} is not used: {problem}"
    if manifest.exists(folder) or not (folder / "state").exists():
        return said
    return (
        f"{said}. If it is an old one that you know to be whole: python -m colorize_jax.convert "
        f"seal {folder}"
    )


def seal(folder: str | pathlib.Path) -> int:
    """Writes the manifest of a checkpoint that has none, from before there were manifests.

    All of it is read first. What a killed save left is no checkpoint, and nothing can tell its
    missing numbers from zeros: whoever seals one vouches for it.

    Returns:
        The number of arrays in it.

    Raises:
        CheckpointError: it has a manifest, cannot be read, or holds numbers that are not finite.
        SaveError: the manifest cannot be written.
    """
    folder = pathlib.Path(folder).absolute()
    if manifest.exists(folder):
        raise CheckpointError(f"{folder} has its manifest: there is nothing to do")
    try:
        _note(folder, _network_note())
        arrays = jax.tree.leaves(ocp.load_checkpointables(folder, {"state": None})["state"])
    except Exception as error:  # Orbax has many kinds for what is not there
        raise CheckpointError(f"{folder} holds no checkpoint that can be read: {error}") from error
    for array in arrays:
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
            raise CheckpointError(f"{folder} holds numbers that are not finite")
    try:
        manifest.write(folder)
    except OSError as error:
        raise SaveError(f"{folder} could not be sealed: {why(error)}") from error
    return len(arrays)
