"""Videos: every frame is colored, and what the network predicts is smoothed over time.

A network that looks at one frame after the other changes its mind from one to the next, which is
seen as flicker. Distributions are averaged where the gray stays the same, and forgotten where it
changes and at cuts.
"""

import contextlib
import dataclasses
import importlib.util
import pathlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from colorize_jax.errors import ConfigError, DataError, why

if TYPE_CHECKING:  # the help of the command needs no JAX
    import jax

    from colorize_jax.colorize.colorizer import Colorizer, Decoding

# Endings of names, and what FFmpeg calls these containers. Any other video becomes .mkv, which
# holds every kind of sound.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
CUT = 0.15  # mean change of the gray, in [0, 1], from which on a frame is of another scene
# Changes of the gray, in [0, 1]: from here on a place is another one, and below it is still.
_MOVED, _STILL = 0.08, 0.01
_BT709 = 1  # FFmpeg's number of the color space of HD, in which we write
_UNKNOWN = 2


@dataclasses.dataclass
class Report:
    """What became of a video.

    Attributes:
        frames: how many.
        scenes: how many, by `CUT`.
        before, after: the mean change of chroma from a frame to the next where the gray is still,
            as a share of the mean chroma: without and with smoothing. NaN if nothing was still.
    """

    frames: int
    scenes: int
    before: float
    after: float


class Smoother:
    """Averages what is predicted over time.

    Args:
        share: of the past in the average where nothing moves, in [0, 1).
    """

    def __init__(self, share: float):
        self._share = share
        self._gray: np.ndarray | None = None
        self._past: dict[str, np.ndarray] = {}
        self.scenes = 0

    def __call__(
        self, predicted: "dict[str, jax.Array]", small: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """The average up to this frame.

        Args:
            predicted: of `Colorizer.predict`.
            small: the gray that the network has seen, [height, width].

        Returns:
            The average, in the form of `predicted`; and where the gray is still since the last
            frame, bool [height, width], or None in the first frame of a scene.
        """
        now = {name: np.asarray(x) for name, x in predicted.items()}
        change = None if self._gray is None else np.abs(small - self._gray)
        self._gray = small
        if change is None or change.mean() > CUT:
            self.scenes += 1
            self._past = now
            return now, None
        for name, x in now.items():
            height, width = x.shape[1:3]
            # What is filled up to the network's size is the mirror image, and so is its change.
            filled = np.pad(change, _pads(change.shape, height, width), mode="symmetric")
            moved = cv2.resize(filled, (width, height), interpolation=cv2.INTER_AREA)
            share = self._share * np.clip(1 - moved / _MOVED, 0, 1)[None, ..., None]
            now[name] = (share * self._past[name] + (1 - share) * x).astype(x.dtype)
        self._past = now
        return now, change < _STILL


def _pads(shape: tuple[int, int], height: int, width: int) -> list[tuple[int, int]]:
    """What fills a frame up to whole cells of a grid of height and width."""
    cell = -(-shape[0] // height)
    while cell * height < shape[0] or cell * width < shape[1]:
        cell += 1
    return [(0, cell * height - shape[0]), (0, cell * width - shape[1])]


def check(share: float) -> None:
    """ConfigError if PyAV is not installed, or `Smoother` has no such share."""
    if importlib.util.find_spec("av") is None:
        raise ConfigError(
            "videos are read by PyAV, which is not installed: pip install 'colorize_jax[video]'"
        )
    if not 0 <= share < 1:
        raise ConfigError(f"--smooth={share} must be at least 0 and below 1")


def output_name(name: str) -> str:
    """What the colored video is called: as the video, with an ending that we write."""
    path = pathlib.PurePath(name)
    return name if path.suffix.lower() in CONTAINERS else str(path.with_suffix(".mkv"))


def color(
    colorizer: "Colorizer", path: str, output: pathlib.Path, how: "Decoding", share: float
) -> Report:
    """Colors a video, with a progress bar; its sound is copied.

    Args:
        colorizer: see there.
        path: of the video.
        output: of the result, which is written beside and renamed at the end.
        how: of `Colorizer.decoding`.
        share: see `Smoother`.

    Raises:
        DataError: it is no video, a damaged one, or the result cannot be written.
    """
    import av

    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f"{output.name}.tmp")
    kind = CONTAINERS.get(output.suffix.lower(), "matroska")
    try:
        with av.open(path) as source, av.open(str(draft), "w", format=kind) as target:
            report = _color(colorizer, source, target, kind, how, share)
        draft.replace(output)
        return report
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"it cannot be read or written as a video: {why(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _color(
    colorizer: "Colorizer", source, target, kind: str, how: "Decoding", share: float
) -> Report:
    if not source.streams.video:
        raise DataError("it has no pictures")
    shown = source.streams.video[0]
    shown.thread_type = "AUTO"
    sounds = {x.index: target.add_stream_from_template(x) for x in source.streams.audio}
    smoother, encoder, frames = Smoother(share), None, 0
    waiting: list = []  # sound that comes before the first frame, when no size is known yet
    flicker = _Flicker()
    seconds = float(shown.duration * shown.time_base) if shown.duration else 0.0
    total = shown.frames or round(seconds * float(shown.average_rate or 0)) or None
    with tqdm(total=total, unit="frame", dynamic_ncols=True) as bar:
        for packet in source.demux(shown, *source.streams.audio):
            if packet.stream.index in sounds:
                if packet.dts is not None:  # the last one of a stream is empty
                    packet.stream = sounds[packet.stream.index]
                    waiting.append(packet)
                if encoder is not None:
                    target.mux(waiting)
                    waiting.clear()
                continue
            for frame in packet.decode():
                photo = _pixels(frame)
                if encoder is None:
                    encoder = _encoder(target, kind, shown, photo.shape)
                gray = colorizer.gray(photo)
                small = colorizer.small(gray)
                predicted = colorizer.predict(small)
                smoothed, still = smoother(predicted, small)
                plane = colorizer.plane(smoothed, small.shape, how)
                flicker.add(colorizer.plane(predicted, small.shape, how), plane, still)
                rgb = colorizer.join(plane, gray, np.uint8, how.saturation)
                target.mux(encoder.encode(_frame(rgb, frame, encoder.pix_fmt)))
                frames += 1
                bar.update()
        if encoder is None:
            raise DataError("it has no frame that can be decoded")
        target.mux(waiting)
        target.mux(encoder.encode())
    return Report(frames, smoother.scenes, *flicker.shares())


