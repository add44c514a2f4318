"""Exports networks of checkpoints as ONNX graphs by jax2onnx, and compares their outputs."""

from collections.abc import Callable, Iterator
import contextlib
import logging
import pathlib
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.checkpoints import reading
from colorize_jax.config import default_config
from colorize_jax.errors import WeightsError
from colorize_jax.models import registry
from colorize_jax.tasks import colorization

INPUT = "gray"
TOLERANCE = 1e-4  # the largest allowed deviation, relative to the largest value of an output
_NOISY = ("jax2onnx", "onnx_ir")

Compute = Callable[[jax.Array], dict[str, jax.Array]]


def export(path: str | pathlib.Path, *, size: tuple[int, int], colorizer: bool = False):
    """Exports the network of a checkpoint as an ONNX file and compares its outputs once.

    Its input `INPUT` is [batch, height, width, channels], like that of our encoders; its outputs
    have our names. Only the size of the batch is free. All computation is in float32.

    Args:
        path: a run's workdir (its newest complete checkpoint) or one step folder in its
            `checkpoints`.
        size: the height and width of the input.
        colorizer: whether to export the outputs of the head, "hue" and "chroma" (or "ab"), before
            softmax, on the grid of every fourth pixel; otherwise all activations of the encoder.

    Returns:
        The checkpoint that was found, the bytes of the file, the shape of the input without batch,
        and the largest deviation of onnxruntime's outputs on noise, relative to the largest value
        of an output.

    Raises:
        WeightsError: jax2onnx is not installed, the size does not fit the network, the head is not
            one of colorization, or the outputs deviate.
        CheckpointError: there is no checkpoint, it is damaged, or it has no head.
    """
    with _contained():
        try:
            import jax2onnx
            import onnxruntime
        except ImportError:
            raise WeightsError(
                "ONNX files are written by jax2onnx, which is not installed: pip install "
                "'colorize_jax[onnx]'"
            ) from None
    folder = reading.find(path)
    encoder, variables = reading.load_encoder(folder)
    encoder = encoder.clone(dtype=jnp.float32)
    coarsest = max(encoder.strides.values()) if colorizer else 1
    if min(size) < encoder.smallest_input or any(side % coarsest for side in size):
        multiples = f" and in multiples of {coarsest}" if colorizer else ""
        raise WeightsError(
            f"--size={size[0]}x{size[1]} does not suit the network, which takes at least "
            f"{encoder.smallest_input} pixels a side{multiples}"
        )
    network = _colorizer(folder, variables) if colorizer else _encoder(encoder, variables)
    shape = (*size, encoder.in_channels)
    noise = np.random.default_rng(0).uniform(-0.4, 0.5, (2, *shape)).astype(np.float32)
    expected = jax.tree.map(np.asarray, jax.jit(network)(noise))
    names = list(expected)

    def in_order(gray):
        answers = network(gray)
        return [answers[name] for name in names]

    with _contained():
        model = jax2onnx.to_onnx(
            in_order,
            [("batch", *shape)],
            input_names=[INPUT],
            output_names=names,
        ).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    answers = session.run(names, {INPUT: noise})
    deviation = max(
        float(np.abs(answer - expected[name]).max() / max(np.abs(expected[name]).max(), 1e-30))
        for name, answer in zip(names, answers, strict=True)
    )
    if not deviation <= TOLERANCE:
        raise WeightsError(
            f"onnxruntime's answers deviate by {deviation:.1e} of the largest value, more than "
            f"{TOLERANCE:g}: these versions of jax2onnx and onnxruntime do not suit the network"
        )
    return folder, model, shape, deviation


def _encoder(encoder, variables: dict[str, Any]) -> Compute:
    def compute(gray):
        maps = encoder.apply(variables, gray, train=False)
        return {name: x for name, x in maps.items() if name != INPUT}

    return compute


def _colorizer(folder: pathlib.Path, encoder_variables: dict[str, Any]) -> Compute:
    head = reading.load_head(folder)
    note = reading.saved_note(folder)["config"]
    if "hidden" not in head or note["task"]["name"] != "colorization":
        raise WeightsError(f"{folder} has no head of colorization; leave out --colorizer")
    config = default_config(network=note["model"]["name"])
    for group in ("model", "task"):
        known = {name: value for name, value in note[group].items() if name in config[group]}
        config[group].update(known)
    config.model.dtype, config.model.remat = "float32", False
    model = colorization.make_model(config, registry.make_encoder(config.model))
    variables = {kind: {"encoder": tree} for kind, tree in encoder_variables.items()}
    variables["params"]["head"] = head
    return lambda gray: model.apply(variables, gray, method="dense")


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Silences jax2onnx's messages about unused plug-ins, and undoes its changes to JAX.

    Version 0.13.0 leaves its own function in place of `jnp.cumsum`.
    """
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    before = dict(vars(jnp))
    try:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, function in before.items():
            setattr(jnp, name, function)
