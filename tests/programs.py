"""Runs of one process share what they compile, where their settings lead to the same programs.

Most tests of runs train the same small network, and tracing and compiling it takes most of their
time. A run in a process of its own, as tests of commands start them, shares nothing.
"""

from collections import OrderedDict
import functools

import jax

from colorize_jax.tasks.task import batch_shapes
from colorize_jax.training import optimizers, setup, sharding
from colorize_jax.training.runner import Runner
from colorize_jax.training.setup import Setup
from colorize_jax.training.step import init_state

# No task reads these settings: it gets a config without them, and would fail by name.
_FREE = (
    "steps", "init_from", "schedule_from", "rebalance_photos", "replay", "nonfinite_skips",
    "distributed", "optimizer", "schedule", "early_stopping", "checkpoint", "evals", "log",
    "eval.every", "eval.photos", "eval.pictures", "data.source", "data.split", "data.eval_split",
    "data.holdout", "data.threads", "data.workers", "data.retry_seconds",
)  # fmt: skip
_KEPT = 24  # The number of results that a function remembers.


def abstract_state(task, optimizer, config):
    """The shapes of a run's state; nothing is allocated."""
    start = functools.partial(init_state, task=task, optimizer=optimizer)
    return jax.eval_shape(start, jax.random.key(0), batch=batch_shapes(task, config))


def remembered(plain, key_of):
    """The function, returning the same object for arguments of the same key."""
    known = OrderedDict()

    @functools.wraps(plain)
    def remembering(*arguments, **named):
        key = key_of(*arguments, **named)
        if key not in known:
            # The arguments stay alive, so that no other object gets an id that is in a key.
            known[key] = plain(*arguments, **named), (arguments, named)
        known.move_to_end(key)
        while len(known) > _KEPT:
            known.popitem(last=False)
        return known[key][0]

    return remembering


def bare(config):
    """A copy of the config without `_FREE`."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for name in _FREE:
            *groups, last = name.split(".")
            del functools.reduce(getattr, groups, config)[last]
    return config


class _Lowered:
    """A lowered step that is compiled once."""

    def __init__(self, lowered):
        self._lowered, self.compile = lowered, functools.cache(lowered.compile)

    def __getattr__(self, name):
        return getattr(self._lowered, name)


def share(patch):
    """Makes runs share tasks, optimizers and all that is compiled from them.

    Args:
        patch: pytest's MonkeyPatch; where it is undone, they share nothing any more.
    """
    make_task, lower_step = setup.make_task, Setup.lower_step

    def remember(owner, name, key_of):
        patch.setattr(owner, name, remembered(getattr(owner, name), key_of))

    patch.setattr(setup, "make_task", lambda config, facts: make_task(bare(config), facts))
    remember(setup, "make_task", lambda config, facts: (bare(config).to_json(), facts))
    remember(
        optimizers, "make_optimizer",
        lambda config, schedule, frozen=(): (
            config.optimizer.to_json(), config.model.to_json(), config.data.batch_size,
            config.early_stopping.mode, schedule, frozen,
        ),
    )  # fmt: skip
    # Tasks and evaluators are compared by identity, as JAX compares functions.
    initialize = remembered(Setup.initialize.func, lambda setup: (id(setup.task), setup.optimizer))
    patch.setattr(Setup, "initialize", property(initialize))
    remember(setup, "Runner", lambda task, *rest: (id(task), *rest))
    remember(Runner, "of", lambda runner, evaluator: (runner, id(evaluator)))
    patch.setattr(Setup, "lower_step", lambda *of, **named: _Lowered(lower_step(*of, **named)))
    # A test may have replaced `jit_step`.
    remember(
        Setup, "lower_step",
        lambda setup, microbatches, batch=None, platform="": (
            id(setup.task), setup.optimizer, setup.mesh, microbatches, sharding.jit_step,
            str(jax.tree.map(jax.typeof, batch or setup.batch_shapes)), platform,
        ),
    )  # fmt: skip
