"""A task whose network has a teacher: the running average of its head, in the collection "ema"."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.tasks.task import Task

SETTINGS = {"decay": 0.9}  # The share of the old average in the new one.


class Head(nn.Module):
    """A linear map of features, and the same by the average of its kernels."""

    decay: float

    @nn.compact
    def __call__(self, x, train):
        """Features [batch, channels] -> what the head and its teacher say, [batch, 4] each."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4))
        average = self.variable("ema", "kernel", lambda: kernel)
        if train and not self.is_initializing():
            old, new = average.value, jax.lax.stop_gradient(kernel)
            average.value = self.decay * old + (1 - self.decay) * new
        return x @ kernel, x @ average.value


class Network(nn.Module):
    """Encoder -> mean of the top -> head."""

    encoder: nn.Module
    head: Head

    def __call__(self, images, train=False):
        """See `Head`."""
        means = self.encoder(images, train)[self.encoder.top].mean((1, 2))
        return self.head(means, train)


def make_task(config, encoder, facts):
    """The head learns the mean color of a photo, and to agree with its teacher."""
    model = Network(encoder, Head(config.task.decay))

    def prepare(keys, batch):
        colors = batch["image"].astype(jnp.float32).mean((1, 2)) / 255
        inputs = (encoder.network_input(batch["image"]),)
        return inputs, {"colors": colors, "valid": batch["valid"]}

    def loss(outputs, targets):
        student, teacher = outputs
        error = jnp.square(student[:, :3] - targets["colors"]).sum(1)
        error += jnp.square(student - jax.lax.stop_gradient(teacher)).sum(1)
        valid = targets["valid"].astype(jnp.float32)
        return {"loss": error * valid}, valid

    return Task(model, prepare, loss)
