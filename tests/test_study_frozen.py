"""Scores of frozen features in studies: how they are run, compared and shown."""

import json
import pathlib

import pytest

from colorize_jax.errors import ConfigError
from colorize_jax.studies import execution, page, plan, plots
from colorize_jax.studies.plan import Frozen, Grid, Run, Sensitivity, Study
from colorize_jax.studies.workplace import Workplace

RECIPE = str(pathlib.Path(__file__).parent.parent / "configs/quickstart.py")
COLUMNS = {"top-1": "eval/knn/top1", "mAP": "eval/svm/map"}
OPTIONS = {"source": "$DATA/a", "kinds": "knn,svm", "squeeze": True, "seed": 1}


def _study():
    names = ("a-0", "a-1", "b-0", "b-1", "c-0")
    steps = [
        Run("col", RECIPE, {"data.source": "$DATA/a"}),
        *(Frozen(name, OPTIONS, "col@20") for name in names),
    ]
    rows = {
        "both": {
            10: dict.fromkeys(COLUMNS, ("a-0", "a-1")),
            20: dict.fromkeys(COLUMNS, ("b-0", "b-1")),
        },
        "half": {10: dict.fromkeys(COLUMNS, ("a-0",)), 20: dict.fromkeys(COLUMNS, ("c-0",))},
    }
    sections = [
        Grid("Scores", "Seen.", COLUMNS, {name: sizes[10] for name, sizes in rows.items()}),
        Sensitivity("Sizes", "More.", "sizes.png", COLUMNS, rows),
    ]
    return Study("T", "About.", steps, sections)


@pytest.fixture
def place(tmp_path):
    return Workplace(_study(), tmp_path, "/my photos")


def _finish(place, name, top1, precision, **options):
    (place.workdir / name).mkdir()
    found = {
        "eval/knn/top1": top1, "eval/svm/map": precision, "schedule": {"steps": 0, "drops": []},
        "metric": {"name": "knn/top1", "value": top1, "higher_is_better": True}, "seed": 1,
        "data": {"photos": 9}, "seconds": 3.0, "hardware": "an abacus",
        "options": {"kinds": "knn,svm", "squeeze": True, "seed": 1} | options,
    }  # fmt: skip
    (place.workdir / name / "results.json").write_text(json.dumps(found))


def test_frozen_features_are_scored_after_their_run(place, monkeypatch):
    ran = []
    monkeypatch.setattr(execution, "execute", lambda words: ran.append(words) or 0)
    runs = execution.pick(place.study, ("a-0",))
    assert execution.go(place, runs, print) == {"a-0": "waits: col is not done"}
    _finish(place, "col", 0.1, 0.1)
    execution.go(place, runs, lambda line: None)
    assert ran[0][1:3] == ["-m", "colorize_jax.frozen"]
    assert ran[0][3:] == [
        "--source=/my photos/a", "--kinds=knn,svm", "--squeeze", "--seed=1",
        f"--checkpoint={place.workdir}/col/checkpoints/20", f"--output={place.workdir}/a-0",
    ]  # fmt: skip


def test_scores_of_other_options_are_refused_and_of_another_place_are_not(place):
    _finish(place, "a-0", 0.1, 0.1, source="elsewhere")
    place.check_same(place.study.runs()[1])
    _finish(place, "a-1", 0.1, 0.1, kinds="knn")
    with pytest.raises(ConfigError, match="--kinds=knn there"):
        place.check_same(place.study.runs()[2])


def test_tables_and_sensitivity_have_the_numbers(place, tmp_path):
    for name, top1, precision in (
        ("a-0", 0.10, 0.50), ("a-1", 0.14, 0.50), ("b-0", 0.22, 0.52), ("b-1", 0.22, 0.56),
    ):  # fmt: skip
        _finish(place, name, top1, precision)
    assert "| both | 12.0 ± 2.8 | 50.0 ± 0.0 |" in page.page(place, "command").splitlines()
    assert "| half | 10.0 (one run) | 50.0 (one run) |" in page.page(place, "command")
    three = Grid("G", "", COLUMNS, {"some": {"mAP": ("b-0", "b-1", "c-0")}})
    assert "| some | not run | 54.0 ± 2.8 (2 of 3 runs) |" in page.grid(place, three)
    section = place.study.sections[1]
    mean, sensitivity, seeds = page.sensitivity(place, section)["both"]
    # Means of seeds: 12 and 22; 50 and 54. Deviations: 10 and 4, each over the square root of 2.
    assert mean == pytest.approx(0.345)
    assert sensitivity == pytest.approx(0.07 / 2**0.5)
    assert seeds == pytest.approx((0.04 + 0 + 0 + 0.04) / 4 / 2**0.5)
    assert "| both | 34.5 | 4.9 | 1.4 |" in page.page(place, "command").splitlines()
    assert "| half | not run | - | - |" in page.page(place, "command").splitlines()
    plots.draw(place, section, tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 5000


def test_a_table_without_numbers_is_one_line_and_has_no_plot(place, tmp_path):
    shown = page.page(place, "command")
    assert shown.count("None of it was run yet.") == 2 and "sizes.png" not in shown


def test_the_command_of_a_seed_names_it_once(place):
    _finish(place, "col", 0.1, 0.1)
    commands = page.page(place, "command").partition("## Every command")[2]
    assert "--output=$STUDY/a-1" not in commands and "--output=$STUDY/a-$SEED" in commands


def test_a_score_of_a_run_that_does_not_exist_is_named():
    study = _study()
    with pytest.raises(ConfigError, match="'x'"):
        plan.check(Study("T", "", study.steps, [Grid("G", "", COLUMNS, {"r": {"top-1": ("x",)}})]))
