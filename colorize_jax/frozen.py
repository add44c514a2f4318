r"""Scores the frozen features of a checkpoint on labelled photos: extraction and classifiers.

python -m colorize_jax.frozen --checkpoint=/ckpt/vgg16 --source=/data/photos --split=train \
    --eval_split=val --layers=conv4_3,conv5_3 --kinds=softmax,knn --output=vgg16_photos

It is `extract` of both splits, then `probe`. Each classifier takes the layer that scores best on a
tenth of the training photos, which are held out for this, and then learns from all of them; the
photos of --eval_split choose nothing. --per_class=0,10 learns from all labels, and then from ten of
every class; with --per_class=100,10 no more than a hundred of every class are read. With
--share=0.01,0.1 classifiers learn from 1 % and from 10 % of every class, too. results.json in
--output holds the scores, such as eval/softmax/top1, eval/softmax_10/top1, eval/softmax_0.01/top1,
eval/svm/map and eval/lowshot_4/map.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import time

import numpy as np

import colorize_jax
from colorize_jax import command_line, extract, help, probe
from colorize_jax.data.class_folders import share_of_names
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.features import features, probes, svm
from colorize_jax.features.feature_files import Features
from colorize_jax.features.softmax import Schedule
from colorize_jax.files import atomic_write_text
from colorize_jax.paths import argument
from colorize_jax.training import hardware, results

KINDS = ("softmax", "knn", "linear", *svm.KINDS)
HOLDOUT = 0.1  # The share of the training photos that chooses the layer.
_HEAD = f"{'probe':<14}{'layer':<12}{'held out':>9}{'test':>9}{'learned from':>14}{'seconds':>9}"
# Other photos are held out than those that --per_class takes first with the same seed.
_APART = 2**40


def score(
    kind: str,
    train: Features,
    test: Features,
    layers: Sequence[str],
    numbers: np.ndarray,
    options: dict,
    seed: int = 0,
    classes: Sequence[str] = (),
) -> dict:
    """One classifier on the layer that is best on held-out training photos.

    Args:
        kind: one of `KINDS`. "knn" takes the means of features over their positions.
        train, test: features with labels, which `probe.check_pair` has passed.
        layers: names of layers to choose from.
        numbers: the training photos to learn from.
        options: of `probes.probe`, or of `svm.probe`. More "neighbors" than photos to learn from
            are lowered to `probes.voters`.
        seed: decides which photos are held out.
        classes: the classes of "svm"; () takes all.

    Returns:
        What the probe returns for the test photos, with its "layer", and with several layers also
        "held_out", {layer: score}.

    Raises:
        ConfigError: there are too few photos, a class is unknown, or a feature is not finite.
    """
    machines = kind in svm.KINDS
    classes = tuple(classes) or train.classes
    if machines:
        labels, labels_test = (_objects(each, classes) for each in (train, test))
    else:
        labels, labels_test = train.labels, test.labels

    def fitted(learned, scored):
        if machines:
            return svm.probe(kind, learned, scored, classes, seed=seed, **options)
        if kind == "knn" and options.get("neighbors", 0) > len(learned[1]):
            voting = probes.voters(learned[1], options["neighbors"])
            return probes.probe(kind, learned, scored, **options | {"neighbors": voting})
        return probes.probe(kind, learned, scored, **options)

    def rows(features, layer, chosen):
        values = features.layer(layer)[chosen]
        return values.mean((1, 2)) if kind == "knn" and values.ndim == 4 else values

    best, told = layers[0], {}
    if len(layers) > 1:
        apart = _held_out([train.names[i] for i in numbers], labels[numbers], seed)
        if not apart.any():
            raise ConfigError(
                "no class has two training photos, of which one could choose the layer: name one "
                "of --layers"
            )
        rest, held_out = numbers[~apart], numbers[apart]
        tried = {}
        for layer in layers:
            learned, scored = ((rows(train, layer, n), labels[n]) for n in (rest, held_out))
            tried[layer] = fitted(learned, scored)[measure(kind)]
        best, told = max(tried, key=tried.get), {"held_out": tried}
    everything = np.arange(len(test.names)) if machines else np.flatnonzero(test.labels >= 0)
    learned = rows(train, best, numbers), labels[numbers]
    found = fitted(learned, (rows(test, best, everything), labels_test[everything]))
    return found | {"layer": best} | told


def _objects(features: Features, classes: Sequence[str]) -> np.ndarray:
    """int8 [photos, classes]: 1 (present), -1 (absent) or 0 (difficult)."""
    if unknown := sorted(set(classes) - set(features.classes)):
        raise ConfigError(
            f"--classes: {', '.join(unknown)}: the photos have {', '.join(features.classes)}"
        )
    numbers = np.array([features.classes.index(name) for name in classes])
    if features.objects is not None:
        return features.objects[:, numbers]
    return svm.one_against_rest(features.labels, numbers)


def measure(kind: str) -> str:
    """The score of a kind of probe that is reported."""
    return "map" if kind in svm.KINDS else "top1"


def _held_out(names: Sequence[str], labels: np.ndarray, seed: int) -> np.ndarray:
    """bool [n]: a share of every class, or of all photos if each may show several classes.

    Hashes of the names decide. At least one photo of a class is held out, and one is left.
    """
    groups = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    chosen = share_of_names(names, groups, seed + _APART, HOLDOUT)
    found = np.zeros(len(names), bool)
    found[chosen] = np.bincount(groups)[groups[chosen]] > 1
    return found


def make_parser() -> help.Parser:
    """The parser of the command line."""
    found = help.Parser(
        "python -m colorize_jax.frozen", description=__doc__,
        usage="python -m colorize_jax.frozen --checkpoint=... --source=... --split=... ...",
    )  # fmt: skip
    usual, add = extract.Extraction(), found.add_argument
    text, number = {"type": argument, "metavar": "PATH"}, {"type": int, "metavar": "N"}
    add("--checkpoint", required=True, **text, help="a run, or its checkpoints/<step>")
    add("--source", required=True, metavar="S", help="labelled photos, as for extract")
    add("--split", required=True, metavar="NAME", help="photos to learn from: a folder or list")
    add("--eval_split", required=True, metavar="NAME", help="photos to score")
    add("--output", required=True, **text, help="a folder for results.json")
    add("--labels", default="folders", metavar="L", help="folders, or lists (PASCAL VOC)")
    add("--layers", default="", metavar="A,B", help="to choose from; default: the top one")
    add("--kinds", default="softmax,knn", metavar="A,B", help=", ".join(KINDS))
    add("--per_class", default="0", metavar="N,M", help="labels of each class; 0: all")
    add("--share", default="", metavar="A,B", help="of the labels of each class, in addition")
    add("--norm_photos", default=0, **number, help="for new averages of batch norm")
    add("--values", default=usual.values, **number, help="of a photo and layer, at most")
    add("--shortest", default=usual.shortest, **number, help="side that photos are scaled to")
    add("--crop", default=usual.crop, **number, help="side of the middle that is seen")
    add("--squeeze", action="store_true", help="resize the whole photo to the crop instead")
    add("--neighbors", default=200, **number, help="that vote, in knn; fewer of few photos")
    add("--temperature", type=float, default=0.07, metavar="T", help="of knn")
    add("--rate", default="0.01", metavar="A,B", help="of softmax; the best held out")
    add("--epochs", default=Schedule.epochs, **number, help="of softmax")
    add("--classes", default="", metavar="A,B", help="of svm and lowshot; default: all")
    add("--cost", default="0.01,0.1,1,10", metavar="A,B", help="of these, to choose from")
    add("--shots", default=",".join(map(str, svm.SHOTS)), metavar="N,M", help="photos of a class")
    add("--draws", default=svm.DRAWS, **number, help="of lowshot")
    add("--seed", default=0, **number, help="of all that is chosen by chance")
    add("--threads", default=os.cpu_count(), **number, help="that read and decode")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, extracts, fits, prints the table and writes the results."""
    asked = make_parser().parse_args(arguments)
    try:
        _go(asked)
    except (ColorizeError, OSError) as error:
        sys.exit(f"error: {error}")


