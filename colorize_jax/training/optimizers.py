"""SGD with momentum in Caffe's form, and the step schedule of the recipe."""

from collections.abc import Callable
import dataclasses
import operator

import jax
import optax

from colorize_jax.errors import ConfigError

BIAS_RATE = 2.0  # the released training file: biases learn twice as fast, without decay
DROP = 0.1


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a run is and where its rate drops, in steps.

    Attributes:
        steps: length of the run.
        drops: steps from which on the rate is a tenth of what it was.
        snapshots: steps whose checkpoint is kept for good.
    """

    steps: int
    drops: tuple[int, ...]
    snapshots: tuple[int, ...]

    def rate(self, initial: float) -> Callable[[jax.Array], jax.Array]:
        """step -> rate, a float32 scalar."""
        return optax.piecewise_constant_schedule(initial, {step: DROP for step in self.drops})


def make_schedule(config, photos: int) -> Schedule:
    """Converts the config's epochs over `photos` training photos to steps.

    `config.steps`, where it is not 0, is the length; otherwise `schedule.epochs` is.
    `schedule.drops` are fractions of the length, `checkpoint.snapshots` are epochs; those past the
    end are left out.
    """
    drops, batch = tuple(config.schedule.drops), config.data.batch_size
    if any(not 0 < drop < 1 for drop in drops) or list(drops) != sorted(drops):
        raise ConfigError(
            f"config.schedule.drops={drops}: give increasing fractions of the run, between 0 and 1"
        )
    steps = config.steps or round(config.schedule.epochs * photos / batch)
    if steps < 1:
        raise ConfigError(
            f"the run has no step: {config.schedule.epochs} epochs of {photos} photos in batches "
            f"of {batch}; raise config.schedule.epochs or set config.steps"
        )
    snapshots = (round(epochs * photos / batch) for epochs in config.checkpoint.snapshots)
    return Schedule(
        steps=steps,
        drops=tuple(round(drop * steps) for drop in drops),
        snapshots=tuple(step for step in snapshots if 0 < step <= steps),
    )


def initial_rate(config) -> float:
    """`optimizer.rate`, scaled linearly with the batch if `optimizer.rate_batch_size` is not 0."""
    scale = config.optimizer.rate_batch_size
    return config.optimizer.rate * (config.data.batch_size / scale if scale else 1)


def caffe_sgd(
    rate: Callable[[jax.Array], jax.Array], *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """v <- momentum v + rate (gradient + decay w);  w <- w - v.

    The rate is applied before the trace, so that a drop does not shrink the speed already gained;
    optax.sgd and TensorFlow apply it after, which differs for some steps behind every drop. Biases
    (leaves named "bias") have twice the rate and no decay.
    """

    def named_bias(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "bias", params)

    def weights(params):
        return jax.tree.map(operator.not_, named_bias(params))

    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=weights),
        optax.masked(optax.scale(BIAS_RATE), named_bias),
        optax.scale_by_schedule(rate),
        optax.trace(momentum),
        optax.scale(-1.0),
    )


def make_optimizer(config, schedule: Schedule) -> optax.GradientTransformation:
    """The optimizer of the recipe for a run of that schedule."""
    settings = config.optimizer
    return caffe_sgd(
        schedule.rate(initial_rate(config)),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
