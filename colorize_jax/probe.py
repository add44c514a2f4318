r"""Predicts classes from frozen features: linear classifiers and nearest neighbors.

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

from collections.abc import Callable, Mapping, Sequence
import json
import os
import pathlib
import sys

import numpy as np

from colorize_jax import command_line, help
from colorize_jax.data.class_folders import share_of_names
from colorize_jax.errors import ColorizeError, ConfigError, shown
from colorize_jax.features import probes, svm
from colorize_jax.features.feature_files import Features
from colorize_jax.features.softmax import Schedule
from colorize_jax.files import atomic_write_text
from colorize_jax.paths import argument

_HEAD = f"{'layer':<12}{'probe':<8}{'top-1':>8}{'top-5':>8}{'train':>10}{'test':>9}{'seconds':>9}"


KINDS = (*probes.KINDS, *svm.KINDS)


def probe(
    train: Features,
    test: Features,
    layers: Sequence[str] = (),
    kinds: Sequence[str] = probes.USUAL,
    *,
    neighbors: int = 20,
    temperature: float | None = None,
    schedule: Schedule | None = None,
    only: np.ndarray | None = None,
    machines: Mapping | None = None,
    say: Callable[[str], None] = print,
    keep: Callable[[list[dict], list[dict]], None] = lambda results, missing: None,
) -> list[dict]:
    """Runs every probe on every layer and prints a table line by line.

    If a probe of a layer fails, that is printed, and the others run.

    Args:
        train, test: the features; photos without a label are left out.
        layers: the names of layers; () takes all.
        kinds: kinds in `KINDS`.
        neighbors, temperature: of "knn"; see `probes.nearest`.
        schedule: of "softmax".
        only: the numbers of the training photos to learn from; None takes all with a label.
        machines: the options of "svm" and "lowshot"; see `svm.probe`.
        say: prints the lines of the table.
        keep: is called after every probe with all results so far and with the failures,
            [{"layer", "probe", "reason"}].

    Returns:
        The results of `probes.probe` and `svm.probe`, each with its "layer".

    Raises:
        ConfigError: the two sets do not fit together, a layer or kind is unknown, or all probes
            failed; the message then has the first reason.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--kind: {kind!r}; known: {', '.join(KINDS)}")
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
    check_pair(train, test, kinds, only)
    if train.objects is not None:
        (chosen, labels), (chosen_test, labels_test) = (
            (np.arange(len(features.objects)), features.objects) for features in (train, test)
        )
        objects, objects_test, absent = labels, labels_test, []
    else:
        (chosen, labels), (chosen_test, labels_test) = _labels(train, only), _labels(test)
        each = np.arange(len(train.classes))
        objects, objects_test = (svm.one_against_rest(some, each) for some in (labels, labels_test))
        absent = sorted(set(range(len(train.classes))) - set(labels.tolist()))
    if absent:
        lacking = f"{train.path} has no photo of {_some([train.classes[i] for i in absent])}"
        if len(train.classes) - len(absent) < 2:
            raise ConfigError(f"{lacking}: there is nothing to tell apart")
        say(f"{lacking}: the test photos of these classes count as wrong")
    results, missing = [], []
    precision = not set(kinds).isdisjoint(svm.KINDS)
    say(_HEAD + (f"{'mAP':>9}" if precision else ""))
    for layer in layers or train.layers:
        features = None
        for kind in kinds:
            try:
                if features is None:
                    x, x_test = _rows(train, layer, chosen), _rows(test, layer, chosen_test)
                    features = _matching(layer, (train.path, x), (test.path, x_test))
                x, x_test = features
                if kind in svm.KINDS:
                    found = svm.probe(
                        kind, (x, objects), (x_test, objects_test), train.classes, **machines or {}
                    )
                else:
                    found = probes.probe(
                        kind, (x, labels), (x_test, labels_test),
                        neighbors=neighbors, temperature=temperature, schedule=schedule,
                    )  # fmt: skip
            # Solvers and readers raise many kinds of errors, and the other probes may succeed.
            except Exception as error:
                known = isinstance(error, (ColorizeError, OSError))
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                missing.append({"layer": layer, "probe": kind, "reason": reason})
                say(f"{layer:<12}{kind:<8} cannot be had: {reason}")
            else:
                results.append({"layer": layer} | found)
                for line in _lines(results[-1]):
                    say(line)
            keep(results, missing)
    if not results:
        raise ConfigError(f"no probe of any layer could be had: {missing[0]['reason']}")
    return results


