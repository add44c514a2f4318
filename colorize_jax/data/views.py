"""Views of photos with their masks and labels: random ones in training, fixed ones in evaluation.

A view is a function (record, rng) -> {"image", and "mask" or "labels" if the photo has them}. A
mask is transformed like its photo, but by nearest pixels; labels stay as they are. Training may ask
for several views of a photo; see `several`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Protocol

import numpy as np

from colorize_jax.data import decode, transforms
from colorize_jax.data.masks import VOID, matching_mask
from colorize_jax.data.record import Record
from colorize_jax.data.transforms import Window
from colorize_jax.errors import ConfigError, DataError

LABELS = ("", "masks", "lists", "folders")
SCALINGS = ("shortest", "factor", "none", "resized")
PAD_LABELS = {"void": VOID, "background": 0}
VIEWS = ("center", "random10", "ten", "whole")
# It divides the sides of the canvas of a whole photo: it is the stride of the coarsest layer.
MULTIPLE = 128

Example = dict[str, np.ndarray]


class View(Protocol):
    """A view of a photo; picklable. DataError if the photo or its mask cannot be read."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """{"image", "mask" or "labels"} of a photo; all random numbers are drawn from `rng`."""


class EvaluationView(View, Protocol):
    """What evaluation sees."""

    def blank(self, unreadable: Record) -> Example:
        """An example of the same shapes for an unreadable photo: black, void, labels of zero."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a photo is read before anything is cut from it.

    Attributes:
        longest_side: photo and mask are scaled to this longest side; 0 keeps them as stored.
        classes: the number of classes of masks.
        max_pixels: the limit of `decode.open_photo`.
    """

    longest_side: int = 0
    classes: int = 0
    max_pixels: int = decode.MAX_PIXELS

    def __call__(self, record: Record) -> tuple[decode.Photo, np.ndarray | None]:
        """The photo, and its mask of the same size or None."""
        photo = decode.open_photo(record.image, self.max_pixels)
        mask = matching_mask(record.mask, photo, self.classes)
        if not self.longest_side:
            return photo, mask
        size = self.size(photo.height, photo.width)
        photo = decode.open_photo(transforms.resampled(photo.pixels(*size), *size))
        return photo, None if mask is None else transforms.nearest(mask, *size)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) to which a photo of this stored size is read."""
        if not self.longest_side:
            return height, width
        return transforms.longest_size(height, width, self.longest_side)


@dataclasses.dataclass(frozen=True)
class Draw:
    """The random choices for a view of a photo, made before the photo is decoded.

    Attributes:
        size: (height, width) to pass to `decode.Photo.pixels`.
        cut: makes {"image", and "mask" if the photo has one} from those pixels.
    """

    size: tuple[int, int]
    cut: Callable[[np.ndarray], Example]


