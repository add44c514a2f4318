"""Every optimizer equals its update written by hand; groups can have their own optimizers."""

import chex
import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from colorize_jax.checkpoints import reading, writing
from colorize_jax.config import check_numbers
from colorize_jax.errors import ConfigError
from colorize_jax.training import optimizers, same_run, schedules

HERE = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def test_five_steps_over_a_drop_are_those_of_caffe(rng):
    rates = [0.1, 0.1, 0.01, 0.01, 0.001]
    schedule = schedules.Schedule(steps=5, drops=(2, 4), snapshots=())
    momentum, decay = 0.9, 0.05
    optimizer = optimizers.caffe_sgd(
        optax.scale_by_schedule(schedule.rate(0.1)),
        momentum=momentum, weight_decay=decay, bias_rate=2.0,
    )  # fmt: skip
    params = {"fc6": {"kernel": jnp.asarray(rng.normal(size=4)), "bias": jnp.ones(2)}}
    state = optimizer.init(params)
    kernel, bias = np.array(params["fc6"]["kernel"], np.float64), np.ones(2)
    speed_kernel, speed_bias = np.zeros(4), np.zeros(2)
    for rate in rates:
        gradient = {"kernel": rng.normal(size=4), "bias": rng.normal(size=2)}
        speed_kernel = momentum * speed_kernel + rate * (gradient["kernel"] + decay * kernel)
        speed_bias = momentum * speed_bias + 2 * rate * gradient["bias"]
        kernel, bias = kernel - speed_kernel, bias - speed_bias
        gradient = {"fc6": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient)}
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        np.testing.assert_allclose(params["fc6"]["kernel"], kernel, rtol=1e-5)
        np.testing.assert_allclose(params["fc6"]["bias"], bias, rtol=1e-5)


def test_every_parameter_is_clipped_by_itself(rng):
    gradient = {"a": jnp.asarray(rng.normal(size=(5, 5)) * 100), "b": jnp.array([0.3, 0.4])}
    clip = optimizers.clip_each(10.0)
    clipped, _ = clip.update(gradient, clip.init(gradient))
    np.testing.assert_allclose(np.linalg.norm(clipped["a"]), 10, rtol=1e-5)
    np.testing.assert_allclose(
        clipped["a"] / np.linalg.norm(clipped["a"]),
        gradient["a"] / np.linalg.norm(gradient["a"]), rtol=1e-5,
    )  # fmt: skip
    np.testing.assert_array_equal(clipped["b"], gradient["b"])
    zero, _ = clip.update({"a": jnp.zeros(3)}, clip.init(gradient))
    np.testing.assert_array_equal(zero["a"], 0)


def test_frozen_layers_are_left_alone_and_keep_no_momentum():
    config = tiny.config(optimizer__weight_decay=0.1)
    schedule = schedules.make_schedule(config, photos=10)
    layer = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    params = {"encoder": {"conv1": layer, "conv2": layer}, "head": {"classes": layer}}
    optimizer = optimizers.make_optimizer(config, schedule, frozen=("conv1",))
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params)
    assert all((x == 0).all() for x in jax.tree.leaves(updates["encoder"]["conv1"]))
    assert all((x != 0).all() for x in jax.tree.leaves(updates["encoder"]["conv2"]))
    momentum = sum(x.size for x in jax.tree.leaves(state) if x.dtype == jnp.float32)
    assert momentum == 2 * 6


def test_rate_scales_with_the_batch_only_if_asked():
    config = tiny.config(optimizer__rate=0.001, data__batch_size=64)
    assert optimizers.initial_rate(config) == 0.001
    config.optimizer.rate_batch_size = 8
    assert optimizers.initial_rate(config) == 0.008


def test_rates_fall_from_layer_to_layer_of_the_encoder():
    config = tiny.config(
        optimizer__name="sgd", optimizer__momentum=0.0, optimizer__weight_decay=0.0,
        optimizer__rate=1.0, optimizer__layer_decay=0.5, optimizer__groups={"fov": {"rate": 3.0}},
    )  # fmt: skip
    params = {
        "encoder": {name: {"kernel": jnp.zeros(2)} for name in ("conv1", "conv2", "conv3")},
        "head": {"kernel": jnp.zeros(2)},
        "fov": {"kernel": jnp.zeros(2)},
    }
    optimizer = optimizers.make_optimizer(config, schedules.make_schedule(config, 100), ("conv1",))
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    found = {path[-2].key: float(x[0]) for path, x in jax.tree.leaves_with_path(updates)}
    assert found == {"conv1": 0, "conv2": -0.5, "conv3": -1, "head": -1, "fov": -3}


