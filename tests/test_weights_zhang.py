"""The released colorizer of Zhang et al. as a checkpoint: what is read, ordered and refused."""

import numpy as np
import pytest
from safetensors import numpy as safetensors
import saved
import tiny

import colorize_jax
from colorize_jax import convert
from colorize_jax.checkpoints import reading
from colorize_jax.color import gamut, spaces
from colorize_jax.errors import CheckpointError, ConfigError, WeightsError
from colorize_jax.training import evaluation, start
from colorize_jax.weights import foreign, inspection, zhang
from colorize_jax.weights.tables import flat

WIDTH = 1 / 64
# The release's convolutions: name, inputs and outputs at full width.
CONVOLUTIONS = {
    "model1.0": (1, 64), "model1.2": (64, 64), "model2.0": (64, 128), "model2.2": (128, 128),
    "model3.0": (128, 256), "model3.2": (256, 256), "model3.4": (256, 256),
    "model4.0": (256, 512), "model4.2": (512, 512), "model4.4": (512, 512),
    **{f"model{i}.{j}": (512, 512) for i in (5, 6, 7) for j in (0, 2, 4)},
    "model8.2": (256, 256), "model8.4": (256, 256),
}  # fmt: skip
NORMS = {"model1.4": 64, "model2.4": 128, "model3.6": 256} | {
    f"model{i}.6": 512 for i in (4, 5, 6, 7)
}


def state_of(rng, colors=None):
    """A narrow network with the release's names, whose bins have these colors: [313, 2]."""

    def features(channels):
        return channels if channels == 1 else round(channels * WIDTH)

    def random(*shape):
        return rng.uniform(0.1, 1, shape).astype(np.float32)

    state = {}
    for name, (inputs, outputs) in CONVOLUTIONS.items():
        state[f"{name}.weight"] = random(features(outputs), features(inputs), 3, 3) - 0.5
        state[f"{name}.bias"] = random(features(outputs))
    for name, channels in NORMS.items():
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{leaf}"] = random(features(channels))
        state[f"{name}.num_batches_tracked"] = np.asarray(7, np.int64)
    state["model8.0.weight"] = random(features(512), features(256), 4, 4)
    state["model8.0.bias"] = random(features(256))
    state["model8.6.weight"] = random(gamut.BINS, features(256), 1, 1)
    state["model8.6.bias"] = random(gamut.BINS)
    colors = gamut.bins() if colors is None else colors
    state["model_out.weight"] = (colors.T / 110)[:, :, None, None].astype(np.float32)
    return state


def imported(state, **settings):
    return zhang.import_file(foreign.File("eccv16.pth", "PyTorch", state, {}), **settings)


def converted(tmp_path, state):
    path = tmp_path / "eccv16.safetensors"
    safetensors.save_file({k: np.asarray(v, order="C") for k, v in state.items()}, path)
    convert.main(["torch", str(path), str(tmp_path / "checkpoint")])
    return tmp_path / "checkpoint"


def test_file_becomes_a_checkpoint_with_head_prior_and_settings(tmp_path, rng, capsys):
    state = state_of(rng)
    checkpoint = converted(tmp_path, state)
    said = capsys.readouterr().out
    assert "colorizer (eccv16), width 0.01562" in said and "prior of the bins is not in" in said
    note = reading.saved_note(reading.find(checkpoint))["config"]
    assert (note["model"]["name"], note["model"]["norm_scale"]) == ("zhang", True)
    assert (note["task"]["name"], note["task"]["temperature"]) == ("zhang", 1.0)
    encoder, variables = colorize_jax.load_encoder(checkpoint)
    assert encoder.width == WIDTH and encoder.top == "conv7_3"
    kernel = variables["params"]["conv5_2"]["kernel"]
    np.testing.assert_array_equal(kernel, state["model5.2.weight"].transpose(2, 3, 1, 0))
    scale = variables["params"]["conv2_2scale"]["scale"]
    np.testing.assert_array_equal(scale, state["model2.4.weight"])
    assert variables["batch_stats"]["conv7_3norm"]["count"] == 7
    whole = saved.state(checkpoint, 0)
    assert set(whole["params"]) == {"encoder", "head"}
    np.testing.assert_allclose(whole["constants"]["head"]["prior"], 1 / 313)
    described = list(inspection.describe(tmp_path / "eccv16.safetensors"))
    assert "of Zhang's colorizer (eccv16)" in described[0]


