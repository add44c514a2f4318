"""Checkpoints: damage is found and reported; a full disk does not end a run."""

import contextlib
import json
import os
import re
import shutil
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved
import tiny

import colorize_jax
from colorize_jax import files
from colorize_jax.checkpoints import manifest, reading, writing
from colorize_jax.errors import CheckpointError, SaveError
from colorize_jax.models import registry
from colorize_jax.training import loop, progress, saving
from colorize_jax.training.step import TrainState, split_variables

HERE = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _state(step):
    noise = jax.random.normal(jax.random.key(step), (200, 300))  # It compresses to 200 kB.
    return TrainState(
        step=jnp.int32(step),
        params={"encoder": {"kernel": noise}},
        collections={"batch_stats": {}},
        opt_state=(noise + 1,),
        nonfinite=jnp.int32(0),
    )


@pytest.fixture
def said():
    return []


@pytest.fixture
def opened(tmp_path, said):
    """Opens the checkpoints of tmp_path as a new process would."""

    @contextlib.contextmanager
    def opened(**options):
        with saving.Checkpoints(
            tmp_path, **({"keep": 3} | options), say=said.append
        ) as checkpoints:
            yield checkpoints

    return opened


def _save(opened, *steps, **options):
    with opened(**options) as checkpoints:
        for step in steps:
            checkpoints.save(step, _state(step), {"step": step})


def _largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _delete(path):
    path.unlink()


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def _zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def _overwrite(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_delete, _truncate, _zero, _overwrite, _flip])
def test_a_damaged_newest_checkpoint_is_reported_and_the_previous_one_is_used(
    tmp_path, opened, said, damage
):
    _save(opened, 1, 2)
    damage(_largest(tmp_path / "checkpoints" / "2"))
    with opened() as checkpoints:
        assert checkpoints.usable(checkpoints.verify()) == 1
        restored = checkpoints.restore(1, jax.eval_shape(lambda: _state(0)), HERE)
        chex.assert_trees_all_equal(restored, _state(1))
        assert len(said) == 1 and "the checkpoint of step 2 is not used: " in said[0]
        assert (tmp_path / "damaged" / "2").exists()  # It is kept for inspection.
        checkpoints.save(2, _state(2), {"step": 2})  # Its place is free again.
    with opened() as checkpoints:
        assert checkpoints.usable(checkpoints.verify()) == 2
    assert len(said) == 1


def test_the_manifest_lists_every_file(tmp_path, opened):
    _save(opened, 1)
    folder = tmp_path / "checkpoints" / "1"
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(listed) == files - {"manifest.json"} and len(listed) > 5
    for name in listed:
        (folder / name).rename(tmp_path / "away")
        assert name in manifest.problem(folder)
        (tmp_path / "away").rename(folder / name)
    assert manifest.problem(folder) is None
    (folder / "manifest.json").write_text("{")
    assert "is damaged" in manifest.problem(folder)


def test_a_checkpoint_killed_before_its_manifest_is_not_complete(tmp_path, opened, said):
    _save(opened, 1, 2)
    (tmp_path / "checkpoints" / "2" / "manifest.json").unlink()
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()  # kill -9 leaves such a folder.
    with opened() as checkpoints:
        assert checkpoints.latest == 1 and checkpoints.usable(checkpoints.verify()) == 1
    assert "cut short" in said[0]
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1"}


def test_if_the_only_save_was_cut_short_the_run_starts_again(tmp_path, opened):
    _save(opened, 1)
    (tmp_path / "checkpoints" / "1" / "manifest.json").unlink()
    with opened() as checkpoints:
        assert checkpoints.usable(checkpoints.verify()) is None


def test_if_all_are_damaged_nothing_is_thrown_away(tmp_path, opened, said):
    _save(opened, 1, 2)
    for step in "12":
        _flip(_largest(tmp_path / "checkpoints" / step))
    for _ in range(2):  # A second start does not begin anew either.
        with (
            opened() as checkpoints,
            pytest.raises(CheckpointError, match="none of the checkpoints"),
        ):
            checkpoints.usable(checkpoints.verify())
    assert len(said) == 4 and "step 2: the content" in said[0]
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_a_disk_that_does_not_answer_is_not_damage(tmp_path, opened, monkeypatch):
    _save(opened, 1, 2)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest.hashlib, "file_digest", fail)
    with opened() as checkpoints, pytest.raises(OSError, match="Input/output"):
        checkpoints.usable(checkpoints.verify())
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_an_old_one_that_cannot_be_removed_does_not_spoil_the_new_one(
    tmp_path, opened, said, monkeypatch
):
    def fail(*_, **__):
        raise OSError(16, "Device or resource busy")

    with opened(keep=1) as checkpoints:
        checkpoints.save(1, _state(1), {"step": 1})
        checkpoints.wait()
        monkeypatch.setattr(saving.shutil, "rmtree", fail)
        checkpoints.save(2, _state(2), {"step": 2})
        checkpoints.wait()
        monkeypatch.undo()
        assert checkpoints.failure is None and checkpoints.latest == 2
    assert said == ["the old checkpoint of step 1 could not be removed: Device or resource busy"]


