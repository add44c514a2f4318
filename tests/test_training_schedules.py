"""The length of a run and its rate at every step, planned or found."""

import golden_pretexts
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from colorize_jax.config import check_numbers, default_config
from colorize_jax.errors import ConfigError
from colorize_jax.training import early_stopping, optimizers, schedules


@pytest.mark.parametrize(
    ("batch", "steps", "first_drop", "snapshots"),
    [
        (8, 1_387_500, 925_000, (92_500, 462_500, 925_000, 1_387_500)),
        (16, 693_750, 462_500, (46_250, 231_250, 462_500, 693_750)),
    ],
)
def test_three_epochs_of_the_paper(batch, steps, first_drop, snapshots):
    config = default_config()
    config.data.batch_size = batch
    schedule = schedules.make_schedule(config, photos=3_700_000)
    assert schedule.steps == steps
    assert schedule.drops == (first_drop, round(first_drop * 1.25), round(first_drop * 1.375))
    assert schedule.snapshots == snapshots
    rate = schedule.rate(1e-3)
    for step, expected in (
        (0, 1e-3),
        (first_drop - 1, 1e-3),
        (first_drop, 1e-4),
        (steps - 1, 1e-6),
    ):
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5)


def test_steps_take_the_place_of_epochs_and_keep_the_fractions():
    schedule = schedules.make_schedule(tiny.config(steps=30), photos=10)
    assert schedule == schedules.Schedule(steps=30, drops=(15,), snapshots=())


def test_snapshots_past_the_end_are_left_out():
    config = tiny.config(steps=10, checkpoint__snapshots=(0.5, 1.0, 7.0), data__batch_size=4)
    assert schedules.make_schedule(config, photos=16).snapshots == (2, 4)


def test_drops_that_are_found_while_training_are_those_of_a_schedule():
    known = optax.scale_by_schedule(
        schedules.Schedule(steps=9, drops=(3, 5), snapshots=()).rate(0.1)
    )
    found = schedules.scale_by_found_drops(optax.constant_schedule(0.1), 0.1)
    gradient = {"w": jnp.ones(2)}
    states = [known.init(gradient), found.init(gradient)]
    for step in range(9):
        if step in (3, 5):  # A window ends here without a better score.
            states[1] = schedules.drop_from(states[1], [3, 5][: 1 if step == 3 else 2])
        updates = []
        for i, optimizer in enumerate((known, found)):
            update, states[i] = optimizer.update(gradient, states[i])
            updates.append(update["w"])
        np.testing.assert_allclose(*updates, rtol=1e-6)


def test_a_rate_can_halve_eight_times():
    config = tiny.config(steps=80, schedule__drops=(0.25, 0.5, 0.75), schedule__factor=0.5)
    rate = schedules.make_schedule(config, photos=10).rate(0.8)
    np.testing.assert_allclose([rate(s) for s in (0, 19, 20, 40, 79)], [0.8, 0.8, 0.4, 0.2, 0.1])


def test_a_found_schedule_takes_the_place_of_the_recipe(tmp_path):
    found = early_stopping.ScheduleResult(
        steps=90, drops=(30, 60), photos=9, full_photos=10, batch_size=8, windows=[]
    )
    early_stopping.write_schedule(tmp_path / "schedule.json", found)
    config = tiny.config(steps=7, schedule_from=str(tmp_path))
    schedule = schedules.make_schedule(config, photos=10)
    assert (schedule.steps, schedule.drops) == (100, (33, 67))


@pytest.mark.parametrize("drops", [(0.0,), (1.0,), (0.9, 0.5), (2.0, 2.5)])
def test_drops_must_be_increasing_fractions(drops):
    with pytest.raises(ConfigError, match="schedule.drops"):
        schedules.make_schedule(tiny.config(schedule__drops=drops), photos=100)


def test_a_run_without_a_step_is_refused():
    with pytest.raises(ConfigError, match="no step"):
        schedules.make_schedule(tiny.config(steps=0, schedule__epochs=0.001), photos=100)


def _named(name, **settings):
    """A config with another schedule."""
    settings = {f"schedule__{key}": value for key, value in settings.items()}
    return tiny.config(steps=20, schedule__name=name, **settings)


