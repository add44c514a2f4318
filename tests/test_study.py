"""Studies: the order and settings of runs, and the page about them."""

import json
import os
import pathlib
import subprocess
from unittest import mock

import numpy as np
from PIL import Image
import pytest

from colorize_jax import frozen, study
from colorize_jax.config.recipe import load_config, load_file
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.models import registry
from colorize_jax.studies import execution, page, plan, plots
from colorize_jax.studies.child import STOPPED
from colorize_jax.studies.plan import Gain, Plot, Row, Run, Search, Study, Table, seeded
from colorize_jax.studies.workplace import Workplace
from colorize_jax.training import same_run, schedules

ROOT = pathlib.Path(__file__).parent.parent
RECIPE = str(ROOT / "configs/quickstart.py")
SETTINGS = {"data.batch_size": 4, "data.scale": (64, 80)}


def _study(**changes):
    steps = [
        Run("col", RECIPE, SETTINGS | {"data.source": "$DATA/photos"}),
        Search(
            "search", RECIPE, SETTINGS,
            ({"optimizer.rate": 0.1}, {"optimizer.rate": 0.2, "model.norm": "none"}), start="col",
        ),
        *seeded(Run("seg", RECIPE, SETTINGS, start="col@20", search="search"), (0, 1)),
        *seeded(Run("random", RECIPE, SETTINGS), (0, 1)),
    ]  # fmt: skip
    rows = [
        Row("Random", ("random-0", "random-1"), "32.8"),
        Row("Ours", ("seg-0", "seg-1"), "50.7"),
        Gain("gain", ("seg-0", "seg-1"), ("random-0", "random-1")),
        Row("FoV", not_run="too small"),
    ]
    table = Table("A table", "What it shows.", "eval/miou", "ours", rows, paper="paper")
    plot = Plot(
        "A plot", "Curves.", "plot.png", {"drops": "col"}, "eval/miou",
        {"drops": {0: ("random-0",), 80: ("seg-0", "seg-1")}},
    )  # fmt: skip
    return Study(**{"title": "T", "text": "About.", "steps": steps, "sections": [table, plot]}
                 | changes)  # fmt: skip


@pytest.fixture
def place(tmp_path):
    return Workplace(_study(), tmp_path, "/photos of mine")