def _encoders(workdir, *steps, **changes):
    """Checkpoints of a small encoder, like those of a run, and its parameters."""
    config = tiny.config()
    encoder = registry.make_encoder(config.model)
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), registry.variable_shapes(encoder))
    params, collections = split_variables(
        {kind: {"encoder": tree} for kind, tree in variables.items()}
    )
    zero = np.zeros((), np.int32)
    state = TrainState(zero, params, collections, opt_state=(), nonfinite=zero)
    note = {"config": json.loads(config.to_json_best_effort()) | changes}
    for step in steps:
        saving.write(workdir / "checkpoints" / str(step), state, note | {"step": step})
    return variables


def test_the_newest_complete_checkpoint_is_taken_and_named(tmp_path, capsys):
    variables = _encoders(tmp_path, 2, 5, 7)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "7" / "manifest.json").unlink()  # Its save was killed.
    _flip(_largest(checkpoints / "5"))
    for name in ("10", "²", "0007"):  # These are no checkpoints.
        (checkpoints / name).mkdir()
    _, loaded = colorize_jax.load_encoder(tmp_path)
    chex.assert_trees_all_equal(loaded, variables)
    said = capsys.readouterr().err
    for step, reason in ((10, "no manifest"), (7, "no manifest"), (5, "the content of its file")):
        assert re.search(rf"{checkpoints}/{step} is not used: .*{reason}", said)
    assert f"loading the encoder of {checkpoints}/2" in said
    with pytest.raises(CheckpointError, match=r"5 is not used: the content.*Beside it.*step 2$"):
        colorize_jax.load_encoder(checkpoints / "5")
    with pytest.raises(CheckpointError, match="7 is not used.*manifest"):
        colorize_jax.load_encoder(checkpoints / "7")


def test_a_manifest_that_lists_nothing_vouches_for_nothing(tmp_path):
    _encoders(tmp_path, 2)
    (tmp_path / "checkpoints" / "2" / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(CheckpointError, match="lists no file of the state"):
        colorize_jax.load_encoder(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[" * 10_000, "3", '{"files": 3}', '{"files": {"state/x": 3}}', '{"files": {"state": {}}}',
     '{"files": {"state/d": {"bytes": 4096, "sha256": ""}}}', '{"files": {"state/\\u0000": {}}}'],
)  # fmt: skip
def test_a_manifest_of_any_other_form_is_a_sentence(tmp_path, text):
    _encoders(tmp_path, 2)
    path = tmp_path / "checkpoints" / "2" / "manifest.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="2 is not used: its (manifest|file)"):
        reading.find(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="manifest.json is a folder"):
        reading.find(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"model": 3}, {"model": {"width": "wide"}}, {"model": {"name": "resnet50", "depth": 101}},
     {"data": 3}, {"task": "none"}],
)  # fmt: skip
def test_a_note_of_any_other_form_is_a_sentence(tmp_path, change):
    _encoders(tmp_path, 2, **change)
    with pytest.raises(CheckpointError, match="2 holds no network of a run"):
        colorize_jax.load_encoder(tmp_path)


def test_a_checkpoint_is_recognized_by_its_manifest_not_its_name(tmp_path):
    _encoders(tmp_path, 2)
    copied = (tmp_path / "checkpoints" / "2").rename(tmp_path / "the_best")
    assert reading.find(copied) == copied


def test_a_checkpoint_is_read_once_for_its_checksums_as_long_as_nothing_changes(
    tmp_path, monkeypatch
):
    _encoders(tmp_path, 2)
    read = []
    digest = manifest.hashlib.file_digest
    monkeypatch.setattr(manifest.hashlib, "file_digest", lambda *a: read.append(a) or digest(*a))
    folder = reading.find(tmp_path)
    once = len(read)
    colorize_jax.load_encoder(folder)
    assert len(read) == once > 3
    _flip(_largest(folder))
    with pytest.raises(CheckpointError, match="content of its file"):
        colorize_jax.load_encoder(folder)


