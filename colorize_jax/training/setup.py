"""Builds the parts of a run that never change, for train, evaluate, replay and bench."""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
from jax.sharding import Mesh, Sharding
from ml_collections import ConfigDict
import optax

from colorize_jax.config import check_numbers
from colorize_jax.data import pipeline, splits
from colorize_jax.data.labelled import Labelled
from colorize_jax.data.sources import Photos
from colorize_jax.data.splits import Splits
from colorize_jax.log import say_once
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Batch, Facts, Task, batch_shapes
from colorize_jax.training import memory, optimizers, schedules, sharding
from colorize_jax.training.probing import Probe
from colorize_jax.training.runner import Runner
from colorize_jax.training.schedules import Schedule
from colorize_jax.training.step import TrainState, init_state

# The number of photos if none are opened: it only affects the steps of the drops.
_MANY_PHOTOS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run that never change.

    Attributes:
        config: the config of the run.
        mesh: the mesh of its devices.
        photos: the splits; None if only shapes are needed.
        task: the task.
        runner: the task's runner.
        schedule, optimizer: None if nothing is trained.
        probes: the probes of `config.evals`, by name; empty if nothing is evaluated.
    """

    config: ConfigDict
    mesh: Mesh
    photos: Splits | None
    task: Task
    runner: Runner
    schedule: Schedule | None
    optimizer: optax.GradientTransformation | None
    probes: Mapping[str, Probe] = dataclasses.field(default_factory=dict)

    @property
    def training(self) -> Photos | Labelled:
        """The photos to train on."""
        return self.photos.training

    @property
    def held_out(self) -> Photos | Labelled:
        """The photos to evaluate on."""
        return self.photos.evaluation

    @property
    def key(self) -> jax.Array:
        """The key of the run, from which all others are derived."""
        return jax.random.key(self.config.seed)

    @property
    def host(self) -> dict[str, int]:
        """The number of this host and of all hosts, for `pipeline`."""
        return {"host": jax.process_index(), "hosts": jax.process_count()}

    @property
    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a training batch."""
        return batch_shapes(self.task, self.config)

    @functools.cached_property
    def initialize(self) -> Callable:
        """`init_state(key, batch=...)`: one function, which JAX traces once, for all that asks."""
        return functools.partial(init_state, task=self.task, optimizer=self.optimizer)

    def abstract_state(self, batch: Batch | None = None) -> TrainState:
        """The shapes of the state for a batch (None: `batch_shapes`); nothing is allocated."""
        found = jax.eval_shape(self.initialize, self.key, batch=batch or self.batch_shapes)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found)

    def places(self, batch: Batch | None = None) -> Sharding | TrainState:
        """The sharding of all arrays of the state, or a state of shardings if the task splits some.

        Args:
            batch: see `abstract_state`.
        """
        if not self.task.split:
            return sharding.replicated(self.mesh)
        return sharding.of_state(self.task, self.abstract_state(batch), self.mesh)

    def lower_step(
        self, microbatches: int, batch: Batch | None = None, platform: str = ""
    ) -> jax.stages.Lowered:
        """The step with this number of microbatches, lowered for the devices of the mesh.

        Lowered for another `platform` it cannot be compiled, but what it computes can be counted;
        all but the functions chosen by platform stays as it is for the mesh.
        """
        step = sharding.jit_step(
            self.task, self.optimizer, self.mesh, microbatches, self.places(batch)
        )
        key = jax.eval_shape(lambda: self.key)
        traced = step.trace(self.abstract_state(batch), batch or self.batch_shapes, key)
        return traced.lower(lowering_platforms=(platform,) if platform else None)


def check_settings(config: ConfigDict, mesh: Mesh, training: bool = True) -> None:
    """ConfigError for all mistakes that the settings alone show, before photos are opened.

    Args:
        config: the config of the run.
        mesh: the mesh of its devices.
        training: whether it trains; an evaluation has neither microbatches nor several views.
    """
    data = config.data
    check_numbers(config)
    rows = data.batch_size // jax.process_count()
    memory.check_batch(rows, data.crop, data.views if training else 1)
    parts = config.microbatches or 1  # 0 finds a number that fits.
    sharding.check_batch(data.batch_size, parts if training else 1, mesh)
    pipeline.check(config)


def set_up(
    config: ConfigDict,
    mesh: Mesh,
    photos: Splits | None = None,
    training: bool = True,
    trained_on: int = 0,
) -> Setup:
    """Builds the parts of a run that never change. Nothing is written.

    Args:
        config: the config of the run, which `check_settings` has passed. If `task.classes` is 0, it
            is set to the number of classes of the photos.
        mesh: the mesh of the devices.
        photos: the splits; None if only shapes are needed.
        training: whether it trains; an evaluation needs no schedule and no optimizer.
        trained_on: the number of photos that the network is trained on, if these are not
            `photos.training`; 0 if they are.

    Raises:
        ConfigError: a setting is invalid; the message names it.
    """
    facts, count = Facts(trained_on or 1), _MANY_PHOTOS
    if photos is not None:
        for line in splits.ask_classes(config, photos):
            say_once(line)
        count = len(photos.training)
        facts = Facts(trained_on or count, photos.classes)
    task = make_task(config, facts)
    runner = Runner(task, mesh, config.seed)
    if not training:
        return Setup(config, mesh, photos, task, runner, None, None)
    schedule = schedules.make_schedule(config, count)
    optimizer = optimizers.make_optimizer(config, schedule, task.frozen)
    setup = Setup(config, mesh, photos, task, runner, schedule, optimizer)
    if config.optimizer.groups:  # The shapes of parameters show whether the groups exist.
        setup.abstract_state()
    return setup
