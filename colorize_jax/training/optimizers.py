"""Optimizers by name: how gradient and rate of a step become an update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import optax

from colorize_jax.errors import ConfigError
from colorize_jax.models import finetune, registry
from colorize_jax.training import schedules
from colorize_jax.training.schedules import Schedule

Tree = Any


def kernels(params: Tree) -> Tree:
    """True for every weight; False for biases and for the scale and bias of a norm."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def biases(params: Tree) -> Tree:
    """True for every bias beside a kernel."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: path[-1] == "bias" and (*path[:-1], "kernel") in flat for path in flat}
    )


def clip_each(limit: float) -> optax.GradientTransformation:
    """Scales down every parameter's gradient whose L2 norm is above `limit` to that norm."""

    def clip(gradient):
        norm = jnp.sqrt(jnp.square(gradient).sum())
        return gradient * (limit / jnp.maximum(norm, limit))

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def scale_by_layer(encoder, decay: float) -> optax.GradientTransformation:
    """Multiplies the updates of each layer of the encoder by decay, once for every layer above it.

    The top layer of the encoder, and all groups beside the encoder, are not changed (Clark et al.,
    "ELECTRA", ICLR 2020; He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022).

    Args:
        encoder: see `models.encoder`.
        decay: above 0, at most 1.
    """
    factors = {name: decay**i for i, name in enumerate(reversed(encoder.layers))}

    def scaled(path, update):
        if path[0].key != "encoder":
            return update
        return update * factors[encoder.layer_of(path[1].key)]

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))


# Every optimizer takes `rate`, a transformation that multiplies by the rate of the step. Its state
# can hold the drops that early stopping finds. Only kernels decay.


def caffe_sgd(
    rate: optax.GradientTransformation,
    *,
    momentum: float,
    weight_decay: float,
    bias_rate: float = 1.0,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """v <- momentum v + rate (gradient + decay w);  w <- w - v.

    The rate is applied before the trace, so that a drop does not shrink the velocity gained so far.
    optax.sgd and TensorFlow apply it after the trace, which differs for some steps after every
    drop. Only kernels decay. As in Caffe and the release, a batch norm's scale and bias have
    neither decay nor `bias_rate`.

    Args:
        rate: multiplies by the rate of the step.
        momentum: the decay of the trace.
        weight_decay: the decay of kernels.
        bias_rate: multiplies the rate of biases beside a kernel; 2 in the released training file.
        clip: the limit of `clip_each`, which is applied after decay; 0 does not clip.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=kernels),
        clip_each(clip) if clip else optax.identity(),
        optax.masked(optax.scale(bias_rate), biases),
        rate,
        optax.trace(momentum),
        optax.scale(-1.0),
    )


def sgd(
    rate: optax.GradientTransformation, *, momentum: float, nesterov: bool, weight_decay: float
) -> optax.GradientTransformation:
    """v <- momentum v + gradient + decay w;  w <- w - rate v, like PyTorch's SGD.

    With `nesterov`, w <- w - rate (momentum v + gradient + decay w).
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=kernels),
        optax.sgd(1.0, momentum, nesterov),
        rate,
    )


def adam(
    rate: optax.GradientTransformation, *, b1: float, b2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
    """Adam (Kingma 2015) on gradient + decay w, like Caffe's and PyTorch's."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=kernels), optax.adam(1.0, b1, b2, eps), rate
    )


def adamw(
    rate: optax.GradientTransformation, *, b1: float, b2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
    """Adam with decoupled decay (Loshchilov 2019), like optax's and PyTorch's.

    w <- w - rate (m / (sqrt(v) + eps) + decay w)
    """
    return optax.chain(optax.adamw(1.0, b1, b2, eps, weight_decay=weight_decay, mask=kernels), rate)


def lars(
    rate: optax.GradientTransformation, *, momentum: float, trust: float, weight_decay: float
) -> optax.GradientTransformation:
    """LARS (You 2017): v <- momentum v + rate trust |w| / |g| g with g = gradient + decay w;
    w <- w - v. If a norm is 0, trust |w| / |g| is 1.

    As in SimCLR, only kernels have trust and decay; the rest is SGD with momentum. It is built of
    the parts of optax.lars, because that only takes a rate that is a function of the step.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=kernels),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust), kernels),
        rate,
        optax.trace(momentum),
        optax.scale(-1.0),
    )


class Choice(NamedTuple):
    """An optimizer that `config.optimizer.name` can choose.

    Attributes:
        make: (rate, **settings) -> the optimizer.
        settings: the optimizer's own settings with their defaults.
    """

    make: Callable[..., optax.GradientTransformation]
    settings: Mapping[str, Any]