class TrainingView(Protocol):
    """A view for training, which makes its random choices before it decodes the photo."""

    reading: Reading

    def draw(self, photo: decode.Photo, mask: np.ndarray | None, rng: np.random.Generator) -> Draw:
        """Makes all random choices for a photo and its mask (None if it has none)."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """The crop, [crop, crop, 3], with mask and labels."""
        photo, mask = self.reading(record)
        drawn = self.draw(photo, mask, rng)
        return drawn.cut(photo.pixels(*drawn.size)) | _labels(record)


def several(
    view: TrainingView, record: Record, rngs: Sequence[np.random.Generator]
) -> dict[str, np.ndarray]:
    """Several views of one photo, one for every generator: "image" is [views, crop, crop, 3].

    Each equals, to the bit, a single view with that generator. Masks are left out. The photo is
    decoded once, unless it is so large that the decoder offers several sizes and the views need
    different ones.
    """
    photo, _ = view.reading(record)
    drawn = [view.draw(photo, None, rng) for rng in rngs]
    images: list[np.ndarray | None] = [None] * len(drawn)
    pixels = None
    # The decoder returns the smallest size that is large enough. Requests are served from small to
    # large, and the pixels are reused as long as they are large enough.
    for i in sorted(range(len(drawn)), key=lambda i: drawn[i].size):
        if pixels is None or not _enough(pixels, photo, drawn[i].size):
            pixels = photo.pixels(*drawn[i].size)
        images[i] = drawn[i].cut(pixels)["image"]
    return {"image": np.stack(images)} | _labels(record)


def _enough(pixels: np.ndarray, photo: decode.Photo, size: tuple[int, int]) -> bool:
    height, width = pixels.shape[:2]
    return (height, width) == (photo.height, photo.width) or (
        height >= size[0] and width >= size[1]
    )


@dataclasses.dataclass(frozen=True)
class RandomWindow(TrainingView):
    """A crop of the photo with its shortest side scaled to an integer in [scale[0], scale[1]).

    Draws scale, mirror, row and column; see `transforms.random_window`.
    """

    scale: tuple[int, int]
    crop: int
    mirror: bool
    reading: Reading = Reading()

    def draw(self, photo: decode.Photo, mask: np.ndarray | None, rng: np.random.Generator) -> Draw:
        """See `TrainingView.draw`."""
        window = transforms.random_window(
            rng, photo.height, photo.width, scale=self.scale, crop=self.crop, mirror=self.mirror
        )
        return Draw((window.height, window.width), lambda pixels: _cut(pixels, mask, window))


@dataclasses.dataclass(frozen=True)
class RandomCrop(TrainingView):
    """A crop of the photo scaled by a random factor, padded where the photo is too small.

    Draws the factor (a real number), mirror, row and column, in this order, all uniform; every
    offset can be drawn. Scaled sides are truncated to integers. A side smaller than the crop is
    centered and padded, the photo with black and the mask with `pad`, before it is mirrored.
    """

    crop: int
    mirror: bool
    factor: tuple[float, float] = (1.0, 1.0)
    pad: int = VOID
    reading: Reading = Reading()

    def draw(self, photo: decode.Photo, mask: np.ndarray | None, rng: np.random.Generator) -> Draw:
        """See `TrainingView.draw`."""
        factor = rng.uniform(*self.factor)
        mirrored = bool(rng.integers(2)) and self.mirror
        height, width = (max(int(n * factor), 1) for n in (photo.height, photo.width))
        rows, columns = (
            transforms.padded_axis(n, self.crop, int(rng.integers(max(n - self.crop, 0) + 1)))
            for n in (height, width)
        )
        part = {
            "y": rows.start, "x": columns.start, "rows": rows.length, "columns": columns.length
        }  # fmt: skip

        def placed(part, value):
            shape, before = (self.crop, self.crop), (rows.before, columns.before)
            whole = transforms.padded(part, shape, before, value)
            return np.ascontiguousarray(whole[:, ::-1]) if mirrored else whole

        def cut(pixels):
            seen = {"image": placed(transforms.resampled(pixels, height, width, **part), 0)}
            if mask is not None:
                seen["mask"] = placed(transforms.nearest(mask, height, width, **part), self.pad)
            return seen

        return Draw((height, width), cut)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(TrainingView):
    """A random part of the photo, of random area and aspect ratio, resized to the crop.

    See `transforms.random_box`. Height and width of the part are scaled by different factors; a
    mask is resized likewise.

    Attributes:
        area: the smallest and largest share of the photo's area.
        ratio: the smallest and largest width over height.
    """

    crop: int
    mirror: bool
    area: tuple[float, float]
    ratio: tuple[float, float]
    reading: Reading = Reading()

    def draw(self, photo: decode.Photo, mask: np.ndarray | None, rng: np.random.Generator) -> Draw:
        """See `TrainingView.draw`."""
        whole = photo.height, photo.width
        box = transforms.random_box(
            rng, *whole, area=self.area, ratio=self.ratio, mirror=self.mirror
        )

        def cut(pixels):
            seen = {"image": transforms.cut_box(pixels, whole, box, self.crop)}
            if mask is not None:
                seen["mask"] = transforms.cut_box_of_mask(mask, box, self.crop)
            return seen

        # It always asks for the pixels that the smallest box needs, so that one decoding serves
        # any number of views.
        smallest = transforms.smallest_box(*whole, area=self.area, ratio=self.ratio)
        size = (
            math.ceil(side * self.crop / part) for side, part in zip(whole, smallest, strict=True)
        )
        return Draw(tuple(size), cut)


@dataclasses.dataclass(frozen=True)
class CentralCrop:
    """The crop in the middle of the photo with its shortest side scaled to `shortest` (0: crop)."""

    crop: int
    shortest: int = 0
    reading: Reading = Reading()

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """The crop, [crop, crop, 3], with mask and labels; `rng` is not used."""
        photo, mask = self.reading(record)
        window = transforms.central_window(photo.height, photo.width, self.crop, self.shortest)
        return _cut(photo.pixels(window.height, window.width), mask, window) | _labels(record)

    def blank(self, unreadable: Record) -> Example:
        """See `EvaluationView.blank`."""
        return _blank((self.crop, self.crop, 3), unreadable)


@dataclasses.dataclass(frozen=True)
class TenCrops:
    """Crops at the four corners and in the middle, then the same five mirrored.

    The photo is scaled as in `CentralCrop`. The image is [10, crop, crop, 3], in the order upper
    left, upper right, lower left, lower right, middle.
    """

    crop: int
    shortest: int = 0
    reading: Reading = Reading()

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """The crops, [10, crop, crop, 3], with labels; `rng` is not used."""
        photo, _ = self.reading(record)
        middle = transforms.central_window(photo.height, photo.width, self.crop, self.shortest)
        pixels = photo.pixels(middle.height, middle.width)
        low, right = middle.height - self.crop, middle.width - self.crop
        places = ((0, 0), (0, right), (low, 0), (low, right), (middle.y, middle.x))
        five = [transforms.cut(pixels, dataclasses.replace(middle, y=y, x=x)) for y, x in places]
        return {"image": np.stack([*five, *(crop[:, ::-1] for crop in five)])} | _labels(record)

    def blank(self, unreadable: Record) -> Example:
        """See `EvaluationView.blank`."""
        return _blank((10, self.crop, self.crop, 3), unreadable)


@dataclasses.dataclass(frozen=True)
class RandomCrops:
    """Some random training views of the photo: the image is [count, crop, crop, 3]."""

    view: TrainingView
    count: int = 10

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """The crops, [count, crop, crop, 3], with labels."""
        # The photo is decoded and scaled once for all crops.
        photo, _ = self.view.reading(record)
        read = dataclasses.replace(record, image=photo.pixels(), mask=None)
        view = dataclasses.replace(self.view, reading=Reading())
        crops = [view(read, rng)["image"] for _ in range(self.count)]
        return {"image": np.stack(crops)} | _labels(record)

    def blank(self, unreadable: Record) -> Example:
        """See `EvaluationView.blank`."""
        return _blank((self.count, self.view.crop, self.view.crop, 3), unreadable)


@dataclasses.dataclass(frozen=True)
class Whole:
    """The whole photo in the middle of a black canvas, and its mask in the middle of void.

    "size", int32 [2], is (height, width) of the photo on the canvas; the photo's upper left corner
    is at (canvas - size) // 2.

    Attributes:
        canvas: (height, width) of the canvas, not smaller than the photo.
    """

    canvas: tuple[int, int]
    reading: Reading = Reading()

    def __call__(self, record: Record, rng: np.random.Generator) -> Example:
        """The canvas, [height, width, 3], with size, mask and labels; `rng` is not used."""
        photo, mask = self.reading(record)
        size = photo.height, photo.width
        if size[0] > self.canvas[0] or size[1] > self.canvas[1]:
            raise DataError("its header could not be read the first time, but could the second")
        before = tuple(
            transforms.padded_axis(n, side).before
            for n, side in zip(size, self.canvas, strict=True)
        )
        seen = {
            "image": transforms.padded(photo.pixels(), self.canvas, before, 0),
            "size": np.array(size, np.int32),
        }
        if mask is not None:
            seen["mask"] = transforms.padded(mask, self.canvas, before, VOID)
        return seen | _labels(record)

    def blank(self, unreadable: Record) -> Example:
        """See `EvaluationView.blank`; the size is (0, 0)."""
        return _blank((*self.canvas, 3), unreadable) | {"size": np.zeros(2, np.int32)}


def canvas_of(height: int, width: int, crop: int) -> tuple[int, int]:
    """The smallest canvas for a photo of this size whose sides are multiples of `MULTIPLE`.

    It is never smaller than a training crop: a network without padding needs that much, and all
    small photos then share one canvas size, for which the network is compiled once.
    """
    height, width = (max(side, crop) for side in (height, width))
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


def reading(config) -> Reading:
    """How the photos of a run are read."""
    return Reading(config.data.longest_side, config.task.get("classes", 0), config.data.max_pixels)


def training_view(config) -> TrainingView:
    """The view that `config.data.scaling` names."""
    data, how = config.data, reading(config)
    if data.scaling == "shortest":
        return RandomWindow(tuple(data.scale), data.crop, data.mirror, how)
    if data.scaling == "resized":
        return RandomResizedCrop(data.crop, data.mirror, tuple(data.area), tuple(data.ratio), how)
    factor = tuple(data.factor) if data.scaling == "factor" else (1.0, 1.0)
    return RandomCrop(data.crop, data.mirror, factor, PAD_LABELS[data.pad_label], how)


def evaluation_view(config) -> CentralCrop | TenCrops | RandomCrops:
    """The view that `config.eval.view` names, except "whole", which needs a canvas; see `Whole`.

    "randomN" is N random crops. Only "random10" is a setting of users.
    """
    data, how = config.data, reading(config)
    if config.eval.view.startswith("random"):
        return RandomCrops(training_view(config), int(config.eval.view.removeprefix("random")))
    kind = {"center": CentralCrop, "ten": TenCrops}[config.eval.view]
    return kind(data.crop, config.eval.shortest, how)


def check(config) -> None:
    """Raises a ConfigError that names the setting if a view's settings do not fit together."""
    data, view = config.data, config.eval.view
    for name, value, known in (
        ("data.labels", data.labels, LABELS),
        ("data.scaling", data.scaling, SCALINGS),
        ("data.pad_label", data.pad_label, tuple(PAD_LABELS)),
        ("eval.view", view, VIEWS),
    ):
        if value not in known:
            listed = ", ".join(repr(kind) for kind in known)
            raise ConfigError(f"config.{name}={value!r} is unknown; known: {listed}")
    if data.scaling == "shortest":
        _check_scale(data)
    if data.scaling == "factor" and not (
        len(data.factor) == 2 and 0 < data.factor[0] <= data.factor[1] < float("inf")
    ):
        raise ConfigError(
            f"config.data.factor={tuple(data.factor)} must be (smallest, largest) with 0 < smallest"
        )
    if data.scaling == "resized":
        _check_boxes(data)
    if data.views > 1 and data.labels == "masks":
        raise ConfigError(
            f"config.data.views={data.views} with config.data.labels='masks': only one view of a "
            "photo with a mask can be had: add --config.data.views=1"
        )
    if data.labels == "masks" and view != "whole":
        raise ConfigError(
            f"config.eval.view={view!r} with config.data.labels='masks': photos with masks are "
            "evaluated whole: add --config.eval.view=whole"
        )
    if view != "center" and not data.labels:
        raise ConfigError(
            f"config.eval.view={view!r} is for photos with labels (config.data.labels): add "
            "--config.eval.view=center"
        )
    if view in ("whole", "random10") and config.eval.shortest:
        raise ConfigError(
            f"config.eval.shortest={config.eval.shortest} is of the views 'center' and 'ten'; "
            f"config.eval.view={view!r} takes a photo as it is"
        )
    padded = data.labels == "masks" and data.scaling in ("factor", "none")
    if data.pad_label != "void" and not padded:
        raise ConfigError(
            f"config.data.pad_label={data.pad_label!r} is of masks that are padded: there are none "
            f"with config.data.labels={data.labels!r} and config.data.scaling={data.scaling!r}"
        )
    if view in ("center", "ten") and 0 < config.eval.shortest < data.crop:
        raise ConfigError(
            f"config.eval.shortest={config.eval.shortest} is smaller than config.data.crop="
            f"{data.crop}: such a photo has no such crop"
        )