@pytest.mark.parametrize(
    ("saved", "lacking"),
    [
        ({"in_channels": 3, "fc6_padding": "VALID", "fc6_kernel": 5}, ()),
        ({}, ("in_channels", "fc6_padding")),  # Older versions saved without these settings.
    ],
)
def test_the_encoder_to_transfer_is_the_one_that_was_saved(tmp_path, saved, lacking):
    config = tiny.vgg(**{f"model__{name}": value for name, value in saved.items()})
    encoder = registry.make_encoder(config.model).clone(frozen=("conv1_1",))
    image = jnp.ones((1, 160, 160, encoder.in_channels))
    variables = jax.jit(encoder.init)(jax.random.key(0), image)
    params, collections = split_variables(
        {kind: {"encoder": tree, "head": jnp.ones(3)} for kind, tree in variables.items()}
    )
    state = TrainState(jnp.int32(1), params, collections, opt_state=(), nonfinite=jnp.int32(0))
    note = {"config": json.loads(config.to_json_best_effort())}
    for name in lacking:
        del note["config"]["model"][name]
    saving.write(tmp_path / "1", state, note)
    loaded, loaded_variables = colorize_jax.load_encoder(tmp_path / "1")
    assert loaded == encoder.clone(frozen=())
    chex.assert_trees_all_equal(loaded_variables, variables)


def test_old_ones_go_only_when_a_newer_one_is_complete(tmp_path, opened, monkeypatch):
    _save(opened, 1, 2, keep=1)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"2"}

    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", fail)
    _save(opened, 3, keep=1)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"2"}


def test_a_save_that_fails_is_reported_and_a_later_one_succeeds(tmp_path, opened, said, caplog):
    with opened() as checkpoints:
        checkpoints.save(1, _state(1), {"step": 1})
        checkpoints.wait()
        with saved.no_file_longer_than(50_000):
            for step in (2, 3):
                checkpoints.save(step, _state(step), {"step": step})
                checkpoints.wait()
                assert checkpoints.failure
                assert f"step {step} could not be saved" in said[-1]
                assert "the newest is of step 1; the run goes on" in said[-1]
        # Nothing else is left.
        assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1"}
        checkpoints.save(4, _state(4), {"step": 4})
        checkpoints.wait()
        assert checkpoints.failure is None and checkpoints.latest == 4
    assert len(said) == 2 and "Traceback" not in caplog.text


def test_a_run_that_cannot_save_continues_and_fails_at_its_end(tmp_path, monkeypatch, capfd):
    plain = writing.ocp.save_checkpointables_async
    full = {2, 4}

    def saving(path, tree, **options):
        if int(path.name) in full:
            raise OSError(28, "No space left on device", str(path))
        return plain(path, tree, **options)

    monkeypatch.setattr(writing.ocp, "save_checkpointables_async", saving)
    config = tiny.config(checkpoint__every=2)
    loop.train(config, tmp_path / "room in time")
    shown = capfd.readouterr().err
    assert shown.count("could not be saved: No space left on device") == 2
    full.clear()
    config = tiny.config(checkpoint__every=2)

    def once(path, tree, **options):
        monkeypatch.setattr(writing.ocp, "save_checkpointables_async", saving)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(writing.ocp, "save_checkpointables_async", once)
    loop.train(tiny.config(checkpoint__every=100), tmp_path / "tried again")  # The last save fails.
    assert "step 6 could not be saved: Input/output error" in capfd.readouterr().err
    full |= {2, 4}
    full.add(6)
    with pytest.raises(SaveError, match="all 6 steps"):
        loop.train(config, tmp_path / "never room")
    assert "there is no checkpoint yet" in capfd.readouterr().err
    assert not (tmp_path / "never room" / "results.json").exists()
    full.clear()
    loop.train(config, tmp_path / "never room")
    assert (tmp_path / "never room" / "results.json").exists()


def test_two_runs_in_one_workdir_are_refused(tmp_path, opened):
    with opened(), pytest.raises(CheckpointError, match="another process"), opened():
        pass
    with opened():
        pass


def test_a_checkpoint_of_another_network_is_a_sentence(opened):
    _save(opened, 1)
    shapes = jax.eval_shape(lambda: _state(0))
    shapes = shapes.replace(params={"encoder": {"other": shapes.step}})
    with opened() as checkpoints, pytest.raises(CheckpointError, match="does not fit this config"):
        checkpoints.restore(1, shapes, HERE)