OPTIMIZERS = {
    "caffe_sgd": Choice(
        caffe_sgd,
        {
            "bias_rate": 2.0,  # Biases learn this many times as fast.
            # The largest norm of the gradient of one parameter. 0 allows any.
            "clip": 0.0,
            "momentum": 0.9,  # The share of the last update in the next one.
            "weight_decay": 5e-4,  # Decays weights, not biases.
        },
    ),
    "sgd": Choice(
        sgd,
        {
            "momentum": 0.9,  # The share of the last direction in the next one.
            "nesterov": False,  # Looks ahead by one step of the momentum.
            "weight_decay": 5e-4,  # Decays weights, not biases, as a part of the gradient.
        },
    ),
    "adam": Choice(
        adam,
        {
            "b1": 0.9,  # The decay of the running mean of the gradient.
            "b2": 0.999,  # The decay of the running mean of its square.
            "eps": 1e-8,  # Added to the root of that mean.
            "weight_decay": 0.0,  # Decays weights, not biases, as a part of the gradient.
        },
    ),
    "adamw": Choice(
        adamw,
        {
            "b1": 0.9,  # The decay of the running mean of the gradient.
            "b2": 0.999,  # The decay of the running mean of its square.
            "eps": 1e-8,  # Added to the root of that mean.
            "weight_decay": 0.05,  # Decays weights, not biases, apart from the gradient.
        },
    ),
    "lars": Choice(
        lars,
        {
            "momentum": 0.9,  # The share of the last update in the next one.
            # The norm of an update at rate 1, as a share of the norm of the weights.
            "trust": 1e-3,
            "weight_decay": 1e-6,  # Decays weights, not biases, as a part of the gradient.
        },
    ),
}
SETTINGS = {name: choice.settings for name, choice in OPTIMIZERS.items()}


def names() -> tuple[str, ...]:
    """The names of all optimizers."""
    return tuple(SETTINGS)


def own_settings(name: str) -> Mapping[str, Any]:
    """The own settings of an optimizer in `config.optimizer`; see `config.choices`."""
    if name not in SETTINGS:
        raise ConfigError(f"config.optimizer.name is {name!r}; known: {', '.join(SETTINGS)}")
    return SETTINGS[name]


def make_optimizer(
    config, schedule: Schedule, frozen: Sequence[str] = ()
) -> optax.GradientTransformation:
    """The optimizer of a run with that schedule.

    All groups of `config.optimizer.groups` are updated in the same step from one gradient, and not
    in turns. If groups have opposite objectives, as with a discriminator, the task's loss must say
    so by `jax.lax.stop_gradient` and signs.

    Args:
        config: the config of the run.
        schedule: what `schedules.make_schedule` returned.
        frozen: the groups of the encoder's parameters that are not changed.

    Raises:
        ConfigError: an optimizer is unknown. The optimizer's `init` raises it too, if the
            parameters lack a group.
    """
    groups = tuple(config.optimizer.groups)
    rest = _make(config, schedule)
    if not groups and not frozen:
        return rest
    parts = {finetune.trained(group): _make(config, schedule, group) for group in groups}

    def labels(params):
        if unknown := [group for group in groups if group not in params]:
            raise ConfigError(
                f"config.optimizer.groups.{unknown[0]}: the model has no such group of parameters; "
                f"it has {', '.join(sorted(params))}"
            )
        return finetune.labels(params, frozen, groups)

    return optax.partition(
        {finetune.TRAINED: rest, finetune.FROZEN: optax.set_to_zero()} | parts, labels
    )


def rates(config, schedule: Schedule, step: int) -> dict[str, float]:
    """The learning rates of a step, counted from 0: {"train/rate": ...}.

    Every group of `config.optimizer.groups` with its own rate adds "train/rate/<group>".
    """
    groups = config.optimizer.groups
    named = {f"train/rate/{group}": group for group in groups if "rate" in groups[group]}
    return {
        name: float(schedule.rate(initial_rate(config, group))(step))
        for name, group in ({"train/rate": ""} | named).items()
    }


def initial_rate(config, group: str = "") -> float:
    """`optimizer.rate` of a group, or of the parameters in no group ("").

    It is scaled linearly with the batch if `optimizer.rate_batch_size` is not 0.
    """
    rate, scale = _settings(config, group)["rate"], config.optimizer.rate_batch_size
    return rate * (config.data.batch_size / scale if scale else 1)


def _make(config, schedule: Schedule, group: str = "") -> optax.GradientTransformation:
    settings = _settings(config, group)
    own = {name: settings[name] for name in own_settings(settings["name"])}
    rate = schedule.rate(initial_rate(config, group))
    if config.early_stopping.mode == "search":
        scale = schedules.scale_by_found_drops(rate, schedule.factor)
    else:
        scale = optax.scale_by_schedule(rate)
    if config.optimizer.layer_decay != 1:
        encoder = registry.make_encoder(config.model)
        scale = optax.chain(scale_by_layer(encoder, config.optimizer.layer_decay), scale)
    return OPTIMIZERS[settings["name"]].make(scale, **own)


def _settings(config, group: str) -> dict[str, Any]:
    """Name, rate and own settings of a group's optimizer, or of the parameters in no group ("").

    A setting that the group does not have is taken from the optimizer of the rest, or is the
    default if the group has another optimizer.
    """
    rest = dict(config.optimizer)
    changes = dict(config.optimizer.groups[group]) if group else {}
    if changes.get("name", rest["name"]) != rest["name"]:
        rest = {"rate": rest["rate"], **own_settings(changes["name"])}
    return rest | changes
