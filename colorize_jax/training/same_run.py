"""Checks that a workdir holds the same run, and that all hosts begin the same run."""

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
    """Writes `config.json` atomically, if its content changes."""
    path, text = workdir / "config.json", json.dumps(plain(config), indent=2) + "\n"
    if path.exists() and path.read_text() == text:
        return
    atomic_write_text(path, text)


def plain(config: ConfigDict) -> dict:
    """The config as JSON holds it: references are resolved, tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))


# These settings may change when a run is resumed: they affect neither parameters nor measurements.
FREE = (
    "checkpoint.", "log.", "evals.", "eval.every", "eval.pictures", "data.threads", "data.workers",
    "data.worker_restarts", "data.retry_seconds",
    "data.max_bad_fraction", "distributed.", "nonfinite_skips", "replay", "eval.export",
    "schedule_from",  # The schedule in the file is compared, not its path.
)  # fmt: skip

# These settings may differ between the hosts of a run: the host's number, how it reads, and its
# paths. The content at the paths is compared.
OF_ONE_HOST = (
    "distributed.", "data.threads", "data.workers", "data.source", "data.sbd", "init_from",
    "schedule_from", "evals.knn.source", "evals.linear.source", "evals.spread.source",
)  # fmt: skip


def check_hosts(config: ConfigDict, workdir: pathlib.Path | None) -> None:
    """ConfigError, on all hosts, if the hosts begin different runs or do not share the workdir.

    Args:
        config: the config on this host.
        workdir: the path of the workdir on this host; None if no shared folder is needed.
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
    """The facts about the photos that must be equal on all hosts, for `hosts.check_same`.

    Args:
        config: the config of the run.
        training, held_out: the two splits.
        contents: what `fingerprint.contents` returned.
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
    """Whether the workdir has a complete checkpoint; without one, nothing can be lost."""
    return any(map(manifest.exists, reading.step_folders(workdir / reading.FOLDER)))


def check_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """CheckpointError that names the settings if the workdir holds the run of another config."""
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


# {setting of older versions that is gone: value}. A run with this value is the same run without the
# setting.
GONE = {"early_stopping.metric": "score"}


def differences(before: dict, config: ConfigDict) -> list[str]:
    """One line for every setting that matters and differs from an earlier config.

    A setting that did not exist then counts as having today's default. A setting that the choices
    of that config do not read, as in older files, does not matter.
    """
    was = flat(before)
    usual = flat(plain(default_like(before)))
    usual |= GONE
    # The groups of the optimizer have no defaults, so those of the earlier config are added.
    usual |= {name: value for name, value in was.items() if name.startswith("optimizer.groups.")}
    before = _complete({name: was.get(name, usual[name]) for name in usual})
    now = _complete(GONE | flat(plain(config)))
    if "task.classes" in before:  # With 0 the data decides.
        now["task.classes"] = now.get("task.classes") or before["task.classes"]
    return [
        f"  config.{name}: {before.get(name, 'absent')!r} there, {now.get(name, 'absent')!r} here"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(FREE)
    ]


def _complete(settings: dict) -> dict:
    """A normal form of the settings, so that equal networks have equal settings.

    A 0 that means the network's own number becomes that number, and a ResNet is named by its depth.
    """
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
    """CheckpointError if the length or the drops, in steps, have changed since the run began."""
    if before != now and not config.checkpoint.accept_changes:
        raise CheckpointError(
            f"{workdir} was begun with steps and drops {before}, and now they would be {now}: was "
            "config.schedule_from written anew? To go on all the same: "
            "--config.checkpoint.accept_changes=True"
        )


def check_photos(
    workdir: pathlib.Path, config: ConfigDict, note: dict, photos: int, digest: str
) -> None:
    """CheckpointError if the source no longer has the photos that the run began with.

    Args:
        note: the note of the checkpoint.
        photos: the number of photos to train on now.
        digest: the digest of their names and of the held-out names now.
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
    """CheckpointError if photos with the same names have other contents than when the run began.

    Args:
        note: the note of the checkpoint; older ones have no contents.
        now: what `fingerprint.contents` returns now. A photo that cannot be read, then or now, is
            not compared.
    """
    before = note.get("contents", [])
    changed = [
        name
        # The numbers may differ, because the user may have accepted other photos.
        for (name, digest), known in zip(now, before, strict=False)
        if digest and known and digest != known
    ]
    if changed and not config.checkpoint.accept_changes:
        raise CheckpointError(
            f"{len(changed)} of {len(now)} photos of {config.data.source} that were looked at have "
            f"other contents than when {workdir} was started, {changed[0]!r} among them: the run "
            "cannot go on as it began. Put the photos back, or go on all the same with "
            "--config.checkpoint.accept_changes=True"
        )