def _after(optimizer, params, gradients):
    """The parameters after each update."""
    update = jax.jit(optimizer.update)
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


def _at(rates):
    """The rate of every step as a transformation for an optimizer."""
    return optax.scale_by_schedule(lambda step: jnp.asarray(rates, jnp.float32)[step])


def test_golden_lars_two_steps():
    g = golden_pretexts.group("lars")
    optimizer = optimizers.OPTIMIZERS["lars"].make(
        _at(g["rates"]), momentum=g["momentum"], trust=g["trust"], weight_decay=g["decay"]
    )

    def layers(kernel, bias, zero):
        return {"conv": {"kernel": kernel, "bias": bias}, "zero": {"kernel": zero}}

    names = ("kernel", "bias", "zero")
    gradients = [layers(*(g[f"grad_{name}"][i] for name in names)) for i in range(2)]
    found = _after(optimizer, layers(*(g[name] for name in names)), gradients)
    for i, params in enumerate(found, 1):
        expected = layers(*(g[f"{name}_after{i}"] for name in names))
        chex.assert_trees_all_close(params, expected, rtol=1e-6, atol=1e-6)


def test_golden_adamw_three_steps():
    g = golden_pretexts.group("adamw")
    b1, b2, eps, decay = g["settings"]
    optimizer = optimizers.OPTIMIZERS["adamw"].make(
        _at(g["rates"]), b1=b1, b2=b2, eps=eps, weight_decay=decay
    )
    gradients = [
        {"kernel": g["grad_kernel"][i], "bias": g["grad_bias"][i]} for i in range(len(g["rates"]))
    ]
    found = _after(optimizer, {"kernel": g["kernel"], "bias": g["bias"]}, gradients)
    for i, params in enumerate(found, 1):
        expected = {name: g[f"{name}_after{i}"] for name in ("kernel", "bias")}
        chex.assert_trees_all_close(params, expected, rtol=1e-6, atol=1e-6)


# The update of one array by hand, in float64: (array, gradients, rates, is a kernel, settings) ->
# the array after the last step.


def _caffe_sgd(w, gradients, rates, kernel, s):
    speed = 0
    for g, rate in zip(gradients, rates, strict=True):
        g = g + s["weight_decay"] * w if kernel else g
        g = g * min(1, s["clip"] / np.sqrt((g**2).sum()))
        speed = s["momentum"] * speed + (rate if kernel else s["bias_rate"] * rate) * g
        w = w - speed
    return w


def _sgd(w, gradients, rates, kernel, s):
    speed = 0
    for g, rate in zip(gradients, rates, strict=True):
        g = g + s["weight_decay"] * w if kernel else g
        speed = s["momentum"] * speed + g
        w = w - rate * (s["momentum"] * speed + g if s["nesterov"] else speed)
    return w


def _adam(w, gradients, rates, kernel, s, decoupled=False):
    mean = square = 0
    decay = s["weight_decay"] if kernel else 0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = g if decoupled else g + decay * w
        mean = s["b1"] * mean + (1 - s["b1"]) * g
        square = s["b2"] * square + (1 - s["b2"]) * g**2
        step = mean / (1 - s["b1"] ** t) / (np.sqrt(square / (1 - s["b2"] ** t)) + s["eps"])
        w = w - rate * (step + decay * w if decoupled else step)
    return w


def _adamw(w, gradients, rates, kernel, s):
    return _adam(w, gradients, rates, kernel, s, decoupled=True)


def _lars(w, gradients, rates, kernel, s):
    speed = 0
    for g, rate in zip(gradients, rates, strict=True):
        if kernel:
            g = g + s["weight_decay"] * w
            g = g * s["trust"] * np.linalg.norm(w) / np.linalg.norm(g)
        speed = s["momentum"] * speed + rate * g
        w = w - speed
    return w