def _finish(place, name, value, *, higher=True, seed=0):
    """Writes the files of a run that a study reads."""
    run = next(run for run in place.study.runs() if run.name == name)
    changes = [argument.partition("--config.")[2] for argument in place.command(run)[2:]]
    folder = place.workdir / name
    folder.mkdir(exist_ok=True)
    config = same_run.plain(load_config(run.recipe, changes))
    (folder / "config.json").write_text(json.dumps(config))
    results = {
        "eval/miou": value, "metric": {"name": "miou", "value": value, "higher_is_better": higher},
        "schedule": {"steps": 40, "drops": [20, 30]}, "data": {"photos": 31}, "seconds": 90.0,
        "seed": seed, "hardware": "an abacus",
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    rows = [{"step": step, "train/loss": 3 - step / 40} for step in (10, 20, 30, 40)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _runner(place, values, codes=None):
    """Stands in for a run: it writes results, or returns another exit code."""
    ran = []

    def run(name, arguments):
        assert arguments[1] == f"--workdir={place.workdir / name}"
        ran.append(arguments)
        code = (codes or {}).get(name, 0)
        if not code:
            _finish(place, name, values.get(name, 0.5))
        return code

    return run, ran


def _go(place, run=None, only=()):
    return execution.go(place, execution.pick(place.study, only), lambda line: None, run)


def _names(ran):
    return [arguments[1].rpartition("/")[2] for arguments in ran]


def test_everything_is_run_once_in_order_and_the_best_candidate_decides(place):
    run, ran = _runner(place, {"search-0": 0.3, "search-1": 0.4})
    everything = ["col", "search-0", "search-1", "seg-0", "seg-1", "random-0", "random-1"]
    assert _go(place, run) == dict.fromkeys(everything, "done")
    assert _names(ran) == everything
    assert ran[0] == [
        f"--config={RECIPE}", f"--workdir={place.workdir}/col",
        "--config.data.batch_size=4", "--config.data.scale=(64,80)",
        "--config.data.source=/photos of mine/photos",
    ]  # fmt: skip
    assert "--config.early_stopping.mode=search" in ran[1]
    assert f"--config.init_from={place.workdir}/col" in ran[1]
    assert ran[4][-5:] == [
        "--config.seed=1", f"--config.init_from={place.workdir}/col/checkpoints/20",
        "--config.optimizer.rate=0.2", "--config.model.norm=none",
        f"--config.schedule_from={place.workdir}/search-1",
    ]  # fmt: skip
    ran.clear()
    assert _go(place, run) == dict.fromkeys(everything, "done")
    assert ran == []


def test_a_lower_loss_is_the_better_candidate(place):
    for name, value in (("search-0", 0.3), ("search-1", 0.4)):
        _finish(place, name, value, higher=False)
    assert place.chosen(place.study.searches()["search"])[0] == "search-0"


def test_a_failed_run_stops_only_runs_that_need_it(place):
    run, ran = _runner(place, {}, {"search-1": 1})
    states = _go(place, run)
    assert _names(ran) == ["col", "search-0", "search-1", "random-0", "random-1"]
    assert {name: state for name, state in states.items() if state != "done"} == {
        "search-1": "failed with exit code 1",
        "seg-0": "waits: search-1 is not done",
        "seg-1": "waits: search-1 is not done",
    }


def test_a_stopped_run_stops_the_study(place):
    run, ran = _runner(place, {}, {"search-0": STOPPED})
    stopped = "was stopped; the same command goes on"
    assert _go(place, run) == {"col": "done", "search-0": stopped}
    assert len(ran) == 2


def test_some_runs_only(place):
    run, ran = _runner(place, {})
    _go(place, run, ("random-*", "col", "se"))
    assert _names(ran) == ["col", "random-0", "random-1"]


def test_a_branch_resumes_from_a_checkpoint_of_another_run(tmp_path):
    branch = Run("no_drop", f"{RECIPE}", SETTINGS | {"schedule.drops": ()}, branch="col@20")
    place = Workplace(_study(steps=[_study().steps[0], branch], sections=[]), tmp_path, "/data")
    plan.check(place.study)
    run, ran = _runner(place, {})
    failing, _ = _runner(place, {}, {"col": 1})
    assert _go(place, failing) == {
        "col": "failed with exit code 1", "no_drop": "waits: col is not done",
    }  # fmt: skip
    _finish(place, "col", 0.5)
    with pytest.raises(ConfigError, match="no_drop.*col@20.*20 is missing"):
        _go(place, run)
    (tmp_path / "col/checkpoints/20").mkdir(parents=True)
    (tmp_path / "col/checkpoints/20/weights").write_text("of step 20")
    _go(place, run)
    assert _names(ran) == ["no_drop"]
    assert "--config.checkpoint.accept_changes=True" in ran[0]
    taken = tmp_path / "no_drop/checkpoints/20/weights"
    assert taken.read_text() == "of step 20"
    # A branch that has begun is not changed.
    taken.write_text("its own")
    (tmp_path / "no_drop/results.json").unlink()
    _go(place, run, ("no_drop",))
    assert len(ran) == 2 and taken.read_text() == "its own"
    assert (
        "\nmkdir -p $STUDY/no_drop/checkpoints && "
        "cp -r $STUDY/col/checkpoints/20 $STUDY/no_drop/checkpoints/20\npython"
    ) in page.page(place, "the command")


def test_a_finished_run_with_other_settings_is_refused_and_another_place_is_not(place, tmp_path):
    _finish(place, "col", 0.5)
    moved = Workplace(_study(), tmp_path, "/elsewhere")
    moved.check_same(place.study.runs()[0])
    steps = [Run("col", RECIPE, SETTINGS | {"data.source": "$DATA/photos", "data.crop": 96})]
    changed = Workplace(_study(steps=steps, sections=[]), tmp_path, "/x")
    with pytest.raises(ConfigError, match=r"config.data.crop: 64 there, 96 here"):
        _go(changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [Run("a", "r", {}, start="b"), Run("b", "r", {})]}, "starts from 'b'"),
        ({"steps": [Run("a", "r", {}, search="b")]}, "names 'b', which is no search"),
        ({"steps": [Run("a", "r", {}), Run("a", "r", {})]}, "two runs are called a"),
        ({"steps": [Run("a", "r", {}), Run("b", "r", {}, branch="a")]}, "branches off 'a', which"),
        ({"steps": [Run("b", "r", {}, branch="a@2")]}, "branches off 'a@2', which is not NAME@ST"),
        ({"steps": [Run("a/b", "r", {})]}, "'a/b' is no name for a folder"),
        ({"steps": [Search("s", "r", {}, ())]}, "s has no candidates"),
        ({"steps": []}, "'A table' names the run 'random-0'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_by_name(changes, message):
    if "'A table'" not in message:
        changes = changes | {"sections": []}
    with pytest.raises(ConfigError, match=message):
        plan.check(_study(**changes))


def test_data_must_be_named(tmp_path):
    place = Workplace(_study(), tmp_path)
    with pytest.raises(ConfigError, match=r"col.*\$DATA.* --data="):
        _go(place)


def _fill(place):
    for name, value in {
        "col": 0.2, "search-0": 0.3, "search-1": 0.4, "seg-0": 0.25, "seg-1": 0.27,
        "random-0": 0.2, "random-1": 0.21,
    }.items():  # fmt: skip
        _finish(place, name, value, seed=int(name[-1]) if name[-1].isdigit() else 0)


def test_page_has_means_spreads_differences_and_what_was_not_run(place):
    before = page.page(place, "the command")
    assert "| Ours | 50.7 | not run | - | - | `seg-0`, `seg-1` |" in before
    assert before.count("\nthe command --only='seg-*'\n") == 1 and "schedule_from" not in before
    assert "None was run yet." in before
    _fill(place)
    text = page.page(place, "the command")
    assert "| Random | 32.8 | 20.5 ± 0.7 | 2 | 1.5 | `random-0`, `random-1` |" in text
    assert "| Ours | 50.7 | 26.0 ± 1.4 | 2 | 1.5 | `seg-0`, `seg-1` |" in text
    assert "| gain |  | +5.5 ± 0.7 | 2 |  |  |" in text
    assert "| FoV | - | not run: too small | - | - | - |" in text
    assert "| `seg-1` | 1 | miou 0.2700 | 40 | 20, 30 | 31 | 1:30 | an abacus |" in text
    assert str(place.workdir) not in text
    assert "photos of mine" not in text


def test_page_has_a_command_for_every_run(tmp_path):
    """In a shell they equal the commands that the study runs; one serves both seeds."""
    place = Workplace(_study(), tmp_path, "/photos")
    _fill(place)
    text = page.page(place, "the command").split("```sh")[2].split("```")[0]
    assert max(map(len, text.splitlines())) <= 120
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@" ----- >> "$STUDY/said"\n')
    (tmp_path / "python").chmod(0o755)
    variables = {"STUDY": str(place.workdir), "DATA": place.data, "SEED": "1"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", text], env=variables | path, check=True)
    said = [one.split("\n")[:-1] for one in (tmp_path / "said").read_text().split("-----\n")[:-1]]
    runs = [run for run in place.study.runs() if not run.name.endswith("-0") or not run.search]
    wanted = [place.command(run) for run in runs if run.name != "random-0"]
    assert [words[:2] for words in said] == [["-m", "colorize_jax.main"]] * len(wanted)
    assert [sorted(words[2:]) for words in said] == [sorted(words) for words in wanted]


def test_commands_are_for_a_shell(capfd):
    words = ["--config.a=$DATA/b c", "--config.x=('d','e')", '--config.y="1`2', "z" * 96]
    command = page.shell(["printf", r"%s\n", *words])
    subprocess.run(["bash", "-c", f"DATA=/data; {command}"], check=True)
    words[0] = "--config.a=/data/b c"
    assert capfd.readouterr().out.splitlines() == words and "\\\n    zzz" in command


def test_one_run_and_none(place):
    assert page.spread([0.123]) == "12.3 (one run)"
    assert page.spread([]) == "not run"
    _finish(place, "col", None)
    assert "| `col` | 0 | miou none |" in page.page(place, "c")


def test_unknown_score_is_named(place):
    _finish(place, "col", 0.5)
    with pytest.raises(ColorizeError, match=r"col has no score 'eval/top1'; it has eval/miou"):
        place.score("col", "eval/top1")


def test_damaged_results_are_named(place):
    (place.workdir / "col").mkdir()
    (place.workdir / "col/results.json").write_text('{"step"')
    with pytest.raises(ColorizeError, match=r"col/results.json is damaged"):
        place.results("col")


def test_plot_shows_what_there_is(place, tmp_path):
    plot = place.study.sections[1]
    plots.draw(place, plot, tmp_path / "empty.png")
    _fill(place)
    plots.draw(place, plot, tmp_path / "full.png")
    empty, full = (np.asarray(Image.open(tmp_path / f"{n}.png").convert("RGB")) for n in
                   ("empty", "full"))  # fmt: skip

    def colored(picture):
        return int((np.ptp(picture.astype(int), axis=-1) > 40).sum())

    assert colored(empty) == 0
    assert colored(full) > 500


@pytest.mark.parametrize("name", ["small", "gpu", "pretexts", "pretexts_full"])
def test_study_of_the_project_is_sound(name):
    found = load_file(name, "get_study").get_study()
    plan.check(found)
    for run in found.runs():
        # Runs that differ in their seed alone have the same settings.
        if isinstance(run, plan.Frozen) and not run.settings["seed"]:
            frozen.make_parser().parse_args(_placed(found, run))
        elif isinstance(run, plan.Run) and not run.search and not run.settings.get("seed"):
            _config(found, run)


def _placed(found, run):
    return Workplace(found, pathlib.Path("/study"), "/data").command(run)


def _config(found, run):
    changes = [word.partition("--config.")[2] for word in _placed(found, run)[2:]]
    return load_config(run.recipe, changes)


def test_pretexts_at_full_size_have_the_network_of_their_random_start_and_labels():
    module = load_file("pretexts_full", "get_study")
    found = module.get_study()
    runs = {run.name: run for run in found.runs()}
    for network, own in module.NETWORKS.items():
        encoders = []
        for stem in module.trained(network).values():
            config = _config(found, runs[f"{stem}_60k-0"])
            batch = config.data.batch_size
            steps = schedules.make_schedule(config, 60_000).steps
            assert abs(steps * batch - 200 * 120_000) <= batch
            encoders.append(registry.make_encoder(config.model))
        start = _config(found, runs[f"random_{module.word(network)}-0"])
        encoders.append(registry.make_encoder(start.model))
        # What they share is more than the network's name: input, norm, strides, padding.
        assert len({encoder.clone(norm_decay=0.9) for encoder in encoders}) == 1
        assert set(own.layers.split(",")) <= set(encoders[0].layers)
    assert len({pretext.network for pretext in module.PRETEXTS.values()}) == len(module.NETWORKS)


def test_pretexts_at_full_size_read_what_tfds_has_prepared():
    module = load_file("pretexts_full", "get_study")
    module.PLACES = module.TFDS
    found = module.get_study()
    plan.check(found)
    sources = {run.settings.get("data.source") or run.settings["source"] for run in found.runs()}
    assert sources == {
        "tfds:imagenet2012:train", "tfds:imagenet2012", "tfds:cifar10", "tfds:svhn_cropped",
        "tfds:oxford_flowers102", "$DATA/VOCdevkit/VOC2007", "$DATA/VOCdevkit/VOC2012",
    }  # fmt: skip


def test_study_of_a_gpu_differs_in_the_start_alone():
    found = load_file("gpu", "get_study").get_study()
    runs = {run.name: run for run in found.runs()}
    configs = {name: _config(found, run) for name, run in runs.items()}
    col, random = (configs[f"seg_{start}-1"].to_dict() for start in ("col", "random"))
    differing = {key for key in col if col[key] != random[key]}
    assert differing == {"init_from"}
    # The pretraining keeps the early snapshot.
    pretraining = configs["col"]
    assert pretraining.model.width == 1.0 and pretraining.checkpoint.snapshots == (3.0,)
    assert runs["seg_early-0"].start == f"col@{round(3.0 * 49_503 / pretraining.data.batch_size)}"
    # The card's time is for training: evaluation comes at the end.
    assert all(config.eval.every == config.steps for config in configs.values())


@pytest.mark.parametrize(
    ("name", "records", "there"),
    [
        ("small", "docs/small", "docs/results.md"),
        ("pretexts", "docs/pretexts", "docs/pretexts.md"),
        ("paper", "", "docs/recipes.md"),
    ],
)
def test_pages_of_the_docs_are_those_of_their_studies(name, records, there, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study.main([
        name, f"--workdir={records or tmp_path}", "--only=nothing",
        f"--page={tmp_path}/page.md",
    ])  # fmt: skip
    assert (tmp_path / "page.md").read_text() == (ROOT / there).read_text()
    if name == "small":
        assert (tmp_path / "figure4.png").stat().st_size > 10_000


def test_example_of_the_docs_is_sound(tmp_path):
    text = (ROOT / "docs/studies.md").read_text()
    file = tmp_path / "study.py"
    file.write_text(text.split("```python\n")[1].split("```")[0])
    found = load_file(str(file), "get_study").get_study()
    plan.check(found)
    assert len(found.runs()) == 9
    assert "| gain | not run | - |  |  |" in page.page(Workplace(found, tmp_path), "command")


def test_command_writes_the_page_from_what_is_there(place, tmp_path, monkeypatch, capsys):
    _fill(place)
    file = tmp_path / "study.py"
    file.write_text("def get_study():\n    return STUDY\n")
    module = load_file(str(file), "get_study")
    module.STUDY = place.study
    monkeypatch.setattr(study, "load_file", lambda path, function: module)
    arguments = [str(file), f"--workdir={tmp_path}", "--data=/photos of mine"]
    study.main([*arguments, f"--page={tmp_path}/docs/results.md"])
    text = (tmp_path / "docs/results.md").read_text()
    assert "26.0 ± 1.4" in text
    assert (tmp_path / "docs/plot.png").exists()
    records = tmp_path / "records"
    (tmp_path / "search-0/schedule.json").write_text("{}")
    (tmp_path / "col/checkpoints/20").mkdir(parents=True)
    study.main([*arguments, "--only=nothing", f"--records={records}"])
    kept = {str(path.relative_to(records)) for path in records.rglob("*") if path.is_file()}
    assert kept == {
        *(f"{run.name}/{name}" for run in place.study.runs() for name in
          ("config.json", "results.json")),
        "search-0/schedule.json", "col/metrics.jsonl",
    }  # fmt: skip
    study.main([str(file), f"--workdir={records}", "--only=nothing"])
    assert (records / "results.md").read_text() == text
    assert (records / "plot.png").read_bytes() == (tmp_path / "docs/plot.png").read_bytes()
    (tmp_path / "seg-0/results.json").unlink()
    study.main([*arguments, "--only=nothing"])
    assert "25" not in (tmp_path / "results.md").read_text().split("| Ours |")[1].split("\n")[0]
    with pytest.raises(SystemExit, match="error.*no file absent.py"):
        monkeypatch.undo()
        study.main(["absent.py", f"--workdir={tmp_path}"])


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [(STOPPED, STOPPED, "search-0 was stopped"), (1, "error: search-0 failed", "")],
)
def test_how_the_command_ends(place, tmp_path, monkeypatch, capsys, code, ended, said):
    _finish(place, "col", 0.5)
    monkeypatch.setattr(execution, "execute", lambda words: code)
    monkeypatch.setattr(study, "load_file", lambda path, function: mock.Mock(get_study=_study))
    with pytest.raises(SystemExit) as stop:
        study.main(["x.py", f"--workdir={tmp_path}", "--data=/photos of mine"])
    assert stop.value.code == ended or stop.value.code.startswith(f"{ended} with exit code 1")
    assert said in capsys.readouterr().err and (tmp_path / "results.md").exists()
