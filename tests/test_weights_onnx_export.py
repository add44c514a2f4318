"""ONNX files give the outputs of our networks, for batches of any size."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax import convert
from colorize_jax.checkpoints import writing
from colorize_jax.color import spaces
from colorize_jax.errors import ColorizeError, WeightsError
from colorize_jax.models import registry
from colorize_jax.models.heads import Head
from colorize_jax.models.point_network import PointNetwork
from colorize_jax.weights import onnx_export

VGG16 = {"name": "vgg16", "width": 1 / 32, "fc6_kernel": 3, "hidden": 8}
NETWORKS = {
    "vgg16": VGG16,
    "alexnet": {"name": "alexnet", "width": 1 / 16, "fc6_kernel": 2, "norm": "none"},
    "resnet152": {"name": "resnet152", "width": 1 / 32, "depth": 14},
}


@pytest.fixture(scope="module")
def onnxruntime():
    """Imports jax2onnx once, which takes seconds."""
    with onnx_export._contained():
        pytest.importorskip("jax2onnx", reason="writes ONNX files")
    return pytest.importorskip("onnxruntime", reason="runs ONNX files")


def saved(tmp_path, settings, rng, head=None):
    """A checkpoint with random weights; its folder, the network and its variables."""
    encoder = registry.make_encoder(registry.with_defaults(settings))
    network = encoder if head is None else PointNetwork(encoder, head)
    x = np.zeros((1, 96, 96, 1), np.float32)
    points = () if head is None else (np.zeros((1, 1, 2), np.int32),)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, *points)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32), dict(shapes)
    )
    for kernel in (x for x in jax.tree.leaves(variables["params"]) if x.ndim > 1):
        kernel *= rng.choice([-1, 1], kernel.shape)
    nested = variables
    if head is None:
        nested = {kind: {"encoder": tree} for kind, tree in variables.items()}
    writing.save_encoder(tmp_path / "checkpoint", nested, {"model": settings}, {})
    return tmp_path / "checkpoint", network, variables


def assert_answers(session, expected, x):
    names = [output.name for output in session.get_outputs()]
    assert set(names) == set(expected)
    for name, answer in zip(names, session.run(names, {"gray": x}), strict=True):
        scale = np.abs(expected[name]).max()
        assert scale > 0
        np.testing.assert_allclose(answer, expected[name], atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_encoder_answers_all_activations(network, tmp_path, rng, onnxruntime, capsys):
    folder, encoder, variables = saved(tmp_path, NETWORKS[network], rng)
    path = tmp_path / "network.onnx"
    convert.main(["to-onnx", str(folder), str(path), "--size=96x128"])
    assert "gray is [batch, 96, 128, 1]" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    photos = rng.integers(0, 256, (3, 96, 128, 3), dtype=np.uint8)
    x = np.asarray(spaces.network_input(photos))
    expected = dict(jax.jit(encoder.apply)(variables, x))
    del expected["gray"]
    assert_answers(session, expected, x)


def test_colorizer_answers_hue_and_chroma_on_the_grid(tmp_path, rng, onnxruntime):
    head = Head({"hue": 32, "chroma": 32}, hidden=8)
    folder, network, variables = saved(tmp_path, VGG16, rng, head)
    path = tmp_path / "colorizer.onnx"
    convert.to_onnx(str(folder), str(path), size=(96, 96), colorizer=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = rng.uniform(-0.4, 0.5, (1, 96, 96, 1)).astype(np.float32)
    expected = jax.jit(lambda x: network.apply(variables, x, method="dense"))(x)
    assert expected["hue"].shape == (1, 24, 24, 32)
    assert_answers(session, expected, x)


def test_jax_is_left_as_it_was(tmp_path, rng, onnxruntime):
    folder, _, _ = saved(tmp_path, NETWORKS["resnet152"], rng)
    before = dict(vars(jnp))
    convert.to_onnx(str(folder), str(tmp_path / "network.onnx"), size=(32, 32))
    assert {name for name in before if getattr(jnp, name) is not before[name]} == set()
    np.testing.assert_array_equal(jnp.cumsum(jnp.ones((2, 2)), 0), [[1, 1], [2, 2]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (96, 96), "colorizer": True}, "has no head"),
        ({"size": (96, 100), "colorizer": True}, "in multiples of 32"),
        ({"size": (96, 64)}, "at least 65 pixels a side"),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_nothing(
    options, words, tmp_path, rng, onnxruntime
):
    folder, _, _ = saved(tmp_path, VGG16 | {"fc6_padding": "VALID"}, rng)
    path = tmp_path / "network.onnx"
    with pytest.raises(ColorizeError, match=words):
        convert.to_onnx(str(folder), str(path), **options)
    assert not path.exists()


def test_without_jax2onnx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(WeightsError, match=r"pip install 'colorize_jax\[onnx\]'"):
        convert.to_onnx(str(tmp_path), str(tmp_path / "network.onnx"))
