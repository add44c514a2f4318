"""Batches are a pure function of (seed, position) for any number of readers."""

import contextlib
import multiprocessing
import threading
import time

import numpy as np
import pytest
import tiny

from colorize_jax.data import pipeline, sources, views
from colorize_jax.data.folder import Folder
from colorize_jax.data.views import RandomWindow
from colorize_jax.errors import ConfigError, DataError, WorkerError


def _batches(config, source, start, stop):
    with contextlib.closing(pipeline.training_batches(source, config, start=start, stop=stop)) as b:
        return list(b)


def _photos(path):
    folder = Folder(str(path))
    return sources.Photos([folder], [np.arange(len(folder.names))])


@pytest.fixture
def folder(tmp_path, rng):
    tiny.write_photos(tmp_path, 7, rng)
    return _photos(tmp_path)


def test_batches_have_their_shapes_and_positions(folder):
    config = tiny.config(data__batch_size=4)
    batches = _batches(config, folder, 2, 5)
    for k, batch in enumerate(batches, 2):
        assert batch["image"].shape == (4, 32, 32, 3) and batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["position"], 4 * k + np.arange(4))
        order = folder.order(config.seed)
        assert batch["photo"].tolist() == [order[p] for p in batch["position"]]
        assert batch["photo"].dtype == np.int64 and batch["valid"].all()
    assert len(batches) == 3


SEVERAL = {"data__views": 2, "data__scaling": "resized"}


@pytest.mark.parametrize(
    ("threads", "workers", "settings"), [(0, 0, {}), (5, 0, SEVERAL), (1, 2, SEVERAL)]
)
def test_threads_workers_and_restarts_change_nothing(folder, threads, workers, settings):
    settings = {"data__batch_size": 4} | settings
    expected = _batches(tiny.config(**settings), folder, 0, 6)
    config = tiny.config(**settings, data__threads=threads, data__workers=workers)
    tiny.assert_same_batches(_batches(config, folder, 0, 6), expected)
    tiny.assert_same_batches(_batches(config, folder, 4, 6), expected[4:])


def test_batch_size_does_not_change_the_positions(folder):
    small = _batches(tiny.config(data__batch_size=4), folder, 0, 4)
    large = _batches(tiny.config(data__batch_size=8), folder, 0, 2)
    np.testing.assert_array_equal(
        np.concatenate([b["image"] for b in small]), np.concatenate([b["image"] for b in large])
    )


@pytest.mark.parametrize("scaling", views.SCALINGS)
def test_the_first_of_several_views_equals_a_single_view(folder, scaling):
    one, two, three = (
        _batches(tiny.config(data__views=count, data__scaling=scaling), folder, 2, 3)[0]
        for count in (1, 2, 3)
    )
    assert one["image"].shape == (8, 32, 32, 3) and three["image"].shape == (8, 3, 32, 32, 3)
    np.testing.assert_array_equal(two["image"][:, 0], one["image"])
    np.testing.assert_array_equal(three["image"][:, :2], two["image"])
    for row in three["image"]:
        assert len({view.tobytes() for view in row}) == 3
    tiny.assert_same_batches([{k: v for k, v in b.items() if k != "image"} for b in (two, three)],
                  [{k: v for k, v in one.items() if k != "image"}] * 2)  # fmt: skip


def test_views_draw_apart_from_all_other_positions(tmp_path, rng):
    """Many copies of one photo, so that equal draws would give equal pixels."""
    tiny.write_photos(tmp_path, 1, rng, size=(200, 300))
    view = RandomWindow((40, 60), 32, True)
    examples = pipeline.TrainingExamples(_photos(tmp_path), 0, view, views=3)
    crops = {crop.tobytes() for position in range(20) for crop in examples[position]["image"]}
    assert len(crops) == 60


def test_every_epoch_reads_every_photo_once_in_another_order(folder):
    examples = pipeline.TrainingExamples(folder, 3, RandomWindow((40, 50), 32, True))
    epochs = [[examples.order[p] for p in range(7 * e, 7 * e + 7)] for e in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_seed_changes_order_and_crops(folder):
    one, other = (_batches(tiny.config(seed=s), folder, 0, 1)[0]["image"] for s in (0, 1))
    assert not np.array_equal(one, other)


def test_a_bad_photo_is_replaced_and_all_others_stay(tmp_path, rng):
    names = tiny.write_photos(tmp_path, 7, rng)
    folder = _photos(tmp_path)
    config = tiny.config(data__batch_size=4, data__threads=0)
    before = _batches(config, folder, 0, 7)
    (tmp_path / names[3]).write_bytes(b"damaged")
    after = _batches(config, folder, 0, 7)
    examples = pipeline.TrainingExamples(folder, 0, RandomWindow((40, 50), 32, True))
    bad = np.array([examples.order[p] == 3 for p in range(28)]).reshape(7, 4)
    assert bad.sum() == 4
    for b, a, is_bad in zip(before, after, bad, strict=True):
        np.testing.assert_array_equal(a["image"][~is_bad], b["image"][~is_bad])
        for left, right in zip(a["image"][is_bad], b["image"][is_bad], strict=True):
            assert not np.array_equal(left, right) and left.std() > 0
    for batch, is_bad in zip(after, bad, strict=True):
        np.testing.assert_array_equal(batch["bad"], np.where(is_bad, 3, pipeline.GOOD))
        for position, photo, image in zip(
            batch["position"], batch["photo"], batch["image"], strict=True
        ):
            # The number belongs to the photo that is shown: the same draws give the same pixels.
            draws = np.random.Philox(key=config.seed, counter=[0, position, 0, 0])
            seen = examples.view(folder[int(photo)], np.random.Generator(draws))
            np.testing.assert_array_equal(image, seen["image"])
        assert (batch["photo"] != 3).all()
    tiny.assert_same_batches(_batches(config, folder, 0, 7), after)


def test_a_source_that_is_gone_stops_the_run(tmp_path, rng):
    names = tiny.write_photos(tmp_path, 3, rng)
    folder = _photos(tmp_path)
    for name in names:
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="could not be read"):
        _batches(tiny.config(data__threads=0, data__retry_seconds=0.1), folder, 0, 1)


