"""Receptive fields: those of the papers' networks by the numbers that are known of them."""

import flax.linen as nn
import pytest
import small_encoder

from colorize_jax.analysis import receptive
from colorize_jax.errors import ConfigError
from colorize_jax.models import registry
from colorize_jax.models.encoder import Encoder

# {layer: size, stride, center of the first cell}, by hand from kernels and strides.
VGG = {
    "conv1_1": (3, 1, 0), "conv1_2": (5, 1, 0), "conv2_1": (10, 2, 0.5), "conv2_2": (14, 2, 0.5),
    "conv3_1": (24, 4, 1.5), "conv3_3": (40, 4, 1.5), "conv4_1": (60, 8, 3.5),
    "conv4_3": (92, 8, 3.5), "conv5_1": (132, 16, 7.5), "conv5_3": (196, 16, 7.5),
    "fc6": (404, 32, 15.5), "fc7": (404, 32, 15.5),
}  # fmt: skip
ALEXNET = {  # of 227 pixels, without padding in conv1, pools and fc6
    "conv1": (11, 4, 5), "conv2": (51, 8, 9), "conv3": (99, 16, 17), "conv4": (131, 16, 17),
    "conv5": (163, 16, 17), "fc6": (355, 32, 113), "fc7": (355, 32, 113),
}  # fmt: skip
ALEXNET_BN = ALEXNET | {  # of 224 pixels, with a padding of 2 in conv1
    "conv1": (11, 4, 3), "conv2": (51, 8, 7), "conv3": (99, 16, 15), "conv4": (131, 16, 15),
    "conv5": (163, 16, 15), "fc6": (355, 32, 111), "fc7": (355, 32, 111),
}  # fmt: skip
RESNET152 = {
    "conv1": (7, 2, 0), "res2c": (35, 4, 2), "res3b7": (163, 8, 2), "res4b35": (1315, 16, 2),
    "res5c": (1507, 32, 2),
}  # fmt: skip


def _found(encoder, layers, side):
    found = receptive.fields(encoder, layers, side)
    return {layer: (f.size, f.stride, f.center) for layer, f in found.items()}


def _check(name, known, side, **settings):
    encoder = registry.make_encoder({"name": name, **settings})
    assert _found(encoder, tuple(known), side) == known


def test_fields_of_vgg_up_to_its_third_block():
    _check("vgg16", {name: VGG[name] for name in VGG if name <= "conv3_3"}, 352)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "known", "side", "settings"),
    [
        ("vgg16", VGG, 352, {}),
        ("alexnet", ALEXNET, 227, {"fc6_padding": "VALID"}),
        ("alexnet_bn", ALEXNET_BN, 224, {"fc6_padding": "VALID"}),
        ("resnet152", RESNET152, 224, {}),
    ],
)
def test_fields_of_whole_networks(name, known, side, settings):
    _check(name, known, side, **settings)


def test_a_stride_puts_the_odd_cell_of_padding_behind_so_that_the_side_matters():
    encoder = small_encoder.SmallEncoder()
    layers = ("conv1", "conv3")
    assert _found(encoder, layers, 32) == {"conv1": (3, 2, 1), "conv3": (15, 4, 3)}
    assert _found(encoder, layers, 33) == {"conv1": (3, 2, 0), "conv3": (15, 4, 0)}


class _Own(Encoder):
    """A convolution of stride 2, and what depends on the whole photo, on nothing, and a lie."""

    strides = {"gray": 1, "conv1": 2, "mean": 2, "flat": 2, "lie": 4}  # noqa: RUF012

    @nn.compact
    def __call__(self, image, train=False):
        x = nn.Conv(2, (4, 4), 2, padding=1)(image)
        return {"gray": image, "conv1": x, "mean": x - x.mean((1, 2), keepdims=True),
                "flat": 0 * nn.relu(x > 0), "lie": x}  # fmt: skip


def test_fields_of_an_own_network(monkeypatch):
    monkeypatch.setattr(receptive, "_LARGEST", 100)
    assert _found(_Own(), ("conv1",), 64) == {"conv1": (4, 2, 0.5)}
    assert receptive.fields(_Own(), ("mean",), 64) == {"mean": None}
    with pytest.raises(ConfigError, match="flat cannot be found"):
        receptive.fields(_Own(), ("flat",), 64)
    with pytest.raises(ConfigError, match="lie are not 4 pixels apart"):
        receptive.fields(_Own(), ("lie",), 64)
