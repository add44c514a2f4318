"""Schedules: the length of a run and its learning rate at every step, planned or found."""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from colorize_jax.errors import ConfigError
from colorize_jax.training import early_stopping

NEVER = jnp.iinfo(jnp.int32).max
MOST_DROPS = 2  # The number of drops that early stopping makes.

# `config.schedule.name` -> the settings that only this schedule has, with their defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "drops": {
        # Where the rate drops, as fractions of the run: 2.0, 2.5 and 2.75 of 3 epochs.
        "drops": (2.0 / 3, 2.5 / 3, 2.75 / 3),
        # Multiplies the rate at every drop. Early stopping always takes 0.1.
        "factor": 0.1,
    },
    "cosine": {
        "end": 0.0,  # The share of the rate that is left at the end of the run.
    },
    "constant": {},
}


def names() -> tuple[str, ...]:
    """The names of all schedules."""
    return tuple(SETTINGS)


def own_settings(name: str) -> dict[str, Any]:
    """The own settings of a schedule in `config.schedule`; see `config.choices`."""
    if name not in SETTINGS:
        raise ConfigError(f"config.schedule.name is {name!r}; known: {', '.join(SETTINGS)}")
    return SETTINGS[name]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The length of a run and the changes of its rate, in steps.

    Attributes:
        steps: the length of the run.
        drops: the steps from which on the rate is `factor` times the rate before.
        snapshots: the steps whose checkpoints are never removed.
        factor: see `drops`.
        warmup: the number of steps in which the rate rises linearly from zero.
        end: the share of the rate that is left after `steps`, if the rate falls by half a cosine
            after the warm-up; None if it falls only at drops.
    """

    steps: int
    drops: tuple[int, ...]
    snapshots: tuple[int, ...]
    factor: float = 0.1
    warmup: int = 0
    end: float | None = None

    def rate(self, initial: float) -> optax.Schedule:
        """step -> rate, a float32 scalar; `initial` is the rate after the warm-up."""
        if self.end is not None:
            return optax.warmup_cosine_decay_schedule(
                0.0, initial, self.warmup, self.steps, end_value=self.end * initial
            )
        falling = optax.piecewise_constant_schedule(
            initial, {step: self.factor ** self.drops.count(step) for step in self.drops}
        )
        if not self.warmup:
            return falling
        rising = optax.linear_schedule(0.0, 1.0, self.warmup)
        return lambda step: rising(step) * falling(step)


def make_schedule(config, photos: int) -> Schedule:
    """Converts the config's epochs over `photos` training photos to steps.

    If `config.schedule_from` is given, it has the length and the drops. Otherwise the length is
    `config.steps`, or `schedule.epochs` if that is 0; `schedule.warmup` and `schedule.drops` are
    fractions of the length. `checkpoint.snapshots` are epochs; those after the end are left out.
    While early stopping searches, there are no drops yet, and the length is the longest allowed.

    Raises:
        ConfigError: the run has no step, or early stopping is used with a schedule without drops.
    """
    batch, settings = config.data.batch_size, config.schedule
    searching = config.early_stopping.mode == "search"
    if config.schedule_from and searching:
        raise ConfigError(
            "config.early_stopping.mode='search' finds a schedule: leave out config.schedule_from"
        )
    if (config.schedule_from or searching) and settings.name != "drops":
        finds = "schedule_from" if config.schedule_from else "early_stopping"
        raise ConfigError(
            f"config.{finds} gives a schedule of drops, and config.schedule.name is "
            f"{settings.name!r}: set config.schedule.name='drops'"
        )
    factor = settings.get("factor", 1.0)
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
    warmup = round(settings.warmup * steps)
    if warmup >= steps:
        raise ConfigError(
            f"config.schedule.warmup={settings.warmup} is the whole run: give a smaller fraction"
        )
    snapshots = (round(epochs * photos / batch) for epochs in config.checkpoint.snapshots)
    return Schedule(
        steps=steps,
        drops=drops,
        snapshots=tuple(step for step in snapshots if 0 < step <= steps),
        factor=factor,
        warmup=warmup,
        end=settings.get("end"),
    )


def _from_config(config, photos: int) -> tuple[int, tuple[int, ...]]:
    fractions, batch = tuple(config.schedule.get("drops", ())), config.data.batch_size
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


class FoundDrops(NamedTuple):
    """The steps done, and the steps of the drops, which are `NEVER` until they are found."""

    count: jax.Array
    drops: jax.Array


def scale_by_found_drops(rate: optax.Schedule, factor: float) -> optax.GradientTransformation:
    """Scales updates by a rate whose drops are found during the run.

    The drops are part of the optimizer's state. So they are saved with it, and the step need not be
    compiled again; see `drop_from`.

    Args:
        rate: step -> the rate without any drop.
        factor: multiplies the rate at every drop.
    """

    def init(params):
        del params
        return FoundDrops(jnp.zeros((), jnp.int32), jnp.full(MOST_DROPS, NEVER, jnp.int32))

    def update(updates, state, params=None):
        del params
        now = rate(state.count) * factor ** (state.count >= state.drops).sum()
        return jax.tree.map(lambda u: now * u, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def drop_from(opt_state, steps: Sequence[int]):
    """The optimizer's state with drops of the rate at these steps, at most `MOST_DROPS`."""
    drops = jnp.array([*steps, *[NEVER] * (MOST_DROPS - len(steps))], jnp.int32)
    return optax.tree.set(opt_state, _of_schedule, drops=drops)


def pass_over(opt_state, step: int | jax.Array):
    """The optimizer's state with its schedule set to `step` done steps.

    Adam's own count of updates stays, because a skipped step is no update.
    """
    return optax.tree.set(opt_state, _of_schedule, count=jnp.asarray(step, jnp.int32))


def _of_schedule(path: Sequence[Any], value: Any) -> bool:
    """Whether a leaf of the optimizer's state belongs to its schedule."""
    del value
    return getattr(path[-1], "tuple_name", "") in ("FoundDrops", "ScaleByScheduleState")