def test_a_disk_without_room_is_one_sentence_and_nothing_is_begun(
    tmp_path, opened, said, monkeypatch
):
    with opened() as checkpoints:
        for step, free in ((1, 1 << 30), (2, 1000), (2, 1 << 30)):
            usage = types.SimpleNamespace(free=free)
            monkeypatch.setattr(saving.shutil, "disk_usage", lambda path, u=usage: u)
            checkpoints.save(step, _state(step), {"step": step})
            checkpoints.wait()
    assert len(said) == 1 and "no space left on device: it takes about" in said[0].lower()
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_a_save_clears_its_own_leftovers_and_no_others(tmp_path, opened, said):
    folder = tmp_path / "checkpoints"
    with opened() as checkpoints:
        for name in ("1", "1.orbax-checkpoint-tmp", "10.orbax-checkpoint-tmp"):
            (folder / name).mkdir()
            (folder / name / "part").write_text("of a save that failed")
        checkpoints.save(1, _state(1), {"step": 1})
        checkpoints.wait()
        assert {p.name for p in folder.iterdir()} == {"1", "10.orbax-checkpoint-tmp"}
    assert manifest.problem(folder / "1") is None and not said


def test_unfinished_saves_are_cleared_and_do_not_count(tmp_path, opened):
    _save(opened, 1, 2, 3)
    (tmp_path / "checkpoints" / "2" / "manifest.json").unlink()
    (tmp_path / "config.json.tmp").write_text("{")
    with opened(keep=2) as checkpoints:
        assert checkpoints.usable(checkpoints.verify()) == 3
        assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "3"}
        assert not (tmp_path / "config.json.tmp").exists()
        (tmp_path / "checkpoints" / "2").mkdir()
        checkpoints.save(4, _state(4), {"step": 4})
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "4"}


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_a_missing_workdir_is_reported_and_made_anew(tmp_path, said, how):
    workdir = tmp_path / "run"
    with saving.Checkpoints(workdir, keep=3, say=said.append) as checkpoints:
        checkpoints.save(1, _state(1), {"step": 1})
        checkpoints.wait()
        workdir.rename(tmp_path / "elsewhere")
        if how == "deleted":
            shutil.rmtree(tmp_path / "elsewhere")
        if how == "replaced":
            workdir.mkdir()
        for step in (2, 3):
            checkpoints.save(step, _state(step), {"step": step})
            checkpoints.wait()
        assert checkpoints.failure is None
        with pytest.raises(CheckpointError, match="another process"):
            saving.Checkpoints(workdir, keep=3).__enter__()
    assert len(said) == 1 and "was moved, deleted or replaced" in said[0]
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"2", "3"}


def test_a_disk_that_is_gone_under_the_workdir_is_not_written_to_in_its_place(
    tmp_path, said, monkeypatch
):
    workdir = tmp_path / "mounted" / "run"
    with saving.Checkpoints(workdir, keep=3, say=said.append) as checkpoints:
        home = os.stat(workdir)
        (tmp_path / "mounted").rename(tmp_path / "away")
        (tmp_path / "mounted").mkdir()  # This is the mount point, on another device.
        device = os.stat_result((*home[:2], home.st_dev + 1, *home[3:]))
        monkeypatch.setattr(checkpoints, "_home", device)
        checkpoints.save(1, _state(1), {"step": 1})
        checkpoints.wait()
        assert "is gone, and its disk with it" in checkpoints.failure
        assert not workdir.exists()
        (tmp_path / "mounted").rmdir()
        (tmp_path / "away").rename(tmp_path / "mounted")
        monkeypatch.setattr(checkpoints, "_home", home)
        checkpoints.save(1, _state(1), {"step": 1})
    assert checkpoints.failure is None and checkpoints.latest == 1


def test_a_text_that_cannot_be_written_leaves_no_draft(tmp_path):
    with saved.no_file_longer_than(10), pytest.raises(OSError, match="large"):
        files.atomic_write_text(tmp_path / "config.json", "x" * 100)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, '"step" is null and not a whole number'),
        ({"window": {"steps": 1, "sums": []}}, '"window.sums" is a list'),
        ({"scores": {"eval/loss": "low"}}, '"scores.eval/loss" is "low" and not a number'),
    ],
)
def test_a_note_that_no_run_has_written_is_not_gone_on_with(tmp_path, opened, change, message):
    good = {"step": 1, "photos": 8, "names": "", "evaluated": -1, "scores": {"eval/loss": 1.5},
            "best": {"step": 1}, "skipped": []}  # fmt: skip
    with opened() as checkpoints:
        for step, note in ((1, good), (2, good | change)):
            saving.write(checkpoints.directory / str(step), _state(step), note)
        assert checkpoints.note(1, progress.FORM)["scores"] == {"eval/loss": 1.5}
        with pytest.raises(CheckpointError, match=f"the note of .*/2 is damaged .*{message}"):
            checkpoints.note(2, progress.FORM)


def test_only_a_number_is_the_name_of_a_step(tmp_path):
    for name in ("²", "٣", "1²", "-1", "01"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert reading.step_folders(tmp_path / "checkpoints") == []
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        reading.find(tmp_path)
