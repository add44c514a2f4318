"""The progress of a run, and its restoring from the note of a checkpoint."""

import dataclasses
import json

import pytest

from colorize_jax import json_files
from colorize_jax.training import progress
from colorize_jax.training.early_stopping import EarlyStopping
from colorize_jax.training.meter import Window
from colorize_jax.training.progress import Progress


def _progress(**fields):
    """The progress of a new run, with changes by `fields`."""
    now = {"config": {"data": {"batch_size": 8}}, "photos": 9, "names": "ab", "contents": ["c"],
           "classes": ["cat"], "schedule": [6, 3]}  # fmt: skip
    return Progress(**(now | fields))


def _done(**fields):
    """The progress of a run after three steps."""
    done = {"step": 3, "microbatches": 2, "evaluated": 2, "scores": {"eval/loss": 1.5},
            "best": {"step": 2, "eval/loss": 1.5}, "skipped": [1], "seconds": 9.5,
            "start": "/ckpt/3", "which": "all", "window": Window(1, {"loss": 2.0})}  # fmt: skip
    return _progress(**(done | fields))


def test_the_form_of_a_note_names_every_field_and_no_other():
    fields = {field.name for field in dataclasses.fields(Progress)}
    assert {name.removesuffix("?") for name in progress.SEARCHING} == fields | {"position"}


@pytest.mark.parametrize("search", [None, EarlyStopping(higher=False)])
def test_a_note_gives_back_what_the_run_has_done(search):
    if search is not None:
        search.update(2, 1.5)
        search.update(4, 1.5)  # It is not better, so the rate drops.
    done = _done(search=search, schedule=[6, 3] if search is None else [6, 4])
    note = json.loads(json.dumps(done.to_json()))
    assert note["position"] == 24 and ("search" in note) == (search is not None)
    again = _progress(search=search and EarlyStopping())
    json_files.check(note, again.form)
    again.resume(note)
    assert again == done


def test_which_run_it_is_stays_as_it_is_now():
    now = _progress(config={"data": {"batch_size": 4}}, photos=7, names="x", contents=[None])
    now.resume(_done().to_json() | {"origin": "of other code"})
    assert (now.photos, now.names, now.contents, now.step, now.position) == (7, "x", [None], 3, 12)


def test_a_note_of_an_older_run_is_enough_to_go_on():
    old = {"step": 3, "photos": 9, "names": "ab", "evaluated": 3, "scores": {"eval/loss": 1.5},
           "best": {}, "skipped": []}  # fmt: skip
    now = _progress(which="held out", microbatches=1)
    json_files.check(old, now.form)
    now.resume(old)
    assert now == _progress(
        step=3, evaluated=3, scores={"eval/loss": 1.5}, which="held out", microbatches=1
    )