def test_evaluation_reads_everything_once_and_fills_up_the_last_batch(folder):
    config = tiny.config(data__batch_size=4)
    batches = list(pipeline.evaluation_batches(folder, config, limit=100))
    assert [b["valid"].sum() for b in batches] == [4, 3]
    assert batches[1]["image"][3].max() == 0
    # Without a photo the number is 0, which any table of photos has.
    assert [b["photo"].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 0]]
    again = list(pipeline.evaluation_batches(folder, config, limit=100))
    tiny.assert_same_batches(batches, again)
    assert len(list(pipeline.evaluation_batches(folder, config, limit=3))) == 1


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("data__crop", 64, r"crop=64 is larger.*scale\[0\]=40"),
        ("data__scale", (50, 40), "scale"),
        ("data__scale", (40, 40), "scale"),
    ],
)
def test_crops_that_cannot_be_had_are_refused(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.check(tiny.config(**{setting: value}))


@pytest.mark.parametrize(("hosts", "settings"), [(2, SEVERAL), (4, {})])
def test_hosts_share_the_same_global_batches(folder, hosts, settings):
    config = tiny.config(data__batch_size=8, **settings)

    def read(make, **options):
        with contextlib.closing(make(folder, config, **options)) as batches:
            return list(batches)

    for make, options in (
        (pipeline.training_batches, {"start": 1, "stop": 3}),
        (pipeline.evaluation_batches, {"limit": 100}),
    ):
        whole = read(make, **options)
        parts = [read(make, **options, host=host, hosts=hosts) for host in range(hosts)]
        joined = [
            {name: np.concatenate([part[name] for part in parts_of_batch]) for name in whole[0]}
            for parts_of_batch in zip(*parts, strict=True)
        ]
        tiny.assert_same_batches(joined, whole)


def test_every_position_draws_anew_from_the_same_photo(tmp_path, rng):
    tiny.write_photos(tmp_path, 1, rng, size=(200, 300))
    examples = pipeline.TrainingExamples(_photos(tmp_path), 0, RandomWindow((40, 60), 32, True))
    crops = {examples[position]["image"].tobytes() for position in range(30)}
    assert len(crops) == 30
    other = pipeline.TrainingExamples(_photos(tmp_path), 1, RandomWindow((40, 60), 32, True))
    assert crops.isdisjoint({other[position]["image"].tobytes() for position in range(30)})


def test_closing_does_not_wait_for_a_reader_that_hangs(monkeypatch):
    released = threading.Event()

    class Hanging:
        def close(self):
            released.wait(60)

    monkeypatch.setattr(pipeline, "CLOSING_SECONDS", 0.1)
    began = time.monotonic()
    pipeline.Batches(Hanging()).close()
    assert time.monotonic() - began < 5
    released.set()


class _Dying:
    """Yields some batches, then its worker dies."""

    def __init__(self, start, stop):
        self._numbers, self.close = iter(range(start, stop)), lambda: None

    def __next__(self):
        try:
            return next(self._numbers)
        except StopIteration:
            raise RuntimeError(
                "Worker process was terminated unexpectedly with exit code -9. Search the logs"
            ) from None


def test_dead_workers_are_restarted_after_the_last_batch_a_limited_number_of_times(capfd):
    batches = pipeline.Batches(_Dying(0, 3), lambda given: _Dying(given, given + 2), restarts=2)
    assert [next(batches) for _ in range(7)] == list(range(7))
    with pytest.raises(WorkerError, match="exit code -9, after .*2 times .*memory") as caught:
        next(batches)
    assert caught.value.exit_code == 75
    assert capfd.readouterr().err.count("workers are restarted") == 2


def test_workers_that_die_before_the_first_batch_are_no_reason_to_restart_the_run():
    batches = pipeline.Batches(_Dying(0, 0), lambda given: _Dying(given, given), restarts=2)
    with pytest.raises(DataError, match="restarted 2 times") as caught:
        next(batches)
    assert caught.value.exit_code == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_workers_change_no_pixel(folder, workers):
    settings = {"data__batch_size": 4, "data__threads": 1}
    expected = _batches(tiny.config(**settings), folder, 0, 12)
    config = tiny.config(**settings, data__workers=workers)
    found = []
    with contextlib.closing(pipeline.training_batches(folder, config, start=0, stop=12)) as batches:
        for number, batch in enumerate(batches):
            found.append(batch)
            if number in (0, 5):
                for worker in multiprocessing.active_children()[:1]:
                    worker.kill()
                    worker.join()
    tiny.assert_same_batches(found, expected)