def _go(asked) -> None:
    began = time.monotonic()
    kinds = probe.words_of(asked.kinds)
    if not kinds or not set(kinds) <= set(KINDS):
        raise ConfigError(f"--kinds={asked.kinds}: known: {', '.join(KINDS)}")
    counts = [int(count) for count in probe.numbers_of("per_class", asked.per_class)]
    shares = probe.numbers_of("share", asked.share) if asked.share else ()
    if asked.labels == "lists" and (any(counts) or shares):
        raise ConfigError("--per_class and --share take photos of one class each, and not lists")
    amounts = [(1.0, count) for count in counts] + [(share, 0) for share in shares]
    schedule = Schedule(probe.numbers_of("rate", asked.rate), epochs=asked.epochs, seed=asked.seed)
    asked.jobs = max(asked.threads, 1)
    machines = probe.machines(asked)
    del machines["seed"]  # `score` has it
    options = {
        "softmax": {"schedule": schedule},
        "knn": {"neighbors": asked.neighbors, "temperature": asked.temperature},
        **dict.fromkeys(svm.KINDS, machines),
    }
    output = pathlib.Path(asked.output)
    output.mkdir(parents=True, exist_ok=True)
    folder, found = output / "features", {}
    try:
        few = all(counts) and not shares and "lowshot" not in kinds
        train, test = _both(asked, folder, max(counts) if few else 0)
        probe.check_pair(train, test, kinds)
        command_line.say(_HEAD)
        for kind in kinds:
            # Low-shot takes a few of all.
            for share, count in amounts if kind != "lowshot" else [(1.0, 0)]:
                numbers = np.arange(len(train.names))
                if train.objects is None:
                    numbers = probe.some_labels(train, share, asked.seed, count)
                amount = f"_{count}" if count else f"_{share:g}" if share != 1 else ""
                name = kind + amount
                own = score(
                    kind, train, test, train.layers, numbers, options.get(kind, {}), asked.seed,
                    probe.words_of(asked.classes),
                )  # fmt: skip
                found[name] = own
                for line in _lines(name, own):
                    command_line.say(line)
                if kind == "knn" and own["neighbors"] < asked.neighbors:
                    command_line.say(
                        f"{own['neighbors']} neighbors vote: {asked.neighbors} are too many for so "
                        "few photos"
                    )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    scores = {f"eval/{name}/{key}": own[key] for name, own in found.items()
              for key in ("top1", "top5", "map") if own.get(key) is not None}  # fmt: skip
    for row in found.get("lowshot", {}).get("shots", ()):
        scores[f"eval/lowshot_{row['k']}/map"] = row["map"]
    first, value = next(iter(scores.items()))
    content = {
        **scores,
        "metric": {"name": first.removeprefix("eval/"), "value": value, "higher_is_better": True},
        "probes": found,
        "schedule": {"steps": 0, "drops": []},
        "data": {
            "source": asked.source, "split": asked.split, "eval_split": asked.eval_split,
            "photos": len(train.names), "eval_photos": len(test.names),
        },
        "options": vars(asked),
        "seed": asked.seed,
        "hardware": hardware.describe(),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    atomic_write_text(output / results.FILE, json.dumps(content, indent=2) + "\n")


def _both(asked, folder: pathlib.Path, per_class: int) -> tuple[Features, Features]:
    """Extracts the features of both splits; of the first one, so many photos of every class."""
    extraction = extract.Extraction(
        layers=tuple(probe.words_of(asked.layers)), pool="grid", values=asked.values,
        shortest=asked.shortest, crop=asked.crop, squeeze=asked.squeeze,
    )  # fmt: skip
    encoder, variables = colorize_jax.load_encoder(asked.checkpoint)
    written = []
    for split in (asked.split, asked.eval_split):
        photos, objects = extract.open_photos(asked.source, split, asked.labels)
        own = dataclasses.replace(extraction, split=split)
        if asked.norm_photos and split == asked.split:
            batches = extract.some_batches(photos, own, asked.norm_photos, objects)
            variables = features.with_fresh_norm(encoder, variables, batches)
        if split == asked.split:
            own = dataclasses.replace(own, per_class=per_class, seed=asked.seed)
        output = str(folder / split.replace("/", "_"))
        extract.extract(
            asked.checkpoint, photos, output, own, max(asked.threads, 1), objects=objects,
            network=(encoder, variables),
        )  # fmt: skip
        written.append(Features(output))
    train, test = written
    return train, test


def _lines(name: str, found: dict) -> list[str]:
    """A line of the table for the layer that was taken, and below it one for every other layer."""
    kind, held_out = name.partition("_")[0], dict(found.get("held_out", {}))
    tried = held_out.pop(found["layer"], None)
    few = [
        f"{'':<4}{row['k']:<10}{found['layer']:<12}{'-':>9}{row['map']:>9.1%} +-{row['std']:.1%}"
        for row in found.get("shots", ())
    ]
    return [
        f"{name:<14}{found['layer']:<12}{'-' if tried is None else f'{tried:.1%}':>9}"
        f"{found[measure(kind)]:>9.1%}{found['train_photos']:>14,}{found['seconds']:>9.1f}",
        *few,
        *(f"{'':<14}{layer:<12}{score:>9.1%}{'-':>9}" for layer, score in held_out.items()),
    ]


if __name__ == "__main__":
    command_line.interruptible(main)
