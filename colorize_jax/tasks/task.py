"""The protocol of a task, for everything that trains, evaluates and shows it."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from colorize_jax.errors import ConfigError

Tree = Any
Batch = dict[str, jax.Array]


class Facts(NamedTuple):
    """The facts about the data that a task knows before anything is compiled.

    Attributes:
        photos: the number of photos to train on; a batch's "photo" is below it.
        classes: the names of the classes, in the order of their numbers; () without labels.
    """

    photos: int = 1
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Score:
    """The score by which a task is judged.

    Attributes:
        name: one of the names that the evaluator's `summarize` returns.
        higher: whether a higher score is better.
    """

    name: str
    higher: bool

    def better(self, score: float, than: float | None) -> bool:
        """Whether a score is better than another. NaN never is; any number is better than None."""
        if than is None:
            return score == score
        return score > than if self.higher else score < than


class Caption(NamedTuple):
    """The text beside the picture of a photo.

    Attributes:
        text: the photo's scores and classes, in words.
        legend: {class: (red, green, blue)} for the colors in its panels.
    """

    text: str = ""
    legend: Mapping[str, tuple[int, int, int]] = {}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """An evaluator of a network: scores, a probe, or pictures.

    Attributes:
        on_batch: (variables, statistics, keys, batch) -> (sums over a batch, rows {name:
            [batch, ...]}); it is compiled. If the rows have a "score", higher is better, and the
            run writes pictures of the best and the worst photos.
        summarize: (sums over all batches, rows of all batches) -> {name: number}, on the host. A
            name with a slash, such as "iou/cat", is the score of one class.
        statistics: (keys, batch) -> sums over training batches, which `on_batch` gets; None if no
            statistics of the training split are needed, and `on_batch` then gets None.
        remark: {name: number} -> a sentence about these scores for the user, or "".
        pictures: (variables, batch) -> uint8 [batch, panels, height, width, 3], or None. The panels
            are shown side by side.
        panels: the headings of these panels, in their order.
        caption: one photo's {name: value} of the rows -> its `Caption`.
        predict: (variables, batch) -> the classes of all pixels, uint8 [batch, height, width], for
            `config.eval.export`; or None.
    """

    on_batch: Callable[[Tree, Tree, jax.Array, Batch], tuple[Tree, dict[str, jax.Array]]]
    summarize: Callable[[Tree, dict[str, np.ndarray]], dict[str, float]]
    statistics: Callable[[jax.Array, Batch], Tree] | None = None
    remark: Callable[[dict[str, float]], str] = lambda scores: ""
    pictures: Callable[[Tree, Batch], jax.Array] | None = None
    panels: tuple[str, ...] = ()
    caption: Callable[[dict[str, np.ndarray]], Caption] = lambda row: Caption()
    predict: Callable[[Tree, Batch], jax.Array] | None = None


@dataclasses.dataclass(frozen=True)
class Fit:
    """Numbers that are fitted to training photos before step 0, such as a class prior.

    They become the network's collection "constants", which no step changes. Every checkpoint
    contains them.

    Attributes:
        sums: (keys, batch) -> sums over a training batch; it is compiled.
        constants: sums over all batches -> the collection, as the model declares it.
        batches: the number of training batches.
    """

    sums: Callable[[jax.Array, Batch], Tree]
    constants: Callable[[Tree], Tree]
    batches: int


@dataclasses.dataclass(frozen=True)
class Colors:
    """How a task that predicts colors colors whole photos.

    A color is two numbers, a point of a plane whose middle, (0, 0), is gray; with the gray of the
    pixel it gives RGB. Points of the plane can be enlarged and blended, colors of pixels cannot.

    Attributes:
        gray: RGB [..., 3] in [0, 1] -> [...]: what the network sees of a photo and what stays when
            it is colored; of a gray photo the value of its channels.
        predict: (variables, RGB photos [batch, height, width, 3], uint8 or float in [0, 1]) ->
            {name: float32 [batch, grid height, grid width, ...]}; distributions sum to one.
        plane: (what `predict` gave, height, width, decoding, temperature, keys) -> points of the
            plane, float32 [batch, height, width, 2]. The height and the width are those of the
            photos. The decoding is one of `decodings`, and the temperature is that of "annealed".
            A JAX key for every photo draws a colorization that is as likely as the network says:
            one draw for all pixels of a photo, so that a thing gets one color; None: no draw.
        join: (points of the plane [..., 2], gray [...]) -> RGB [..., 3] in [0, 1] of that gray:
            what is no color of a screen loses chroma.
        decodings: how one color is taken from a distribution; the first one is the default.
        temperature: the default one.
        stride: height and width of the photos are multiples of it.
        distributions: whether it predicts any: otherwise there is one color, and nothing to draw.
    """

    gray: Callable[[jax.Array], jax.Array]
    predict: Callable[[Tree, jax.Array], dict[str, jax.Array]]
    plane: Callable[..., jax.Array]
    join: Callable[[jax.Array, jax.Array], jax.Array]
    decodings: tuple[str, ...]
    temperature: float = 0.38
    stride: int = 32
    distributions: bool = True


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: pure functions on batches.

    `keys` holds one JAX key for every row. A batch is {"image": uint8 [batch, height, width, 3],
    "photo": the numbers of the photos [batch], "position": [batch], "valid": whether the row is
    real [batch], and the arrays of `labels`}.

    Attributes:
        model: a Linen module; `model.apply(variables, *inputs, train=...)` returns outputs. Its
            group "encoder" is what a transfer takes over. Collections besides the parameters are
            state: they are saved, and each training forward may change them, except "constants".
        prepare: (keys, batch) -> (inputs, targets), on the accelerator, from raw uint8 photos.
        loss: (outputs, targets) -> ({"loss": [batch], part: [batch], ...}, counts [batch]). The
            loss of a batch is the sum of the first over the sum of the counts. A row that is not
            valid gives zeros. It sees all rows of the global batch, or of one microbatch.
        evaluators: {name: evaluator}; the name of the task's own evaluator is "". Scores of another
            one have its name in theirs, as in "knn/top1". Without "", the loss on held-out photos
            is the score; see `evaluators.held_out`.
        score: the score by which the task is judged.
        fit: numbers to fit to training photos before step 0, or None.
        labels: {name: (shape, dtype)} of the arrays of a training row besides its photo.
        views: the number of views of each photo (`config.data.views`); with one there is no axis.
        microbatches: whether the loss may be computed on a part of the batch.
        colors: how it colors photos; None if it does not.
        split: large arrays of the collections, by their paths, as in "memory/bank". Every device
            holds only a part of them: their last axis is split over the devices, if the number of
            devices divides it.
    """

    model: nn.Module
    prepare: Callable[[jax.Array, Batch], tuple[tuple, Tree]]
    loss: Callable[[Tree, Tree], tuple[dict[str, jax.Array], jax.Array]]
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    score: Score = Score("loss", higher=False)
    fit: Fit | None = None
    labels: Mapping[str, tuple[tuple[int, ...], Any]] = dataclasses.field(default_factory=dict)
    views: int = 1
    microbatches: bool = True
    colors: Colors | None = None
    split: tuple[str, ...] = ()

    @property
    def evaluator(self) -> Evaluator:
        """The task's own evaluator."""
        return self.evaluators[""]

    @property
    def frozen(self) -> tuple[str, ...]:
        """The groups of the encoder's parameters that are not trained."""
        return self.model.encoder.frozen_groups

    @property
    def axis_name(self) -> str | None:
        """The mapped axis over which the batch is split (shard_map, pmap); None under jit."""
        return self.model.encoder.axis_name


def chosen_layer(config, encoder) -> str:
    """The layer of the encoder that `config.task.layer` names; "" is its top.

    Raises:
        ConfigError: the encoder has no such layer.
    """
    layer = config.task.layer or encoder.top
    if layer not in encoder.layers:
        raise ConfigError(
            f"config.task.layer={layer!r}: {config.model.name} has {', '.join(encoder.layers)}"
        )
    return layer


def batch_shapes(task: Task, config) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch."""
    size, crop = config.data.batch_size, config.data.crop
    views = (config.data.views,) if config.data.views > 1 else ()
    shapes = {
        "image": ((*views, crop, crop, 3), np.uint8),
        "position": ((), np.int32),
        "photo": ((), np.int32),
        "valid": ((), bool),
        **task.labels,
    }
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in shapes.items()
    }
