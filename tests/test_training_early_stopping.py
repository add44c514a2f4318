"""Early stopping: exact steps for given scores; schedule files and errors in them."""

import json

import pytest

from colorize_jax.errors import ConfigError
from colorize_jax.training.early_stopping import (
    EarlyStopping,
    ScheduleResult,
    read_schedule,
    write_schedule,
)

NAN = float("nan")
# (score, decision) at the end of every window of 5,000 steps.
SCRIPT = [
    (0.20, "go_on"), (0.35, "go_on"), (0.40, "go_on"),
    (0.40, "drop"),  # An equal score is not better.
    (0.30, "drop"),  # This also holds directly after a drop.
    (0.35, "go_on"),  # It is better than the window before, but not than the best.
    (0.41, "go_on"), (0.45, "go_on"), (0.44, "stop"),
]  # fmt: skip


def _run(controller, script, window=5000, first=1):
    steps = range(first * window, (first + len(script)) * window, window)
    return [controller.update(s, score) for s, (score, _) in zip(steps, script, strict=True)]


def test_the_third_plateau_stops_and_the_two_before_it_drop():
    controller = EarlyStopping()
    assert _run(controller, SCRIPT) == [answer for _, answer in SCRIPT]
    assert controller.dropped == [20_000, 25_000] and controller.stopped == 45_000
    assert controller.windows[0] == (5000, 0.2) and len(controller.windows) == len(SCRIPT)


@pytest.mark.parametrize("resumed", range(len(SCRIPT) + 1))
def test_it_continues_in_the_same_way_after_a_resume(resumed):
    whole, before = EarlyStopping(), EarlyStopping()
    _run(whole, SCRIPT)
    _run(before, SCRIPT[:resumed])
    note = json.dumps(before.to_json(), allow_nan=False)
    after = EarlyStopping.from_json(json.loads(note))
    assert after == before
    answers = _run(after, SCRIPT[resumed:], first=resumed + 1)
    assert answers == [answer for _, answer in SCRIPT[resumed:]]
    assert after == whole


def test_a_note_does_not_change_with_the_run_that_goes_on():
    controller = EarlyStopping()
    controller.update(1, 0.5)
    note = controller.to_json()
    restored = EarlyStopping.from_json(note)
    restored.update(2, 0.4)
    controller.update(2, 0.6)
    assert note == EarlyStopping.from_json(note).to_json() and len(note["windows"]) == 1


def test_no_plateau_counts_before_the_minimum():
    controller = EarlyStopping(minimum=3)
    assert [controller.update(s, 0.5) for s in range(1, 6)] == [
        "go_on", "go_on", "drop", "drop", "stop"
    ]  # fmt: skip
    assert EarlyStopping.from_json(controller.to_json()).minimum == 3


def test_without_drops_the_first_plateau_stops():
    controller = EarlyStopping(drops=0)
    assert [controller.update(1, 1.0), controller.update(2, 1.0)] == ["go_on", "stop"]


def test_of_a_loss_lower_is_better():
    controller = EarlyStopping(higher=False)
    answers = [controller.update(s, x) for s, x in enumerate([3.0, 2.0, 2.5, 2.5, 2.4, 2.4])]
    assert answers == ["go_on", "go_on", "drop", "drop", "go_on", "stop"]


@pytest.mark.parametrize("missing", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("higher", [True, False])
def test_what_is_no_number_is_a_plateau_and_any_number_is_better(missing, higher):
    controller = EarlyStopping(higher=higher)
    assert controller.update(1, missing) == "go_on"  # There is nothing to compare it with.
    assert controller.update(2, missing) == "drop"
    controller = EarlyStopping.from_json(json.loads(json.dumps(controller.to_json())))
    assert controller.update(3, 0.1) == "go_on"
    assert controller.update(4, missing) == "drop"
    assert controller.windows == [(1, None), (2, None), (3, 0.1), (4, None)]


def test_a_window_is_given_once_and_none_after_the_end():
    controller = EarlyStopping(drops=0)
    controller.update(5, 0.5)
    with pytest.raises(ValueError, match="window 5 after 5"):
        controller.update(5, 0.6)
    assert controller.update(6, 0.5) == "stop"
    with pytest.raises(ValueError, match="stopped at 6"):
        controller.update(7, 0.6)


FOUND = ScheduleResult(
    steps=901,
    drops=(450, 605),
    photos=90,
    full_photos=100,
    batch_size=10,
    windows=[(450, 0.5), (605, None), (901, 0.25)],
)


def test_a_schedule_is_read_as_it_was_written(tmp_path):
    write_schedule(tmp_path / "schedule.json", FOUND)
    assert read_schedule(tmp_path) == read_schedule(str(tmp_path / "schedule.json")) == FOUND
    assert [p.name for p in tmp_path.iterdir()] == ["schedule.json"]


def test_a_schedule_holds_its_steps_as_found_and_for_the_full_split(tmp_path):
    write_schedule(tmp_path / "schedule.json", FOUND)
    content = json.loads((tmp_path / "schedule.json").read_text())
    assert content["found"] == {"photos": 90, "steps": 901, "drops": [450, 605]}
    assert content["full"] == {"photos": 100, "steps": 1001, "drops": [500, 672]}


def test_a_schedule_scales_with_the_photos_and_the_batch():
    assert FOUND.scaled(90, 10) == (901, (450, 605))
    assert FOUND.scaled(100, 10) == (1001, (500, 672))
    assert FOUND.scaled(90, 20) == (450, (225, 302))  # 450.5 and 302.5 are rounded to even numbers.
    assert FOUND.scaled(1, 1000) == (1, (0, 0))


def test_a_search_that_goes_on_is_not_a_missing_one(tmp_path):
    for path in (tmp_path, tmp_path / "schedule.json"):
        with pytest.raises(ConfigError, match=r"no .*schedule\.json"):
            read_schedule(path)
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "schedule.json"):
        with pytest.raises(ConfigError, match="not finished"):
            read_schedule(path)


def _without_steps(content):
    del content["found"]["steps"]


def _half_a_step(content):
    content["found"]["steps"] = 900.5


def _no_photos(content):
    content["full"]["photos"] = 0


def _drops_beyond_the_end(content):
    content["found"]["drops"] = [450, 1000]


def _drops_in_disorder(content):
    content["found"]["drops"] = [605, 450]


def _no_windows(content):
    content["windows"] = None


@pytest.mark.parametrize(
    "damage",
    [_without_steps, _half_a_step, _no_photos, _drops_beyond_the_end, _drops_in_disorder,
     _no_windows],
)  # fmt: skip
def test_a_damaged_schedule_is_refused(tmp_path, damage):
    write_schedule(tmp_path / "schedule.json", FOUND)
    content = json.loads((tmp_path / "schedule.json").read_text())
    damage(content)
    (tmp_path / "schedule.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"schedule.json is damaged \("):
        read_schedule(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe\x00"])
def test_a_file_that_is_no_schedule_is_refused(tmp_path, content):
    (tmp_path / "schedule.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"schedule.json is damaged \("):
        read_schedule(tmp_path)