def check_pair(
    train: Features, test: Features, kinds: Sequence[str], only: np.ndarray | None = None
) -> None:
    """ConfigError unless both sets have the same classes, and labels that the kinds can use.

    Args:
        train, test, kinds, only: see `probe`.
    """
    if train.objects is not None or test.objects is not None:
        _check_classes(train, test)
        _check_objects(train, test, kinds, only)
        return
    for features in (train, test):
        _labels(features)
    _check_classes(train, test)


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


def _rows(features: Features, layer: str, numbers: np.ndarray) -> np.ndarray:
    """The features of some photos; where these are all photos, they stay on disk."""
    values = features.layer(layer)
    return values if len(numbers) == len(values) else values[numbers]


def some_labels(
    features: Features, share: float = 1.0, seed: int = 0, per_class: int = 0
) -> np.ndarray:
    """The numbers of a share of the photos of every class, at least one of each.

    A hash of (seed, name) chooses them, so that a smaller share is a part of a larger one.

    Args:
        features: with labels.
        share: above 0 and at most 1.
        seed: of the choice.
        per_class: the number of photos of every class, at most, instead of a share; 0: no limit.

    Raises:
        ConfigError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"--share={share:g} must be above 0 and at most 1")
    return share_of_names(features.names, features.labels, seed, share, per_class)


def _labels(features: Features, only: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the photos with a label (among `only` these), and their labels."""
    chosen = np.flatnonzero(features.labels >= 0) if only is None else only
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


def _check_objects(
    train: Features, test: Features, kinds: Sequence[str], only: np.ndarray | None
) -> None:
    """ConfigError unless both sets have objects, and only what they are good for is asked for."""
    if train.objects is None or test.objects is None:
        other = train if train.objects is None else test
        raise ConfigError(f"{other.path} has no lists of objects: extract it with --labels=lists")
    if train.classes != test.classes:
        raise ConfigError(f"{train.path} and {test.path} have their classes in another order")
    if other := [kind for kind in kinds if kind not in svm.KINDS]:
        raise ConfigError(
            f"--kind={','.join(other)} needs one class for a photo, and those of {train.path} show "
            f"several: --kind={','.join(svm.KINDS)}"
        )
    if only is not None:
        raise ConfigError("--share takes photos of one class each; of lists, lowshot takes a few")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _lines(result: dict) -> list[str]:
    """The lines of the table for a result: several of "lowshot"."""
    if result["probe"] not in svm.KINDS:
        return [_line(result)]
    begins = [(f"k={row['k']}", row) for row in result.get("shots", ())] or [("svm", result)]
    lines = []
    for number, (name, row) in enumerate(begins):
        seconds = f"{result['seconds']:.1f}" if number == 0 else ""
        spread = f" +-{row['std']:.1%}" if "std" in row else ""
        lines.append(
            f"{result['layer']:<12}{name:<8}{'-':>8}{'-':>8}{result['train_photos']:>10,}"
            f"{result['test_photos']:>9,}{seconds:>9}{row['map']:>9.1%}{spread}"
        )
    if not result["converged"]:
        lines[0] += "  (not converged)"
    lines += [
        f"{result['layer']:<12}left out: {shown(name)}: {reason}"
        for name, reason in result["left_out"].items()
    ]
    return lines


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
    add("--kind", default=",".join(probes.USUAL), help=", ".join(KINDS))
    add("--neighbors", type=int, default=20, metavar="N", help="that vote, in knn")
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="knn: votes of exp(cosine / T), not 1 / distance",
    )
    add("--rate", default="0.01", help="of softmax; of several the best held out")
    add("--decay", default="0.0005", help="of softmax, as --rate")
    add("--epochs", type=int, default=Schedule.epochs, metavar="N", help="of softmax")
    add("--batch_size", type=int, default=Schedule.batch_size, metavar="N", help="of softmax")
    add("--cost", default=_listed(svm.COSTS), help="of svm and lowshot, to choose from")
    add("--shots", default=_listed(svm.SHOTS), help="positives of every class in lowshot")
    add("--draws", type=int, default=svm.DRAWS, help="of lowshot")
    add("--jobs", type=int, default=os.cpu_count(), help="processes of svm and lowshot")
    add("--share", type=float, default=1.0, help="of every class's labels")
    add("--seed", type=int, default=0, help="of --share and of softmax")
    add("--output", default="", type=argument, help="a .json for the results")
    settings = parser.parse_args(arguments)
    failure, share = None, {}

    def keep(results, missing):
        nonlocal failure
        if not settings.output:
            return
        names = {"train": settings.train, "test": settings.test}
        content = names | share | {"results": results, "missing": missing}
        try:
            atomic_write_text(pathlib.Path(settings.output), json.dumps(content, indent=2) + "\n")
            failure = None
        except OSError as error:  # The table has the results, and the next probe tries again.
            failure = error

    try:
        if settings.output:
            _check_place(pathlib.Path(settings.output))
        schedule = _schedule(settings)
        train, test, only = Features(settings.train), Features(settings.test), None
        if settings.share != 1:
            only = some_labels(train, settings.share, settings.seed)
            share["share"], share["seed"] = settings.share, settings.seed
            share["learned_from"] = [train.names[i] for i in only]
        probe(
            train,
            test,
            words_of(settings.layer),
            words_of(settings.kind),
            neighbors=settings.neighbors,
            temperature=settings.temperature,
            schedule=schedule,
            only=only,
            machines=machines(settings),
            say=command_line.say,
            keep=keep,
        )
        if failure is not None:
            raise failure
    except (ColorizeError, OSError) as error:
        sys.exit(f"error: {error}")


