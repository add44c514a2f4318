r"""Predicts classes from frozen features: linear and nearest-neighbor probes.

python -m colorize_jax.extract --checkpoint=/ckpt/vgg16 --source=/data/photos --split=train \
    --layers=conv5_3,fc7 --output=train
python -m colorize_jax.extract --checkpoint=/ckpt/vgg16 --source=/data/photos --split=val \
    --layers=conv5_3,fc7 --output=val
python -m colorize_jax.probe --train=train --test=val

If a probe of a layer fails, such as 20 neighbors of 12 photos, the table says why, and the other
probes run. --output is rewritten after every probe.

On a busy machine set OMP_NUM_THREADS=1: threads that wait for each other can make the linear probe
a hundred times slower.
"""

from collections.abc import Callable, Sequence
import json
import pathlib
import sys

import numpy as np

from colorize_jax import command_line, help
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.features import probes
from colorize_jax.features.feature_files import Features
from colorize_jax.files import atomic_write_text
from colorize_jax.paths import argument

_HEAD = f"{'layer':<12}{'probe':<8}{'top-1':>8}{'top-5':>8}{'train':>10}{'test':>9}{'seconds':>9}"


def probe(
    train: Features,
    test: Features,
    layers: Sequence[str] = (),
    kinds: Sequence[str] = probes.KINDS,
    *,
    neighbors: int = 20,
    say: Callable[[str], None] = print,
    keep: Callable[[list[dict], list[dict]], None] = lambda results, missing: None,
) -> list[dict]:
    """Runs every probe on every layer and prints a table line by line.

    If a probe of a layer fails, that is printed, and the others run.

    Args:
        train, test: the features; photos without a label are left out.
        layers: the names of layers; () takes all.
        kinds: kinds in `probes.KINDS`.
        neighbors: the number of neighbors of "knn".
        say: prints the lines of the table.
        keep: is called after every probe with all results so far and with the failures,
            [{"layer", "probe", "reason"}].

    Returns:
        The results of `probes.probe`, each with its "layer".

    Raises:
        ConfigError: the two sets do not fit together, a layer or kind is unknown, or all probes
            failed; the message then has the first reason.
    """
    for kind in kinds:
        if kind not in probes.KINDS:
            raise ConfigError(f"--kind: {kind!r}; known: {', '.join(probes.KINDS)}")
    for name in layers:
        for features in (train, test):
            if name not in features.layers:
                raise ConfigError(
                    f"--layer: {features.path} has no layer {name!r}; it has "
                    f"{', '.join(features.layers)}"
                )
    if not layers and set(train.layers) != set(test.layers):
        raise ConfigError(
            f"{train.path} has the layers {', '.join(train.layers)}, {test.path} has "
            f"{', '.join(test.layers)}: choose with --layer, or extract the same ones"
        )
    (chosen, labels), (chosen_test, labels_test) = _labels(train), _labels(test)
    _check_classes(train, test)
    absent = sorted(set(range(len(train.classes))) - set(labels.tolist()))
    if absent:
        lacking = f"{train.path} has no photo of {_some([train.classes[i] for i in absent])}"
        if len(train.classes) - len(absent) < 2:
            raise ConfigError(f"{lacking}: there is nothing to tell apart")
        say(f"{lacking}: the test photos of these classes count as wrong")
    results, missing = [], []
    say(_HEAD)
    for layer in layers or train.layers:
        features = None
        for kind in kinds:
            try:
                if features is None:
                    x, x_test = train.layer(layer)[chosen], test.layer(layer)[chosen_test]
                    features = _matching(layer, (train.path, x), (test.path, x_test))
                x, x_test = features
                found = probes.probe(kind, (x, labels), (x_test, labels_test), neighbors=neighbors)
            # Solvers and readers raise many kinds of errors, and the other probes may succeed.
            except Exception as error:
                known = isinstance(error, (ColorizeError, OSError))
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                missing.append({"layer": layer, "probe": kind, "reason": reason})
                say(f"{layer:<12}{kind:<8} cannot be had: {reason}")
            else:
                results.append({"layer": layer} | found)
                say(_line(results[-1]))
            keep(results, missing)
    if not results:
        raise ConfigError(f"no probe of any layer could be had: {missing[0]['reason']}")
    return results


def _matching(
    layer: str, train: tuple[str, np.ndarray], test: tuple[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The features of a layer in both sets; ConfigError if their shapes differ."""
    (path, x), (test_path, x_test) = train, test
    if x.shape[1:] != x_test.shape[1:]:
        raise ConfigError(
            f"{layer} is {x.shape[1:]} in {path} and {x_test.shape[1:]} in {test_path}: extract "
            "both from one checkpoint with the same --pool and --crop"
        )
    return x, x_test


def _labels(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the photos with a label, and their labels."""
    chosen = np.flatnonzero(features.labels >= 0)
    if not len(chosen):
        raise ConfigError(
            f"no photo in {features.path} has a label: extract them again from a folder of class "
            "folders, with --split=FOLDER if these lie further down"
        )
    return chosen, features.labels[chosen]


def _check_classes(train: Features, test: Features) -> None:
    for a, b in ((train, test), (test, train)):
        if lacking := sorted(set(a.classes) - set(b.classes)):
            raise ConfigError(
                f"{len(lacking)} classes of {a.path} are not among those of {b.path}: "
                f"{_some(lacking)}"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _line(result: dict) -> str:
    top5 = "-" if result["top5"] is None else f"{result['top5']:.1%}"
    line = (
        f"{result['layer']:<12}{result['probe']:<8}{result['top1']:>8.1%}{top5:>8}"
        f"{result['train_photos']:>10,}{result['test_photos']:>9,}{result['seconds']:>9.1f}"
    )
    return line if result.get("converged", True) else f"{line}  (not converged)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, prints the table and writes the results."""
    parser = help.Parser("python -m colorize_jax.probe", description=__doc__)
    add = parser.add_argument
    add(
        "--train",
        required=True,
        type=argument,
        help="features to learn from, as `extract` wrote them",
    )
    add("--test", required=True, type=argument, help="features to score on")
    add("--layer", default="", help="one or several, as in conv5_3,fc7; default: all")
    add("--kind", default=",".join(probes.KINDS), help="linear, knn")
    add("--neighbors", type=int, default=20, help="that vote, in knn")
    add("--output", default="", type=argument, help="a .json for the results")
    settings = parser.parse_args(arguments)
    failure = None

    def keep(results, missing):
        nonlocal failure
        if not settings.output:
            return
        names = {"train": settings.train, "test": settings.test}
        content = names | {"results": results, "missing": missing}
        try:
            atomic_write_text(pathlib.Path(settings.output), json.dumps(content, indent=2) + "\n")
            failure = None
        except OSError as error:  # The table has the results, and the next probe tries again.
            failure = error

    try:
        if settings.output:
            _check_place(pathlib.Path(settings.output))
        probe(
            Features(settings.train),
            Features(settings.test),
            _words(settings.layer),
            _words(settings.kind),
            neighbors=settings.neighbors,
            say=command_line.say,
            keep=keep,
        )
        if failure is not None:
            raise failure
    except (ColorizeError, OSError) as error:
        sys.exit(f"error: {error}")


def _check_place(path: pathlib.Path) -> None:
    """OSError if the results cannot be written; it is better to know that before the probes."""
    if path.is_dir():
        raise IsADirectoryError(f"--output={path} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    draft.touch()
    draft.unlink()


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


if __name__ == "__main__":
    command_line.interruptible(main)