class _Flicker:
    """How much chroma changes from frame to frame where the gray is still."""

    def __init__(self):
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._changes, self._chroma, self._pixels = np.zeros(2), np.zeros(2), 0

    def add(self, raw: np.ndarray, smoothed: np.ndarray, still: np.ndarray | None) -> None:
        planes = (raw, smoothed)
        if self._last is not None and still is not None:
            self._pixels += still.sum()
            for i, (now, last) in enumerate(zip(planes, self._last, strict=True)):
                self._changes[i] += np.linalg.norm(now - last, axis=-1)[still].sum()
                self._chroma[i] += np.linalg.norm(now, axis=-1)[still].sum()
        self._last = planes

    def shares(self) -> tuple[float, float]:
        if not self._pixels:
            return float("nan"), float("nan")
        before, after = self._changes / np.maximum(self._chroma, 1e-9)
        return float(before), float(after)


def _pixels(frame) -> np.ndarray:
    """RGB [height, width, 3] of a frame of PyAV, upright."""
    hd = frame.colorspace == _BT709 or (frame.colorspace == _UNKNOWN and frame.height >= 720)
    kept = frame.reformat(format="rgb24", src_colorspace="ITU709" if hd else "ITU601")
    rgb = kept.to_ndarray()
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def _encoder(target, kind: str, shown, shape: tuple[int, ...]):
    name = "libvpx-vp9" if kind == "webm" else "libx264"
    made = target.add_stream(name, rate=shown.average_rate or 25)
    made.height, made.width = shape[:2]
    # Half the colors' pixels, as players expect it, want even sides.
    made.pix_fmt = "yuv444p" if shape[0] % 2 or shape[1] % 2 else "yuv420p"
    made.codec_context.time_base = shown.time_base
    made.options = {"crf": "18"} if name == "libx264" else {"crf": "24", "b": "0"}
    made.codec_context.colorspace = _BT709
    made.codec_context.color_primaries = made.codec_context.color_trc = _BT709
    made.codec_context.color_range = 1  # of 16 to 235, as videos are
    return made


def _frame(rgb: np.ndarray, like, pixels: str):
    """A frame at the time of another one."""
    made = type(like).from_ndarray(rgb, format="rgb24")
    made = made.reformat(
        format=pixels, dst_colorspace="ITU709", src_color_range="JPEG", dst_color_range="MPEG"
    )
    made.pts, made.time_base = like.pts, like.time_base
    return made
