"""Saving, resuming and loading for transfer: the only file that knows Orbax."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from colorize_jax.config import default_config
from colorize_jax.errors import CheckpointError
from colorize_jax.models import registry
from colorize_jax.training.step import TrainState

Tree = Any
FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of a run, written in the background; use as a context manager.

    Each holds the training state and a JSON note: config, position in the data, and what else the
    loop wants back.

    Args:
        workdir: of the run; steps lie in `workdir/checkpoints/<step>`.
        keep: how many of the last ones stay.
        snapshots: steps that stay besides.
    """

    def __init__(self, workdir: str | pathlib.Path, *, keep: int, snapshots: Sequence[int] = ()):
        self.directory = pathlib.Path(workdir).absolute() / FOLDER
        policies = ocp.training.preservation_policies
        preserve = [policies.LatestN(keep)]
        if snapshots:
            preserve.append(policies.CustomSteps(list(snapshots)))
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.AnyPreservationPolicy(preserve),
            cleanup_tmp_directories=True,
        )
        self._pending = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: TrainState, note: dict) -> None:
        """Starts to write a checkpoint and returns; a step that exists already is left alone."""
        self.wait()
        if self.latest != step:
            self._pending = self._checkpointer.save_checkpointables_async(
                step, {"state": _tree(state), "note": note}, force=True
            )

    def restore(self, state: TrainState, sharding) -> tuple[TrainState, dict]:
        """The newest checkpoint, laid out as `sharding` says.

        Args:
            state: gives the shapes; arrays or their abstract values.
        """
        wanted = _abstract(_tree(state), sharding)
        saved = self._checkpointer.load_checkpointables(None, {"state": wanted, "note": None})
        return TrainState(**saved["state"]), saved["note"]

    def wait(self) -> None:
        """Until what was started is written; raises what went wrong."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Finishes writing."""
        self.wait()
        self._checkpointer.close()


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

    Args:
        path: a run's workdir (its newest checkpoint) or one step folder in its `checkpoints`.

    Returns:
        encoder: Linen module; `encoder.apply(variables, gray, train=False)` gives
            {layer: activation} for gray from `colorize_jax.network_input`.
        variables: {"params": ..., "batch_stats": ...} of the encoder alone.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    folder = _step_folder(pathlib.Path(path).absolute())
    note = ocp.load_checkpointables(folder, {"note": None})["note"]
    encoder = registry.make_encoder(ConfigDict(note["config"]["model"]))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jax.numpy.zeros((1, 64, 64, 1)))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # A step without batch norm saved an empty tree, which has nothing to ask for.
    wanted = {kind: {"encoder": _abstract(tree, sharding)} for kind, tree in shapes.items()}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        state = ocp.load_checkpointables(folder, {"state": wanted})["state"]
    return encoder, {kind: state[kind]["encoder"] for kind in wanted}


def _step_folder(path: pathlib.Path) -> pathlib.Path:
    """The step folder that a path stands for."""
    for folder in (path / FOLDER, path):
        steps = [int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit() and p.is_dir()]
        if steps:
            return folder / str(max(steps))
    if path.is_dir() and path.name.isdigit():
        return path
    raise CheckpointError(
        f"no checkpoint in {path}: give the workdir of a run or one of its checkpoints/<step>"
    )


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """`config.json`, replaced in one go."""
    draft = workdir / "config.json.tmp"
    draft.write_text(json.dumps(plain(config), indent=2) + "\n")
    draft.replace(workdir / "config.json")


def plain(config: ConfigDict) -> dict:
    """The config as JSON has it: references resolved, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


# Settings that change neither the parameters nor what is measured: free to differ on resume.
FREE = (
    "checkpoint.", "log.", "eval.every", "eval.pictures", "data.threads", "data.workers",
    "data.max_bad_fraction",
)  # fmt: skip


def check_same_run(workdir: pathlib.Path, config: ConfigDict) -> None:
    """CheckpointError, naming the fields, if the workdir holds the run of another config."""
    path = workdir / "config.json"
    begun = any(p.name.isdigit() for p in (workdir / FOLDER).glob("*"))
    if not path.exists() or not begun:  # a run without a checkpoint has nothing to spoil
        return
    try:
        # A field that the run did not know yet had the value that is its default now.
        before = _flat(plain(default_config())) | _flat(json.loads(path.read_text()))
        now = _flat(plain(config))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): was it edited?") from error
    changed = [
        f"  config.{name}: {before.get(name, 'absent')!r} there, {now.get(name, 'absent')!r} here"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(FREE)
    ]
    if changed:
        raise CheckpointError(
            f"{workdir} holds the run of another config. Use another --workdir, or set back:\n"
            + "\n".join(changed)
        )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