def _schedule(settings) -> Schedule:
    """The schedule of "softmax"; ConfigError for a number that makes no sense."""
    if not 0 <= settings.seed < 2**32:
        raise ConfigError(f"--seed={settings.seed} must be from 0 to {2**32 - 1}")
    for name in ("epochs", "batch_size"):
        if not 0 < getattr(settings, name) < 2**20:
            raise ConfigError(f"--{name}={getattr(settings, name)} must be at least 1")
    temperature = settings.temperature
    if temperature is not None and not 1e-3 <= temperature <= 1e3:
        raise ConfigError(f"--temperature={temperature:g} must be from 0.001 to 1000")
    return Schedule(
        numbers_of("rate", settings.rate), numbers_of("decay", settings.decay), settings.epochs,
        settings.batch_size, seed=settings.seed,
    )  # fmt: skip


def machines(settings) -> dict:
    """The options of "svm" and "lowshot"; ConfigError for a number that makes no sense."""
    costs, shots = (numbers_of(name, getattr(settings, name)) for name in ("cost", "shots"))
    if min(costs) <= 0:
        raise ConfigError(f"--cost={settings.cost} must be above 0")
    if any(k != int(k) or k < 1 for k in shots):
        raise ConfigError(f"--shots={settings.shots} must be whole numbers from 1 on")
    for name in ("draws", "jobs"):
        if not 0 < getattr(settings, name) <= 1000:
            raise ConfigError(f"--{name}={getattr(settings, name)} must be from 1 to 1000")
    options = {"costs": costs, "shots": sorted({int(k) for k in shots})}
    return options | {name: getattr(settings, name) for name in ("draws", "jobs", "seed")}


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def numbers_of(name: str, text: str) -> tuple[float, ...]:
    """The numbers of an option, as in "0.01,0.1"; ConfigError if it has others or none."""
    try:
        found = tuple(float(word) for word in words_of(text))
    except ValueError:
        found = ()
    if not found or not all(0 <= number < 1e6 for number in found):
        raise ConfigError(f"--{name}={text} must be numbers from 0 on, as in 0.01,0.1")
    return found


def _check_place(path: pathlib.Path) -> None:
    """OSError if the results cannot be written; it is better to know that before the probes."""
    if path.is_dir():
        raise IsADirectoryError(f"--output={path} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    draft.touch()
    draft.unlink()


def words_of(text: str) -> list[str]:
    """The words of an option, as in "conv5_3,fc7"."""
    return [word.strip() for word in text.split(",") if word.strip()]


if __name__ == "__main__":
    command_line.interruptible(main)