def test_golden_lars_schedule():
    g = golden_pretexts.group("lars_schedule")
    peak, warmup, total = (g[name].item() for name in ("peak", "warmup", "total"))
    config = _named("cosine", end=0.0, warmup=warmup / total)
    config.steps = total
    schedule = schedules.make_schedule(config, photos=10)
    expected = golden_pretexts.group("lars")["schedule"]
    actual = [schedule.rate(peak)(jnp.int32(step)) for step in range(len(expected))]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_cosine_ends_at_its_share_of_the_rate():
    schedule = schedules.make_schedule(_named("cosine", end=0.2), photos=10)
    actual = [schedule.rate(0.5)(step) for step in (0, 5, 10, 20, 30)]
    quarter = 0.1 + 0.4 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(actual, [0.5, quarter, 0.3, 0.1, 0.1], rtol=1e-6)
    assert schedule.drops == ()


@pytest.mark.parametrize(
    ("name", "own", "expected"),
    [
        ("constant", {}, [0.8, 0.8, 0.8]),
        ("drops", {"drops": (0.2, 0.5), "factor": 0.5}, [0.8, 0.4, 0.2]),
    ],
)
def test_warm_up_rises_from_zero_and_moves_no_drop(name, own, expected):
    schedule = schedules.make_schedule(_named(name, **own, warmup=0.2), photos=10)
    rate = schedule.rate(0.8)
    np.testing.assert_allclose([rate(step) for step in range(4)], [0, 0.2, 0.4, 0.6], rtol=1e-6)
    later = [0.8 if name == "constant" else 0.4, *expected[1:]]
    np.testing.assert_allclose([rate(step) for step in (4, 9, 19)], later, rtol=1e-6)


def test_without_warm_up_drops_are_what_they_were_to_the_bit():
    schedule = schedules.make_schedule(tiny.config(steps=30), photos=10)
    before = optax.piecewise_constant_schedule(0.02, {15: 0.1})
    steps = jnp.arange(30)
    np.testing.assert_array_equal(schedule.rate(0.02)(steps), before(steps))


def test_the_rate_of_a_search_rises_too_and_is_what_is_logged():
    config = tiny.config(steps=20, early_stopping__mode="search", schedule__warmup=0.2)
    schedule = schedules.make_schedule(config, photos=10)
    optimizer = optimizers.make_optimizer(config, schedule)
    params = {"head": {"classes": {"scale": jnp.zeros(())}}}
    # Without decay and with a gradient of 1, the update is the momentum of the rates.
    state = optimizer.init(params)
    gradient = {"head": {"classes": {"scale": jnp.ones(())}}}
    updates, speed = [], 0.0
    for step in range(8):
        if step == 2:
            state = schedules.drop_from(state, [2])
        update, state = optimizer.update(gradient, state, params)
        updates.append(-update["head"]["classes"]["scale"])
    found = schedules.Schedule(20, (2,), (), early_stopping.FACTOR, schedule.warmup)
    for step, update in enumerate(updates):
        speed = 0.9 * speed + optimizers.rates(config, found, step)["train/rate"]
        np.testing.assert_allclose(update, speed, rtol=1e-5)


@pytest.mark.parametrize("asks", ["early_stopping", "schedule_from"])
def test_drops_that_are_found_need_a_schedule_of_drops(asks, tmp_path):
    config = _named("cosine")
    if asks == "schedule_from":
        config.schedule_from = str(tmp_path)
    else:
        config.early_stopping.mode = "search"
    with pytest.raises(ConfigError, match=f"config.{asks}.*schedule.name is 'cosine'"):
        schedules.make_schedule(config, photos=10)


def test_a_warm_up_of_the_whole_run_is_refused():
    with pytest.raises(ConfigError, match="schedule.warmup=1.0 is the whole run"):
        schedules.make_schedule(_named("cosine", warmup=1.0), photos=10)


def test_settings_of_another_schedule_are_refused_by_name():
    with pytest.raises(ConfigError, match="'stairs'; known: drops, cosine"):
        _named("stairs")
    config = _named("cosine")
    with config.unlocked():
        config.schedule.factor = 0.5
    with pytest.raises(ConfigError, match="config.schedule.factor: cosine has no such setting"):
        check_numbers(config)