@pytest.mark.parametrize(
    ("name", "settings", "by_hand"),
    [
        ("caffe_sgd", {"clip": 2.0, "weight_decay": 0.3}, _caffe_sgd),
        ("sgd", {"weight_decay": 0.3}, _sgd),
        ("sgd", {"nesterov": True, "momentum": 0.7}, _sgd),
        ("adam", {"weight_decay": 0.3, "eps": 0.01}, _adam),
        ("adamw", {"b2": 0.95, "weight_decay": 0.3}, _adamw),
        ("lars", {"trust": 0.05, "weight_decay": 0.3}, _lars),
    ],
)
def test_an_optimizer_does_what_is_written_out_by_hand(name, settings, by_hand, rng):
    config = _named(name, rate=0.1, **settings)
    schedule = schedules.Schedule(steps=4, drops=(2,), snapshots=())
    rates = [0.1, 0.1, 0.01, 0.01]
    shapes = {"conv": {"kernel": (3, 4), "bias": (4,)}, "norm": {"scale": (4,), "bias": (4,)}}
    params, *gradients = (
        jax.tree.map(lambda s: rng.normal(size=s), shapes, is_leaf=lambda s: isinstance(s, tuple))
        for _ in range(5)
    )
    single = [jax.tree.map(np.float32, tree) for tree in (params, *gradients)]
    found = _after(optimizers.make_optimizer(config, schedule), single[0], single[1:])[-1]
    settings = optimizers.SETTINGS[name] | settings
    for layer, of in shapes.items():
        for kind in of:
            own = settings | ({"bias_rate": 1.0} if layer == "norm" else {})
            steps = [gradient[layer][kind] for gradient in gradients]
            expected = by_hand(params[layer][kind], steps, rates, kind == "kernel", own)
            np.testing.assert_allclose(found[layer][kind], expected, rtol=2e-5, atol=1e-6)


def test_lars_is_that_of_optax_to_the_bit(rng):
    params, gradient = ({"fc": {"kernel": jnp.asarray(rng.normal(size=(5, 3)))}} for _ in "ab")
    rates = [0.3, 0.2, 0.1]
    theirs = optax.lars(lambda step: jnp.asarray(rates)[step], weight_decay=0.01)
    ours = optimizers.lars(_at(rates), momentum=0.9, trust=1e-3, weight_decay=0.01)
    after = [_after(one, params, [gradient] * 3)[-1] for one in (ours, theirs)]
    chex.assert_trees_all_equal(*after)


def test_the_state_of_the_default_keeps_its_names_for_checkpoints_of_before():
    config = tiny.config()
    schedule = schedules.make_schedule(config, photos=10)
    params = {"head": {"fc": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}}}

    def names(frozen):
        state = optimizers.make_optimizer(config, schedule, frozen).init(params)
        leaves = jax.tree_util.tree_leaves_with_path(state)
        return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]

    trace = [f"4/trace/head/fc/{kind}" for kind in ("bias", "kernel")]
    assert names(()) == ["3/count", *trace]
    inner = "inner_states/trained/inner_state"
    assert names(("conv1_1",)) == [f"{inner}/3/count", *(f"{inner}/{name}" for name in trace)]


def _named(name, **settings):
    """A config with another optimizer."""
    return tiny.config(
        optimizer__name=name, **{f"optimizer__{key}": value for key, value in settings.items()}
    )


GROUPS = {
    "discriminator": {"name": "adam", "rate": 0.1, "b1": 0.5},
    "head": {"weight_decay": 0.0},
}


def _gan(rng):
    """Parameters, or gradients, of three groups."""
    layer = {"kernel": (3, 2), "bias": (2,)}
    shapes = {"encoder": {"conv1": layer, "conv2": layer}, "head": layer, "discriminator": layer}
    return jax.tree.map(
        lambda shape: np.float32(rng.normal(size=shape)), shapes,
        is_leaf=lambda shape: isinstance(shape, tuple),
    )  # fmt: skip


def test_every_group_has_its_own_optimizer_at_the_same_step(rng):
    groups = GROUPS | {"encoder": {"rate": 0.05}}
    config = _named("caffe_sgd", groups=groups, weight_decay=0.3)
    schedule = schedules.Schedule(steps=4, drops=(2,), snapshots=())
    params, *gradients = (_gan(rng) for _ in range(5))
    optimizer = optimizers.make_optimizer(config, schedule, frozen=("conv1",))
    found = _after(optimizer, params, gradients)[-1]
    alone = {
        "encoder": _named("caffe_sgd", rate=0.05, weight_decay=0.3),
        "head": _named("caffe_sgd", weight_decay=0.0),
        "discriminator": _named("adam", rate=0.1, b1=0.5),
    }
    for group, config in alone.items():
        one = optimizers.make_optimizer(config, schedule)
        expected = _after(one, params[group], [gradient[group] for gradient in gradients])[-1]
        if group == "encoder":
            expected |= {"conv1": params[group]["conv1"]}
        chex.assert_trees_all_close(found[group], expected, rtol=1e-6)


def test_the_rate_of_a_group_is_logged_if_it_has_one():
    config = _named("caffe_sgd", groups=GROUPS)
    schedule = schedules.Schedule(steps=4, drops=(2,), snapshots=())
    config.optimizer.rate_batch_size = 4  # It is half of the batch.
    expected = {"train/rate": 0.004, "train/rate/discriminator": 0.02}
    assert optimizers.rates(config, schedule, 3) == pytest.approx(expected)


