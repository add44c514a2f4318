"""The protocol between a task and everything that trains, evaluates and shows it."""

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
    """What a task may know of the data before anything is compiled.

    Attributes:
        photos: how many there are to train on; a batch's "photo" is below it.
        classes: what they are called, in the order of their numbers; () without labels.
    """

    photos: int = 1
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Score:
    """The one number that a task is judged by.

    Attributes:
        name: among those of `Task.summarize`.
        higher: whether higher is better.
    """

    name: str
    higher: bool

    def better(self, score: float, than: float | None) -> bool:
        """Never so if it is NaN; always so if there is nothing to be better than."""
        if than is None:
            return score == score
        return score > than if self.higher else score < than


class Caption(NamedTuple):
    """What stands beside the picture of a photo.

    Attributes:
        text: its scores and classes, in words.
        legend: {class: (red, green, blue)} of the colors in its panels.
    """

    text: str = ""
    legend: Mapping[str, tuple[int, int, int]] = {}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """One way to look at a network: scores, a probe, pictures.

    Attributes:
        on_batch: (variables, statistics, keys, batch) -> (sums over a batch, {name: [batch, ...]}
            for every row), compiled. Where there is a "score" among the rows, higher is better, and
            the run leaves pictures of the best and the worst photos.
        summarize: (sums over all batches, rows of all batches) -> {name: number}, on the host; a
            name with a slash, as in "iou/cat", is one class's.
        statistics: (keys, batch) -> sums over training batches, which `on_batch` gets; None if
            there is nothing to learn from the training split, and then it gets None.
        remark: these numbers -> what a person should be told of them, or "".
        pictures: (variables, batch) -> uint8 [batch, panels, height, width, 3], or None: the panels
            lie side by side.
        panels: what these panels show, in their order.
        caption: (one photo's {name: value} of the rows) -> what to say of it.
        predict: (variables, batch) -> uint8 [batch, height, width] classes of all pixels, for
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
    """Numbers that are fitted to training photos before step 0, as a class prior is.

    They become the collection "constants" of the network, which no step changes, and lie in every
    checkpoint.

    Attributes:
        sums: (keys, batch) -> sums over a training batch, compiled.
        constants: sums over all batches -> the collection, as the model declares it.
        batches: how many.
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
    """What is learned, as pure functions on batches.

    `keys` holds one JAX key for every row. A batch is {"image": uint8 [batch, height, width, 3],
    "photo": [batch] numbers of the photos, "position": [batch], "valid": [batch] whether the row is
    real, and what `labels` says}.

    Attributes:
        model: Linen module; `model.apply(variables, *inputs, train=...)` gives outputs. Its group
            "encoder" is what survives a pretraining. Collections besides the parameters are state:
            they are saved, and each training forward may change them, but for "constants".
        prepare: (keys, batch) -> (inputs, targets), on the accelerator, from raw uint8 photos.
        loss: (outputs, targets) -> ({"loss": [batch], part: [batch], ...}, counts [batch]). The
            loss of a batch is the sum of the first over the sum of the counts. A row that is not
            valid gives zeros. It sees all rows of the global batch, or of one microbatch.
        evaluators: {"": how the task itself is scored, name: other ways}; scores of the others
            are called after them, as in "knn/top1". Without "", the loss on held-out photos is
            the score; see `evaluators.held_out`.
        score: which score counts.
        fit: what is fitted to training photos before step 0.
        labels: {name: (shape, dtype)} of what a row of a training batch has besides its photo.
        views: how many views of each photo it takes (`config.data.views`); one is no axis.
        microbatches: whether the loss of a part of the batch makes sense.
        colors: how it colors photos; None if it does not.
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

    @property
    def evaluator(self) -> Evaluator:
        """How the task itself is scored."""
        return self.evaluators[""]

    @property
    def frozen(self) -> tuple[str, ...]:
        """Groups of the encoder's parameters that are not trained."""
        return self.model.encoder.frozen_groups

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that the batch is split over (shard_map, pmap), or None under jit."""
        return self.model.encoder.axis_name


def chosen_layer(config, encoder) -> str:
    """The layer of the encoder that `config.task.layer` names, its top for "".

    Raises:
        ConfigError: it has no such layer.
    """
    layer = config.task.layer or encoder.top
    if layer not in encoder.layers:
        raise ConfigError(
            f"config.task.layer={layer!r}: {config.model.name} has {', '.join(encoder.layers)}"
        )
    return layer


def batch_shapes(task: Task, config) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of the recipe, without its content."""
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
