"""Encoder and linear classifier together: averaging, and names of parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.models.classifier import Classifier
from colorize_jax.models.vgg16 import Vgg16


class Top(nn.Module):
    """An encoder whose top layer is its input, multiplied by three in training."""

    top = "top"

    @nn.compact
    def __call__(self, gray, train=False):  # noqa: D102
        return {"below": gray + 1, "top": gray * (3 if train else 1)}


def _classifier(rng, classes=5, channels=3, **settings):
    network = Classifier(Top(), classes, **settings)
    params = {
        "head": {
            "classes": {
                "kernel": jnp.asarray(rng.normal(size=(channels, classes)), jnp.float32),
                "bias": jnp.asarray(rng.normal(size=classes), jnp.float32),
            }
        }
    }
    return network, {"params": params}


def _at_every_position(variables, top):
    layer = variables["params"]["head"]["classes"]
    return np.asarray(top) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def test_answer_is_the_mean_of_the_answers_at_every_position(rng):
    network, variables = _classifier(rng)
    top = jnp.asarray(rng.normal(size=(2, 3, 4, 3)), jnp.float32)
    expected = _at_every_position(variables, top).mean((1, 2))
    np.testing.assert_allclose(network.apply(variables, top), expected, atol=1e-5)


def test_positions_outside_have_no_say_and_partial_ones_a_part(rng):
    network, variables = _classifier(rng)
    top = jnp.asarray(rng.normal(size=(2, 3, 4, 3)), jnp.float32)
    inside = np.zeros((2, 3, 4))
    inside[0, 1, 2], inside[1, 0, :2] = 1, (1, 0.5)
    answers = _at_every_position(variables, top)
    expected = [answers[0, 1, 2], (answers[1, 0, 0] + 0.5 * answers[1, 0, 1]) / 1.5]
    np.testing.assert_allclose(network.apply(variables, top, inside), expected, atol=1e-5)


def test_a_row_without_any_position_inside_is_averaged_over_all(rng):
    network, variables = _classifier(rng)
    top = jnp.asarray(rng.normal(size=(2, 3, 4, 3)), jnp.float32)
    inside = np.zeros((2, 3, 4), bool)
    inside[1, 0, 0] = True
    logits = network.apply(variables, top, inside)
    np.testing.assert_allclose(logits[0], network.apply(variables, top)[0], atol=1e-6)
    assert np.abs(logits[1] - network.apply(variables, top)[1]).max() > 1e-2


def test_half_precision_answers_in_single_precision(rng):
    network, variables = _classifier(rng, dtype=jnp.bfloat16)
    top = jnp.asarray(rng.normal(size=(2, 3, 4, 3)), jnp.float32)
    logits = network.apply(variables, top.astype(jnp.bfloat16))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, network.apply(variables, top), atol=0.1)


def test_training_reaches_the_encoder(rng):
    network, variables = _classifier(rng)
    top = jnp.asarray(rng.normal(size=(2, 3, 4, 3)), jnp.float32)
    expected = network.apply(variables, 3 * top)
    np.testing.assert_allclose(network.apply(variables, top, train=True), expected, atol=1e-5)


def test_on_vgg16_parameters_have_their_places():
    network = Classifier(Vgg16(width=1 / 32, fc6_kernel=3, fc6_padding="VALID"), 20)
    gray = jax.ShapeDtypeStruct((2, 96, 96, 1), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), gray)
    assert set(variables["params"]) == {"encoder", "head"}
    shapes = jax.tree.map(jnp.shape, variables["params"]["head"])
    assert shapes == {"classes": {"kernel": (128, 20), "bias": (20,)}}
    assert jax.eval_shape(network.apply, variables, gray).shape == (2, 20)
