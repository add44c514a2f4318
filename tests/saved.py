"""Reads the files of a run's workdir, for tests that compare runs."""

import contextlib
import json
import pathlib
import resource

import jax
from orbax.checkpoint import v1 as ocp

ROOT = pathlib.Path(__file__).parent.parent


TIMES = ("train/images_per_second", "train/data_wait")  # They differ between any two runs.


def rows(workdir, times=True):
    """The rows of metrics.jsonl, with or without the measured times."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    if times:
        return found
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def state(workdir, step, folder=None):
    """The training state of a checkpoint, as plain dicts; or of another folder of the workdir.

    All of it on one device of this process, whatever devices it was saved from.
    """
    folder = workdir / (folder or f"checkpoints/{step}")
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        ocp.checkpointables_metadata(folder).metadata["state"],
    )
    return ocp.load_checkpointables(folder, {"state": wanted})["state"]


@contextlib.contextmanager
def no_file_longer_than(size):
    """Simulates a full disk: the kernel refuses writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