def _check_scale(data) -> None:
    scale = tuple(data.scale)
    if len(scale) != 2 or not all(isinstance(side, int) for side in scale):
        raise ConfigError(f"config.data.scale={scale} must be two whole numbers, as in (352,600)")
    low, high = scale
    if not 0 < low < high:
        raise ConfigError(
            f"config.data.scale={scale} must be (smallest, end) with 0 < smallest < end; the end "
            "itself is never drawn"
        )
    if data.crop > low:
        raise ConfigError(
            f"config.data.crop={data.crop} is larger than the smallest scale, "
            f"config.data.scale[0]={low}: such a photo has no such crop"
        )


def _check_boxes(data) -> None:
    for name, most, wanted in (
        ("area", 1, "with 0 < smallest <= largest <= 1, as in (0.08,1.0)"),
        ("ratio", math.inf, "of width to height with 0 < smallest <= largest, as in (0.75,1.33)"),
    ):
        value = tuple(data[name])
        if not (len(value) == 2 and 0 < value[0] <= value[1] <= most):
            raise ConfigError(f"config.data.{name}={value} must be (smallest, largest) {wanted}")


def _cut(pixels: np.ndarray, mask: np.ndarray | None, window: Window) -> Example:
    seen = {"image": transforms.cut(pixels, window)}
    if mask is not None:
        seen["mask"] = transforms.cut_mask(mask, window)
    return seen


def _labels(record: Record) -> Example:
    return {} if record.labels is None else {"labels": record.labels}


def _blank(shape: tuple[int, ...], unreadable: Record) -> Example:
    seen = {"image": np.zeros(shape, np.uint8)}
    if unreadable.mask is not None:
        seen["mask"] = np.full(shape[:2], VOID, np.uint8)
    return seen | _labels(unreadable)
