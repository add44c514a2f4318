"""Settings are taken over from a checkpoint: its network, and the held-out photos."""

import json

import jax
import labelled
import numpy as np
import pytest
import tiny

from colorize_jax.checkpoints import reading
from colorize_jax.config import choices, default_config
from colorize_jax.config.recipe import load_config
from colorize_jax.data import sources, splits
from colorize_jax.errors import CheckpointError, DataError
from colorize_jax.models import registry
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import batch_shapes
from colorize_jax.training import evaluation, known, same_run, saving, start
from colorize_jax.training.step import TrainState, init_variables, split_variables

TRANSFERS = {
    "seg": "configs/voc2012_seg.py", "cls": "configs/voc2007_cls.py", "col": "configs/vgg16_col.py",
}  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    """Saves a checkpoint of a small network of a run with these settings; returns its path."""

    def make(where="pretrained", **model):
        config = tiny.vgg(data__holdout=0.04)
        config.model.fc6_kernel = 0
        choices.choose(config, "model", model.get("name", "vgg16"))
        config.model.update({"width": 1 / 32} | model)
        config.model.update(registry.by_depth(config.model))
        encoder = registry.make_encoder(config.model)
        shapes = registry.variable_shapes(encoder)
        variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        state = TrainState(
            step=np.zeros((), np.int32), opt_state=(), nonfinite=np.zeros((), np.int32),
            params={"encoder": variables["params"]},
            collections={"batch_stats": {"encoder": variables.get("batch_stats", {})}},
        )  # fmt: skip
        note = {"config": json.loads(config.to_json_best_effort()), "step": 4}
        saving.write(tmp_path / where / "checkpoints" / "4", state, note)
        return str(tmp_path / where)

    return make


def _settled(tmp_path, recipe, init_from, stated=(), **settings):
    config = load_config(TRANSFERS[recipe.partition(":")[0]] + recipe[3:])
    config.init_from = init_from
    changes = {name.replace("__", "."): value for name, value in settings.items()}
    choices.choose(config, "model", changes.get("model.name", config.model.name))
    config.update_from_flattened_dict(changes)
    config, said = known.settled(config, tmp_path / "run", {*stated, *changes})
    if config.data.labels:
        config.task.classes = 21
    start.check(config, registry.make_encoder(config.model), start.find(config))
    return config, "\n".join(said)


