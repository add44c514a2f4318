"""The step in PyTorch that ours is measured against: the same loss, and turns that are fair."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.bench import __main__ as bench
from colorize_jax.bench import cost, peers, step_speed
from colorize_jax.errors import ConfigError
from colorize_jax.training.step import init_variables, row_keys


def test_turns_are_medians_and_go_back_and_forth(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(peers.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(peers.time, "process_time", lambda: 2 * clock[0])
    # The first step of a turn is not timed; the second turn is slow.
    slow = iter([1, 1, 99, 9, 1, 1, 99, 1])

    def run(name, seconds, steps):
        order.append(name)
        clock[0] += seconds * steps

    found = peers.in_turns(
        {"a": lambda n: run("a", 0.5 * next(slow), n), "b": lambda n: run("b", 0.25, n)},
        seconds=1.0, rounds=3,
    )  # fmt: skip
    assert order == list("aabbaabbbbaaaabb")
    assert found["a"] == peers.Measured(0.5, 1.0) and found["b"] == peers.Measured(0.25, 0.5)
    assert peers.ratio({peers.OURS: found["b"], "PyTorch": found["a"]}, "PyTorch") == 2.0


def test_command_shows_ratios(monkeypatch, capsys):
    pytest.importorskip("torch")
    asked = []

    def compare(config, rows, modes, *, seconds, rounds):
        asked.append((config.model.name, config.model.dtype, rows, seconds, rounds))
        each = peers.Measured(0.2, 0.4)
        return {peers.OURS: peers.Measured(0.1, 0.5)} | dict.fromkeys(modes, each)

    monkeypatch.setattr(peers, "compare", compare)
    bench.main(["peer", "--networks", "small", "resnet50", "--rows", "2", "--rounds", "5"])
    assert asked == [("vgg16", "float32", 2, 3.0, 5), ("resnet50", "float32", 2, 3.0, 5)]
    text = capsys.readouterr().out
    assert "| resnet50 | 2 | 100.0 | 200.0 | 200.0 | 0.80 | 0.80 |" in text
    assert "PyTorch " in text and "load" in text
    with pytest.raises(SystemExit, match="--rows, --rounds and --seconds must be positive"):
        bench.main(["peer", "--rounds", "0"])


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install torch"):
        peers.check_torch()


def _drawn(rng, path, leaf):
    kind = path[-1].key
    if kind in ("bias", "mean", "count"):
        return np.zeros(leaf.shape, np.float32)
    if kind in ("scale", "var"):
        return np.ones(leaf.shape, np.float32)
    return (rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5).astype(np.float32)


def _name(path, resnet):
    """What a parameter of ours is called in the network of PyTorch."""
    group, layer, kind = path
    kind = {"kernel": "weight", "scale": "weight"}.get(kind, kind)
    if group == "head":
        return f"{layer}.{kind}"
    if resnet and layer in ("conv1", "scale_conv1"):
        return f"encoder.{layer.replace('scale', 'bn')}.{kind}"
    if found := re.fullmatch(r"(res|scale)(\w+)_(branch\w+)", layer):
        return f"encoder.layers.res{found[2]}.{found[3]}.{int(found[1] == 'scale')}.{kind}"
    return f"encoder.layers.{layer}.0.{kind}"


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("small", {"model__width": 0.03125}),
        pytest.param(
            "alexnet", {"model__width": 0.03125, "data__crop": 64, "data__scale": (64, 96)},
            marks=pytest.mark.slow,
        ),
        ("resnet50", {"model__name": "resnet26", "model__width": 0.0625, "data__crop": 64,
                      "data__scale": (64, 96)}),
    ],
    ids=["vgg16", "alexnet", "resnet"],
)  # fmt: skip
def test_loss_is_that_of_our_step(network, changes):
    torch = pytest.importorskip("torch")
    from colorize_jax.bench import torch_step

    changes |= {"task__points": 16, "task__edge_buffer": 2, "model__hidden": 16}
    config = peers.settings(network, **changes)
    plan = cost.plan_step(config, 3, jax.devices()[:1])
    task, batch = plan.task, step_speed.noise(plan.batch_shapes)
    batch["image"] = np.repeat(np.repeat(batch["image"][:, ::8, ::8], 8, 1), 8, 2)
    model, parts = task.model, {"dropout": 0.0}
    if network != "resnet50":
        model = model.clone(encoder=model.encoder.clone(**parts))
    model = model.clone(head=model.head.clone(**parts))
    # In values that a start would not have, so that every map matters.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_variables(jax.random.key(0), task, batch))
    variables = jax.tree_util.tree_map_with_path(functools.partial(_drawn, rng), shapes)

    @jax.jit
    def loss(variables, batch):
        (gray, points), targets = task.prepare(row_keys(jax.random.key(1), jnp.arange(3)), batch)
        outputs, _ = model.apply(
            variables, gray, points, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )  # fmt: skip
        values, counts = task.loss(outputs, targets)
        return values["loss"].sum() / counts.sum(), points

    ours, points = loss(variables, batch)
    theirs = torch_step.Network(config)
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    own = dict(theirs.named_parameters())
    for path, array in jax.tree_util.tree_leaves_with_path(variables["params"]):
        name, array = _name([part.key for part in path], network == "resnet50"), np.asarray(array)
        if name not in own:
            assert name.endswith("0.bias") and not array.any()  # cancelled by batch norm
            continue
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        own.pop(name).data.copy_(torch.tensor(np.ascontiguousarray(array)))
    assert not own
    image, at = torch.tensor(batch["image"]), torch.tensor(np.asarray(points)).long()
    assert theirs(image, at).item() == pytest.approx(float(ours), rel=1e-4)
    # And of other maps it would be another one.
    assert theirs(image.flip(1), at).item() != pytest.approx(float(ours), rel=1e-3)


def test_step_in_pytorch_learns():
    torch = pytest.importorskip("torch")
    from colorize_jax.bench import torch_step

    config = peers.settings("small", model__width=0.03125, model__hidden=16)
    step = torch_step.Step(config, 2, channels_last=True, half=True)
    before = [p.detach().clone() for p in step.optimizer.param_groups[0]["params"]]
    step.run(2)
    after = step.optimizer.param_groups[0]["params"]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
