"""SGD with momentum in Caffe's form, and how its rate drops: by a schedule or as training finds."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import optax

from colorize_jax.errors import ConfigError
from colorize_jax.models import finetune
from colorize_jax.training import early_stopping

NEVER = jnp.iinfo(jnp.int32).max
MOST_DROPS = 2  # that early stopping makes


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a run is and where its rate drops, in steps.

    Attributes:
        steps: length of the run.
        drops: steps from which on the rate is `factor` of what it was.
        snapshots: steps whose checkpoint is kept for good.
        factor: see `drops`.
    """

    steps: int
    drops: tuple[int, ...]
    snapshots: tuple[int, ...]
    factor: float = 0.1

    def rate(self, initial: float) -> Callable[[jax.Array], jax.Array]:
        """step -> rate, a float32 scalar."""
        return optax.piecewise_constant_schedule(
            initial, {step: self.factor ** self.drops.count(step) for step in self.drops}
        )


def make_schedule(config, photos: int) -> Schedule:
    """Converts the config's epochs over `photos` training photos to steps.

    `config.schedule_from`, where it is given, has length and drops. Otherwise `config.steps`, where
    it is not 0, is the length, else `schedule.epochs` is; `schedule.drops` are fractions of the
    length. `checkpoint.snapshots` are epochs; those past the end are left out. While early stopping
    searches there are no drops yet, and the length is the longest that the run may take.
    """
    batch, factor = config.data.batch_size, config.schedule.factor
    searching = config.early_stopping.mode == "search"
    if config.schedule_from and searching:
        raise ConfigError(
            "config.early_stopping.mode='search' finds a schedule: leave out config.schedule_from"
        )
    if config.schedule_from:
        found = early_stopping.read_schedule(config.schedule_from)
        (steps, drops), factor = found.scaled(photos, batch), early_stopping.FACTOR
    else:
        steps, drops = _from_config(config, photos)
    if steps >= NEVER:
        raise ConfigError(
            f"{steps:,} steps are more than a run can count, which is {NEVER - 1:,}: lower "
            "config.steps or config.schedule.epochs"
        )
    if searching:
        drops, factor = (), early_stopping.FACTOR
    snapshots = (round(epochs * photos / batch) for epochs in config.checkpoint.snapshots)
    return Schedule(
        steps=steps,
        drops=drops,
        snapshots=tuple(step for step in snapshots if 0 < step <= steps),
        factor=factor,
    )


def _from_config(config, photos: int) -> tuple[int, tuple[int, ...]]:
    fractions, batch = tuple(config.schedule.drops), config.data.batch_size
    if any(not 0 < f < 1 for f in fractions) or list(fractions) != sorted(fractions):
        raise ConfigError(
            f"config.schedule.drops={fractions}: give increasing fractions of the run, between 0 "
            "and 1"
        )
    steps = config.steps or round(config.schedule.epochs * photos / batch)
    if steps < 1:
        raise ConfigError(
            f"the run has no step: {config.schedule.epochs} epochs of {photos} photos in batches "
            f"of {batch}; raise config.schedule.epochs or set config.steps"
        )
    return steps, tuple(round(fraction * steps) for fraction in fractions)


def initial_rate(config) -> float:
    """`optimizer.rate`, scaled linearly with the batch if `optimizer.rate_batch_size` is not 0."""
    scale = config.optimizer.rate_batch_size
    return config.optimizer.rate * (config.data.batch_size / scale if scale else 1)


class FoundDrops(NamedTuple):
    """Steps done, and the steps from which on the rate is lower: `NEVER` until they are found."""

    count: jax.Array
    drops: jax.Array


def scale_by_found_drops(initial: float, factor: float) -> optax.GradientTransformation:
    """The rate of a run whose drops are not known beforehand: they stand in the state, so that they
    are saved with it and need no other program; see `drop_from`."""

    def init(params):
        del params
        return FoundDrops(jnp.zeros((), jnp.int32), jnp.full(MOST_DROPS, NEVER, jnp.int32))

    def update(updates, state, params=None):
        del params
        rate = initial * factor ** (state.count >= state.drops).sum()
        return jax.tree.map(lambda u: rate * u, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def drop_from(opt_state, steps: Sequence[int]):
    """The optimizer's state with the rate dropped from these steps on, at most `MOST_DROPS`."""
    drops = jnp.array([*steps, *[NEVER] * (MOST_DROPS - len(steps))], jnp.int32)
    return optax.tree.set(opt_state, drops=drops)


def clip_each(limit: float) -> optax.GradientTransformation:
    """Scales the gradient of every parameter whose L2 norm is above `limit` down to it."""

    def clip(gradient):
        norm = jnp.sqrt(jnp.square(gradient).sum())
        return gradient * (limit / jnp.maximum(norm, limit))

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def caffe_sgd(
    rate: optax.GradientTransformation,
    *,
    momentum: float,
    weight_decay: float,
    bias_rate: float = 1.0,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """v <- momentum v + rate (gradient + decay w);  w <- w - v.

    The rate is applied before the trace, so that a drop does not shrink the speed already gained;
    optax.sgd and TensorFlow apply it after, which differs for some steps behind every drop. Only
    kernels decay. A batch norm's scale and bias are no weights and no biases: they have neither
    decay nor `bias_rate`, as Caffe and the release have them.

    Args:
        rate: multiplies by the rate of the step.
        momentum: of the trace.
        weight_decay: of kernels.
        bias_rate: times the rate for biases beside a kernel; 2 in the released training file.
        clip: see `clip_each`, after decay; 0: not done.
    """

    def kernels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    def biases(params):
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict(
            {path: path[-1] == "bias" and (*path[:-1], "kernel") in flat for path in flat}
        )

    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=kernels),
        clip_each(clip) if clip else optax.identity(),
        optax.masked(optax.scale(bias_rate), biases),
        rate,
        optax.trace(momentum),
        optax.scale(-1.0),
    )


def make_optimizer(
    config, schedule: Schedule, frozen: Sequence[str] = ()
) -> optax.GradientTransformation:
    """The optimizer of the recipe for a run of that schedule; groups of the encoder's parameters
    in `frozen` stay as they are."""
    settings, initial = config.optimizer, initial_rate(config)
    if config.early_stopping.mode == "search":
        rate = scale_by_found_drops(initial, schedule.factor)
    else:
        rate = optax.scale_by_schedule(schedule.rate(initial))
    sgd = caffe_sgd(
        rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        bias_rate=settings.bias_rate,
        clip=settings.clip,
    )
    if not frozen:
        return sgd
    return optax.partition(
        {"trained": sgd, "frozen": optax.set_to_zero()},
        lambda params: finetune.labels(params, frozen),
    )
