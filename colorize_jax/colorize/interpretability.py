"""Semantic interpretability (Zhang, Isola and Efros 2016): what a classifier of color photos, which
was trained elsewhere and is left alone, makes of recolored ones."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.checkpoints import reading
from colorize_jax.data import transforms
from colorize_jax.errors import ConfigError, WeightsError
from colorize_jax.features.features import folder_classes
from colorize_jax.models.classifier import Classifier
from colorize_jax.tasks import metrics

_IMPORTED = {"crop": 224, "shortest": 256}  # how networks of ImageNet are usually tested


class Judge:
    """A classifier, and how often it is right about photos of several rows.

    Args:
        path: a run of classification, or what `convert torch --head` wrote.
        names: of the photos, whose folders are their classes.
        rows: names of the sets of photos.
        crop, shortest: the shortest side of a photo becomes so many pixels, and the middle so many
            pixels square is seen; 0: as the classifier was evaluated, and of an imported one 224
            and 256.

    Raises:
        CheckpointError: there is no checkpoint, or it has no head.
        WeightsError: it is no classifier, or one of gray photos.
        ConfigError: its classes are not those of the folders.
    """

    def __init__(
        self, path: str, names: Sequence[str], rows: Sequence[str], *, crop: int = 0,
        shortest: int = 0,
    ):  # fmt: skip
        folder = reading.find(path)
        note = reading.saved_note(folder)
        config = note["config"]
        head = reading.load_head(folder)
        if set(head) != {"classes"} or config["task"].get("loss") == "sigmoid":
            raise WeightsError(
                f"{folder} is no network that gives a photo one class: give a run of "
                "classification, or what `colorize_jax.convert torch --head --color` wrote"
            )
        encoder, variables = reading.load_encoder(folder)
        if encoder.in_channels != 3:
            raise WeightsError(
                f"{folder} reads gray, so that it cannot tell a colored photo from a gray one: "
                "give a classifier of color (config.model.in_channels=3, or convert torch --color)"
            )
        view = _IMPORTED if "origin" in note else _view(config)
        self.crop = crop or view["crop"]
        self.shortest = shortest or max(view["shortest"], self.crop)
        if not encoder.smallest_input <= self.crop <= self.shortest:
            raise ConfigError(
                f"a crop of {self.crop} from a shortest side of {self.shortest} cannot be: the "
                f"crop must be at least {encoder.smallest_input} for this network, and no larger "
                "than the side"
            )
        outputs = head["classes"]["kernel"].shape[-1]
        self.labels, self.remark = _labels(names, note.get("classes", ()), outputs, str(folder))
        self.rows, self.path = tuple(rows), path
        self.photos, self._hits = 0, {row: np.zeros(2, np.int64) for row in rows}
        model = Classifier(encoder=encoder, classes=outputs)
        parts = {kind: {"encoder": tree} for kind, tree in variables.items()}
        parts["params"] = {**parts["params"], "head": head}

        @jax.jit
        def answers(parts, image, label):
            logits = model.apply(parts, encoder.network_input(image))
            labels = jnp.full(image.shape[0], label)
            return jnp.stack([metrics.top_k(logits, labels, k) for k in (1, min(5, outputs))], -1)

        self._answers = lambda image, label: np.asarray(answers(parts, image, label))

    def add(self, name: str, photos: Mapping[str, np.ndarray]) -> None:
        """Classifies one photo in all rows, {row: uint8 [height, width, 3]}; without a class, it is
        left out."""
        if (label := self.labels.get(name, -1)) < 0:
            return
        seen = np.stack([self._seen(photos[row]) for row in self.rows])
        for row, hits in zip(self.rows, self._answers(seen, label), strict=True):
            self._hits[row] += hits
        self.photos += 1

    def _seen(self, photo: np.ndarray) -> np.ndarray:
        window = transforms.central_window(*photo.shape[:2], self.crop, self.shortest)
        return transforms.cut(photo, window)

    def summary(self) -> dict[str, dict[str, float]]:
        """{row: {"top1": share of the photos, "top5"}}; NaN without any photo."""
        photos = self.photos or np.nan
        return {
            row: dict(zip(("top1", "top5"), (hits / photos).tolist(), strict=True))
            for row, hits in self._hits.items()
        }


def _view(config: Mapping) -> dict[str, int]:
    return {"crop": config["data"]["crop"], "shortest": config["eval"]["shortest"]}


def _labels(
    names: Sequence[str], classes: Sequence[str], outputs: int, path: str
) -> tuple[dict[str, int], str]:
    """{name of a photo: its class's number among the outputs}, and how that was found out."""
    numbers, labels, folders = folder_classes(names)
    if not folders:
        raise ConfigError(
            "the original photos lie in no folders of classes, as in cat/1.jpg and dog/2.jpg, so "
            "that there is no telling whether the classifier is right"
        )
    if classes:
        known = {name: i for i, name in enumerate(classes)}
        if absent := [name for name in folders if name not in known]:
            raise ConfigError(
                f"{len(absent)} folders are no classes of {path}: {', '.join(absent[:3])}; it "
                f"knows {len(known)}: {', '.join(list(known)[:3])}, ..."
            )
        own, remark = [known[name] for name in folders], ""
    elif len(folders) == outputs:
        own = list(range(outputs))
        remark = f"{path} does not name its classes: taken to be the folders in alphabetical order"
    else:
        raise ConfigError(
            f"{path} has {outputs} classes without names, and there are {len(folders)} folders: "
            "convert it again with --classes=FILE, which names one class a line"
        )
    found = {names[n]: own[label] for n, label in zip(numbers, labels, strict=True) if label >= 0}
    return found, remark