@pytest.mark.parametrize("searching", [False, True])
@pytest.mark.parametrize("groups", [{}, GROUPS])
@pytest.mark.parametrize("name", ["adam", "lars"])
def test_a_resumed_optimizer_continues_to_the_bit(name, groups, searching, rng, tmp_path):
    config = _named(name, groups=groups)
    config.early_stopping.mode = "search" if searching else "off"
    schedule = schedules.Schedule(steps=4, drops=() if searching else (2,), snapshots=())
    optimizer = optimizers.make_optimizer(config, schedule)
    params, *gradients = (_gan(rng) for _ in range(5))
    update = jax.jit(optimizer.update)

    def go_on(state, gradients):
        for gradient in gradients:
            updates, opt_state = update(gradient, state["opt_state"], state["params"])
            state = state | {
                "params": optax.apply_updates(state["params"], updates), "opt_state": opt_state
            }  # fmt: skip
        return state

    start = {"step": jnp.int32(0), "params": params, "batch_stats": {}}
    half = go_on(start | {"opt_state": optimizer.init(params)}, gradients[:2])
    if searching:
        half["opt_state"] = schedules.drop_from(half["opt_state"], [2])
        drops = optax.tree.get_all_with_path(half["opt_state"], "drops")
        assert [found.tolist() for _, found in drops] == [[2, schedules.NEVER]] * (1 + len(groups))
    writing.write(tmp_path / "2", half, {"step": 2})
    again = reading.read_state(tmp_path / "2", half, HERE)
    chex.assert_trees_all_equal(go_on(half, gradients[2:]), go_on(again, gradients[2:]))


def test_a_step_that_is_passed_over_counts_for_the_rate_and_is_no_update_of_adam(rng):
    config = _named("adam", groups=GROUPS)
    schedule = schedules.Schedule(steps=4, drops=(2,), snapshots=())
    optimizer = optimizers.make_optimizer(config, schedule)
    state = schedules.pass_over(optimizer.init(_gan(rng)), 2)
    found = {
        path[-1].tuple_name: int(count)
        for path, count in optax.tree.get_all_with_path(state, "count")
    }
    assert found == {"ScaleByAdamState": 0, "ScaleByScheduleState": 2}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"head": {"clip": 1.0}}, "groups.head.clip: adam has no such setting.*known: b1, b2"),
        ({"head": {"name": "lars", "b1": 0.5}}, "groups.head.b1: lars has no such setting"),
        ({"head": {"name": "adagrad"}}, "groups.head: .*'adagrad'; known: caffe_sgd, sgd, adam"),
        ({"head": {"groups": {}}}, "groups.head.groups: adam has no such setting for a group"),
        ({"head": {"rate": "fast"}}, "groups.head.rate=fast must be a number"),
        ({"head": {"b1": 1.5}}, "groups.head.b1=1.5 must be a number from 0 to 1"),
        ({"head": 0.1}, "groups.head=0.1 must be settings"),
    ],
)
def test_what_a_group_s_optimizer_does_not_know_is_refused_by_name(groups, message):
    with pytest.raises(ConfigError, match=message):
        check_numbers(_named("adam", groups=groups))


def test_settings_of_another_optimizer_are_refused_by_name():
    with pytest.raises(ConfigError, match="'adagrad'; known: caffe_sgd, sgd, adam"):
        _named("adagrad")
    config = _named("adam")
    with config.unlocked():
        config.optimizer.clip = 1.0
    with pytest.raises(ConfigError, match="config.optimizer.clip: adam has no such setting"):
        check_numbers(config)


def test_groups_that_the_model_lacks_are_named(rng):
    schedule = schedules.Schedule(steps=4, drops=(), snapshots=())
    optimizer = optimizers.make_optimizer(_named("adam", groups={"tail": {"b1": 0.5}}), schedule)
    with pytest.raises(ConfigError, match="groups.tail: .* has discriminator, encoder"):
        optimizer.init(_gan(rng))


def test_a_run_with_groups_is_known_again_and_what_changed_in_them_is_named():
    config = _named("adam", groups=GROUPS)
    before = same_run.plain(config)
    assert same_run.differences(before, config) == []
    config.optimizer.groups.head.weight_decay = 0.1
    del before["optimizer"]["groups"]["discriminator"]["b1"]
    assert [line.split(":")[0].strip() for line in same_run.differences(before, config)] == [
        "config.optimizer.groups.discriminator.b1", "config.optimizer.groups.head.weight_decay"
    ]  # fmt: skip
