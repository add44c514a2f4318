"""Whether it is the same run: that which a workdir holds, and that which the other hosts begin."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

import colorize_jax
from colorize_jax import json_files
from colorize_jax.checkpoints import manifest, reading
from colorize_jax.config import config_form, default_like
from colorize_jax.data import sources
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.sources import Photos
from colorize_jax.errors import CheckpointError
from colorize_jax.files import atomic_write_text
from colorize_jax.models import registry
from colorize_jax.training import hosts


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """`config.json`, replaced in one go if it says something else."""
    path, text = workdir / "config.json", json.dumps(plain(config), indent=2) + "\n"
    if path.exists() and path.read_text() == text:
        return
    atomic_write_text(path, text)


def plain(config: ConfigDict) -> dict:
    """The config as JSON has it: references resolved, tuples as lists."""
    return json.loads(json.dumps(config.to_dict()))


# Settings that change neither the parameters nor what is measured: free to differ on resume.
FREE = (
    "checkpoint.", "log.", "evals.", "eval.every", "eval.pictures", "data.threads", "data.workers",
    "data.worker_restarts", "data.retry_seconds",
    "data.max_bad_fraction", "distributed.", "nonfinite_skips", "replay", "eval.export",
    "schedule_from",  # where it lies; what it says is compared
)  # fmt: skip

# Settings that may differ between the hosts of a run: who a host is, how it reads, and where it
# finds what all of them must find; what lies there is compared.
OF_ONE_HOST = (
    "distributed.", "data.threads", "data.workers", "data.source", "data.sbd", "init_from",
    "schedule_from", "evals.knn.source", "evals.linear.source",
)  # fmt: skip


def check_hosts(config: ConfigDict, workdir: pathlib.Path | None) -> None:
    """ConfigError, on all hosts, unless all begin the same run in one workdir that they share.

    Args:
        config: of this host.
        workdir: of this host; None: what is done needs none that is shared.
    """
    hosts.check_same(
        {
            "colorize_jax": colorize_jax.__version__,
            "jax": jax.__version__,
            **{
                f"config.{name}": value
                for name, value in flat(plain(config)).items()
                if not name.startswith(OF_ONE_HOST)
            },
        }
    )
    if workdir is not None:
        hosts.check_shared(workdir)


def photo_facts(
    config: ConfigDict,
    training: Photos | Labelled,
    held_out: Photos | Labelled,
    contents: Sequence[tuple[str, str]] = (),
) -> dict:
    """What the hosts of a run must agree upon about its photos, for `hosts.check_same`.

    Args:
        config: of the run.
        training, held_out: its splits.
        contents: from `fingerprint.contents`.
    """
    return {
        "photos to train on": len(training),
        "photos held out": len(held_out),
        "digest of the names to train on": training.digest(),
        "digest of the names held out": held_out.digest(),
        "weights in config.data.source": sources.parse(config.data.source)[1] or [],
        **{f"contents of the photo {name!r}": digest or None for name, digest in contents},
    }


def begun(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint was written to its end: a run without one has nothing to spoil."""
    return any(map(manifest.exists, reading.step_folders(workdir / reading.FOLDER)))


def check_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """CheckpointError, naming the fields, if the workdir holds the run of another config."""
    path = workdir / "config.json"
    if not path.exists() or not begun(workdir):
        if reading.is_import(workdir):
            raise CheckpointError(
                f"{workdir} holds weights from elsewhere and no run: start from them by "
                f"--config.init_from={workdir}, in another --workdir"
            )
        return
    before = json_files.read(
        path, config_form(), CheckpointError,
        "delete that file if the config is the same as before; otherwise use another --workdir",
    )  # fmt: skip
    changed = differences(before, config)
    if changed and not config.checkpoint.accept_changes:
        raise CheckpointError(
            f"{workdir} holds the run of another config. Use another --workdir, set back what "
            "follows, or go on all the same with --config.checkpoint.accept_changes=True:\n"
            + "\n".join(changed)
        )


# Settings of older versions that are no longer there, and the value at which a run of theirs is the
# run that it would be without them.
GONE = {"early_stopping.metric": "score"}


def differences(before: dict, config: ConfigDict) -> list[str]:
    """One line for every setting that matters and is another than in a config of before.

    A setting that was not known then had the value that is its default now. One that what was
    chosen then does not read, as older files hold some, does not matter.
    """
    was = flat(before)
    usual = flat(plain(default_like(before)))
    usual |= GONE
    # No defaults tell which groups of parameters have other settings.
    usual |= {name: value for name, value in was.items() if name.startswith("optimizer.groups.")}
    before = _complete({name: was.get(name, usual[name]) for name in usual})
    now = _complete(GONE | flat(plain(config)))
    if "task.classes" in before:  # 0: asks the data
        now["task.classes"] = now.get("task.classes") or before["task.classes"]
    return [
        f"  config.{name}: {before.get(name, 'absent')!r} there, {now.get(name, 'absent')!r} here"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(FREE)
    ]


def _complete(settings: dict) -> dict:
    """The same settings for the same network: a 0 that stands for its own number is that number,
    and a ResNet is called by its depth."""
    model = {k.removeprefix("model."): v for k, v in settings.items() if k.startswith("model.")}
    model = registry.by_depth(model)
    if "fc6_kernel" in model:
        model["fc6_kernel"] = model["fc6_kernel"] or registry.own_fc6_kernel(model["name"])
    return settings | {
        f"model.{name}": value for name, value in model.items() if f"model.{name}" in settings
    }


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"data.crop": 352, ...} from nested settings."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def check_schedule(
    workdir: pathlib.Path, config: ConfigDict, before: list[int], now: list[int]
) -> None:
    """CheckpointError if length and drops, in steps, are not those that the run began with."""
    if before != now and not config.checkpoint.accept_changes:
        raise CheckpointError(
            f"{workdir} was begun with steps and drops {before}, and now they would be {now}: was "
            "config.schedule_from written anew? To go on all the same: "
            "--config.checkpoint.accept_changes=True"
        )


def check_photos(
    workdir: pathlib.Path, config: ConfigDict, note: dict, photos: int, digest: str
) -> None:
    """CheckpointError if the source does not hold the photos that the run began with.

    Args:
        note: of the checkpoint.
        photos: number of those to train on, now.
        digest: of their names and of those held out, now.
    """
    if note["names"] != digest and not config.checkpoint.accept_changes:
        raise CheckpointError(
            f"{config.data.source} now has {photos} photos to train on, and had {note['photos']} "
            f"when {workdir} was started, or others: the run cannot go on as it began. To go on "
            "all the same: --config.checkpoint.accept_changes=True"
        )


def check_contents(
    workdir: pathlib.Path, config: ConfigDict, note: dict, now: Sequence[tuple[str, str]]
) -> None:
    """CheckpointError if other photos lie under the names that the run began with.

    Args:
        note: of the checkpoint; older ones do not know the contents.
        now: from `fingerprint.contents`. A photo that cannot be read, then or now, tells nothing.
    """
    before = note.get("contents", [])
    changed = [
        name
        for (name, digest), known in zip(now, before, strict=False)  # other names were accepted
        if digest and known and digest != known
    ]
    if changed and not config.checkpoint.accept_changes:
        raise CheckpointError(
            f"{len(changed)} of {len(now)} photos of {config.data.source} that were looked at have "
            f"other contents than when {workdir} was started, {changed[0]!r} among them: the run "
            "cannot go on as it began. Put the photos back, or go on all the same with "
            "--config.checkpoint.accept_changes=True"
        )