def test_converted_checkpoint_is_evaluated_and_starts_transfers(tmp_path, rng):
    checkpoint = converted(tmp_path, state_of(rng))
    settings = {"model__name": "zhang", "model__width": WIDTH, "model__norm_scale": True}
    config = tiny.config(**settings, task__name="zhang", eval__pictures=1, eval__photos=2)
    scores = evaluation.evaluate(config, str(checkpoint), tmp_path / "scores")
    assert np.isfinite(scores["eval/loss"]) and scores["eval/auc"] > 0
    # The weights of all bins are the same.
    assert scores["eval/loss"] == pytest.approx(scores["eval/loss_unweighted"], rel=1e-5)
    config = tiny.segmentation(**settings, model__norm="batch", init_from=str(checkpoint))
    folder = start.find(config)
    start.check(config, reading.saved_encoder(checkpoint), folder)
    other = reading.saved_encoder(checkpoint).clone(norm_scale=False)
    with pytest.raises(CheckpointError, match="norm_scale is False here and True there"):
        start.check(config, other, folder)


def test_converted_checkpoint_colors_photos_and_keeps_their_lightness(tmp_path, rng):
    colorizer = colorize_jax.Colorizer.load(converted(tmp_path, state_of(rng)), size=24)
    assert colorizer.network.colors.temperature == 1.0
    photo = rng.integers(0, 256, (3, 5, 3), np.uint8).repeat(8, 0).repeat(9, 1)
    colored = colorizer(photo)
    assert colored.shape == photo.shape and np.ptp(colored.astype(int), axis=-1).max() > 4
    lightness = (np.asarray(spaces.lab(spaces.from_uint8(x)))[..., 0] for x in (colored, photo))
    np.testing.assert_allclose(*lightness, atol=0.5)


def test_bins_are_put_into_our_order(rng):
    order = rng.permutation(gamut.BINS)
    state = state_of(rng, gamut.bins()[order])
    head = imported(state).variables["params"]["head"]["bins"]
    wanted = state["model8.6.weight"][:, :, 0, 0].T
    np.testing.assert_array_equal(head["kernel"][:, order], wanted)
    np.testing.assert_array_equal(head["bias"][order], state["model8.6.bias"])


def test_names_may_be_wrapped_and_counters_missing(rng):
    state = state_of(rng)
    plain = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    found = imported({f"module.{name}": array for name, array in plain.items()} | {"n": wide()})
    assert "under 'module.'" in str(found.network) and found.left_over == ["n"]
    assert found.variables["batch_stats"]["encoder"]["conv1_2norm"]["count"] == 1000
    ours = flat(found.variables["params"])
    for name, array in flat(imported(state).variables["params"]).items():
        np.testing.assert_array_equal(ours[name], array)
    both = state | {f"ema.{name}": array for name, array in state.items()}
    with pytest.raises(WeightsError, match="2 networks fit; choose one by --prefix='';"):
        imported(both)
    assert imported(both, prefix="ema").left_over


def wide():
    return np.ones(2, np.float32)


def _other_colors(state):
    state["model_out.weight"][:, 5] = 0.02


def _hints(state):
    state["model1.0.weight"] = np.ones((1, 4, 3, 3), np.float32)


def _gone(state):
    del state["model6.2.bias"]


def _more(state):
    state["model7.8.weight"] = wide()


def _wrong(state):
    state["model8.0.weight"] = np.ones((4, 8, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_colors, "should have the colors of the 313 bins"),
        (_hints, r"model1.0.weight is \(1, 4, 3, 3\).*siggraph17"),
        (_gone, r"missing: model6.2.bias \(for params/encoder/conv6_2/bias\)"),
        (_more, "not known: model7.8.weight"),
        (_wrong, r"model8.0.weight is \(4, 8, 4, 4\), not \(8, 4, 4, 4\)"),
        (dict.clear, "model1.0.weight is missing.*found nothing"),
    ],
)
def test_what_does_not_fit_is_named(spoil, words, rng):
    state = state_of(rng)
    spoil(state)
    with pytest.raises(WeightsError, match=words):
        imported(state)


@pytest.mark.parametrize(
    ("command", "words"),
    [("to-torch", "Zhang has no counterpart"), ("to-caffe", "no table for it")],
)
def test_it_is_not_written_for_others(command, words, tmp_path, rng, capsys):
    checkpoint = converted(tmp_path, state_of(rng))
    with pytest.raises(SystemExit):
        convert.main([command, str(checkpoint), str(tmp_path / "out")])
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--color", "--head"])
def test_options_of_other_networks_are_refused(option, tmp_path, rng, capsys):
    path = tmp_path / "eccv16.safetensors"
    safetensors.save_file(state_of(rng), path)
    with pytest.raises(SystemExit):
        convert.main(["torch", str(path), str(tmp_path / "out"), option])
    assert "reads no color and whose head comes along" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="leave --color"):
        convert.from_torch(str(path), str(tmp_path / "out"), color=True)