@pytest.mark.parametrize("recipe", TRANSFERS)
@pytest.mark.parametrize(
    "model",
    [
        {"fc6_kernel": 3},
        {"in_channels": 3, "norm": "none"},
        {"name": "alexnet", "lrn": False, "conv1_stride": 2},
        {"name": "alexnet", "split": True, "in_channels": 3},
        {"name": "alexnet_bn", "conv1_stride": 2},
        {"name": "resnet14", "variant": "torch"},
        {"name": "resnet18", "stem": "cifar"},
        {"name": "resnet152", "depth": 14},  # Older versions named such a network like this.
        {"name": "zhang", "norm_scale": True},
    ],
    ids=[
        "vgg16",
        "color",
        "alexnet",
        "halves",
        "alexnet_bn",
        "resnet",
        "cifar",
        "old resnet",
        "zhang",
    ],  # fmt: skip
)
def test_a_run_takes_the_network_from_where_it_starts(tmp_path, saved, recipe, model):
    path = saved(**model)
    config, said = _settled(tmp_path, recipe, path)
    assert f"as in {path}/checkpoints/4: config." in said and "model.width=0.03125" in said
    theirs, ours = reading.saved_encoder(path), registry.make_encoder(config.model)
    assert type(ours) is type(theirs)
    for name in (*theirs.architecture, "in_channels"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert config.model.name != "resnet152"
    # On small tiles it was 2, which is not taken over.
    assert config.model.get("conv1_stride", 4) == 4 and "conv1_stride" not in said
    keeps = "resnet" in config.model.name or config.model.name == "zhang"
    assert config.model.norm == (
        "batch" if keeps or (recipe == "col" and "norm" not in model) else "none"
    )
    if recipe == "cls":
        assert config.data.crop == (227 if config.model.name == "alexnet" else 224)
        assert config.model.get("fc6_padding") == (None if keeps else "VALID")


def test_layer_norm_stays_layer_norm(tmp_path, saved):
    path = saved(name="resnet14", norm="layer")
    config, said = _settled(tmp_path, "seg", path)
    assert config.model.norm == "layer" and "model.norm='layer'" in said
    with pytest.raises(CheckpointError, match="norm is 'batch' here and 'layer' there"):
        _settled(tmp_path, "seg", path, model__norm="batch")


def test_a_stated_setting_is_kept_or_is_an_error_by_name(tmp_path, saved):
    path = saved(in_channels=3)
    config, said = _settled(tmp_path, "seg", path, model__in_channels=1, model__norm="batch")
    assert (config.model.in_channels, config.model.norm) == (1, "batch")
    assert "in_channels" not in said
    with pytest.raises(CheckpointError, match=r"model\.width is 0\.5 here and 0\.03125 there"):
        _settled(tmp_path, "seg", path, model__width=0.5)
    with pytest.raises(CheckpointError, match="fc6_kernel is 5 here and 3 there"):
        _settled(tmp_path, "seg", saved("large", fc6_kernel=3), model__fc6_kernel=5)
    with pytest.raises(CheckpointError, match="name is 'vgg16' here|name is 'alexnet' here"):
        _settled(tmp_path, "seg", path, model__name="alexnet", model__width=0.5)
    with pytest.raises(CheckpointError, match="name is 'alexnet' here and 'vgg16' there"):
        _settled(tmp_path, "seg:alexnet", path)  # A variant states it too.
    with pytest.raises(CheckpointError, match="depth is 50 here and 14 there"):
        _settled(tmp_path, "seg", saved("resnet", name="resnet14"), model__name="resnet50")
    with pytest.raises(CheckpointError, match="depth is 50 here and 14 there"):
        _settled(tmp_path, "seg:resnet152", str(tmp_path / "resnet"), model__depth=50)


def test_from_python_a_setting_that_is_not_the_default_was_stated(tmp_path, saved):
    config = default_config()
    config.init_from = saved()
    ours, _ = known.settled(config, tmp_path / "run", None)
    # The caller's config is not changed.
    assert ours.model.width == 1 / 32 and config.model.width == 1
    config.model.width = 0.5
    ours, said = known.settled(config, tmp_path / "run", None)
    assert ours.model.width == 0.5 and "width" not in "".join(said)


def test_a_random_start_reads_no_checkpoint(tmp_path):
    config = load_config("configs/voc2012_seg.py:random,resnet50")
    config, said = known.settled(config, tmp_path, ())
    assert said == [] and (config.model.name, config.model.depth) == ("resnet50", 50)


def test_a_run_that_was_begun_follows_itself(tmp_path, saved):
    path = saved()
    config, _ = _settled(tmp_path, "seg", path)
    run = tmp_path / "run" / "checkpoints" / "3"
    run.mkdir(parents=True)
    (run / "manifest.json").touch()
    same_run.write_config(tmp_path / "run", config)
    again = load_config(TRANSFERS["seg"])
    again.init_from = path
    (tmp_path / "pretrained").rename(tmp_path / "gone")
    again, said = known.settled(again, tmp_path / "run", ())
    assert again.task.classes == 21 and said[0].startswith(f"as in {tmp_path / 'run'}: ")
    assert same_run.differences(json.loads(config.to_json_best_effort()), again) == []


def test_the_share_that_is_held_out_stays_the_same_for_the_same_photos(tmp_path, saved):
    path = saved()  # Its photos are builtin:photos.
    config, said = _settled(tmp_path, "col", path, data__source="builtin:photos")
    assert config.data.holdout == 0.04 and "data.holdout=0.04" in said
    settings = {"data__source": "builtin:photos", "data__holdout": 0.3}
    assert _settled(tmp_path, "col", path, **settings)[0].data.holdout == 0.3
    config, _ = _settled(tmp_path, "col", path, data__source="/other")
    assert config.data.holdout == default_config().data.holdout


# Evaluation.


def _note(config, **more):
    opened = splits.open_splits(config)
    return {
        "config": json.loads(config.to_json_best_effort()),
        "names": opened.training.digest() + opened.evaluation.digest(),
        "photos": len(opened.training),
        "classes": list(opened.classes),
        **more,
    }


def test_an_evaluation_takes_the_network_and_its_outputs_from_the_checkpoint():
    trained = tiny.vgg(model__norm="none", model__hidden=8, task__bins=16,
                          task__loss="regression")  # fmt: skip
    note = {"config": json.loads(trained.to_json_best_effort())}
    config, said = known.for_evaluation(default_config(), note, ())
    assert {**config.model} == {**trained.model, "norm_decay": config.model.norm_decay}
    assert (config.task.bins, config.task.loss) == (16, "regression")
    assert "model.fc6_kernel=1" in said[0] and "task.loss='regression'" in said[0]
    assert config.data.source == "builtin:photos"
    evaluation._check_network("folder", note["config"], config)
    config.model.hidden = 32
    config, _ = known.for_evaluation(config, note, {"model.hidden"})
    with pytest.raises(CheckpointError, match=r"model\.hidden: 8 there, 32 here"):
        evaluation._check_network("folder", note["config"], config)


@pytest.fixture
def photos(tmp_path, rng):
    tiny.write_photos(tmp_path / "photos", 40, rng)
    tiny.write_photos(tmp_path / "test", 9, rng)
    return tmp_path


def _scored(note, stated=(), **settings):
    config = tiny.vgg(**{"data__holdout": 0.001} | settings)
    names = {name.replace("__", ".") for name in settings}
    return known.to_score(config, note, {*stated, *names})


def _names(photos):
    return [photos.name(i) for i in range(len(photos))]


def test_held_out_photos_of_the_training_are_scored(photos):
    source = str(photos / "photos")
    trained = tiny.vgg(data__source=source, data__holdout=0.2)
    note, (training, held_out) = _note(trained), sources.open_splits(source, 0.2)
    assert 1 < len(held_out) < 20
    found = _scored(note, data__source=f"{photos}/./photos/")
    assert found.which == "held out"
    assert found.remarks == ["as in the checkpoint: config.data.holdout=0.2"]
    assert _names(found.opened.evaluation) == _names(held_out)
    some = tiny.vgg(data__source=source, data__holdout=0.2, data__photos=5)
    found = _scored(_note(some), data__source=source)
    assert found.which == "held out" and len(found.opened.training) == 5
    assert known.trained_on(training, trained, _note(some)["config"]) == 5
    found = _scored(note, data__source=source, data__holdout=0.6)
    seen = len(found.opened.evaluation) - len(held_out)
    assert seen > 0 and found.which == f"{seen} of them trained on"
    assert known.trained_on(training, trained, note["config"]) == len(training)


def test_photos_that_came_later_were_not_trained_on(photos, rng):
    source = photos / "photos"
    note = _note(tiny.vgg(data__source=str(source), data__holdout=0.2))
    for path in (photos / "test").rglob("*.jpg"):
        path.rename(source / f"new_{path.name}")
    assert _scored(note, data__source=str(source)).which == "held out"


def test_of_another_folder_all_photos_are_scored(photos):
    note = _note(tiny.vgg(data__source=str(photos / "photos"), data__holdout=0.2))
    found = _scored(note, data__source=str(photos / "test"))
    assert (len(found.opened.evaluation), found.which, found.remarks) == (9, "all", [])
    assert found.config.eval.photos == 0 and len(found.opened.training) == note["photos"]
    assert _scored(note, data__source=str(photos / "test"), eval__photos=3).config.eval.photos == 3
    within = _scored(note, data__source=str(photos / "photos" / "sub0"))
    total, seen = len(within.opened.evaluation), int(within.which.split()[1])
    held_out = [n for n in _names(sources.open_splits(note["config"]["data"]["source"], 0.2)[1])
                if n.startswith("sub0/")]  # fmt: skip
    assert within.which == f"all, {seen} of them trained on" and seen == total - len(held_out)
    above = _scored(note, data__source=str(photos))
    assert above.which == f"all, {note['photos']} of them trained on"


def test_missing_training_photos_are_reported(photos):
    note = _note(tiny.vgg(data__source=str(photos / "photos"), data__holdout=0.2))
    (photos / "photos").rename(photos / "gone")
    found = _scored(note, data__source=str(photos / "test"))
    assert found.which == "all" and "are not here" in found.remarks[0]
    note["config"]["data"]["source"] = ""  # Converted weights have no source.
    assert "not known" in _scored(note, data__source=str(photos / "test")).remarks[0]


def test_labels_must_stand_for_the_classes_that_were_learned(tmp_path, rng):
    labelled.write_class_folders(tmp_path / "set", rng)
    settings = {
        "data__labels": "folders", "data__split": "train", "data__eval_split": "val",
        "data__source": str(tmp_path / "set"), "task__classes": 3,
    }  # fmt: skip
    note = _note(tiny.vgg(**settings))
    assert _scored(note, **settings).which == "val"
    note["classes"][0] = "other"
    with pytest.raises(DataError, match="other classes.*'n00'"):
        _scored(note, **settings)


def test_the_message_and_the_table_tell_the_same_number(photos, monkeypatch, tmp_path):
    """The network, the photos and the classes need not be stated again."""
    trained = tiny.vgg(data__source=str(photos / "photos"), data__holdout=0.2)
    task = make_task(trained)
    shapes = jax.eval_shape(
        lambda batch: init_variables(jax.random.key(0), task, batch), batch_shapes(task, trained)
    )
    params, collections = split_variables(
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    )
    zero = np.zeros((), np.int32)
    state = TrainState(zero, params, collections, opt_state=(), nonfinite=zero)
    saving.write(tmp_path / "a" / "checkpoints" / "1", state, _note(trained, step=1))
    said = []
    monkeypatch.setattr(evaluation, "say_once", said.append)
    (photos / "test" / "sub0" / "photo000.jpg").write_bytes(b"damaged")
    config = tiny.vgg(data__source=str(photos / "test"), eval__pictures=0)
    config.model.update(default_config().model.to_dict())
    evaluation.evaluate(config, str(tmp_path / "a"), tmp_path / "scores", stated={"data.source"})
    text = "\n".join(said)
    assert f"on 9 photos of {photos / 'test'} (all)" in text
    assert f"8 photos of {photos / 'test'} (all, 1 more could not be read)" in text
    found = json.loads((tmp_path / "scores" / "results.json").read_text())["data"]
    assert (found["eval_split"], found["eval_photos"], found["unreadable"]) == ("all", 8, 1)
