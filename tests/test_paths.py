"""~ and variables are expanded in flags, settings, and several sources."""

import pathlib

import pytest
import saved
import tiny

from colorize_jax import command_line, evaluate, main, paths
from colorize_jax.data import sources
from colorize_jax.errors import ConfigError, printable, shown


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_OF_MINE", str(tmp_path / "data"))
    monkeypatch.delenv("NO_SUCH", raising=False)
    return str(tmp_path)


def test_home_and_variables(home):
    for path in ("~/a", "$HOME/a", "${HOME}/a"):
        assert paths.expand(path) == f"{home}/a"
    assert paths.expand("$DATA_OF_MINE/a") == f"{home}/data/a"
    for path in ("", "/a", "a~b", "a/~", "/a/5$", "train", "recipe.py:long", "gs://bucket/a"):
        assert paths.expand(path) == path


def test_a_folder_of_such_a_name_is_left_alone(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("~", "$NO_SUCH"):
        (tmp_path / name).mkdir()
        assert paths.expand(name) == name


@pytest.mark.parametrize("path", ["~no_such_user_here/a", "$NO_SUCH/a", "/a/${NO_SUCH}"])
def test_what_cannot_be_replaced_is_refused(home, path):
    with pytest.raises(ConfigError, match="there is no (user|variable)"):
        paths.expand(path)


def test_every_one_of_several_sources(home):
    assert sources.parse("~/a,$HOME/b, /c")[0] == [f"{home}/a", f"{home}/b", "/c"]
    assert sources.parse("~/a@3,~/b@1") == ([f"{home}/a", f"{home}/b"], [0.75, 0.25])


def test_every_setting_that_names_a_place(home):
    config = tiny.config(
        data__source="~/a,~/b", data__sbd="~/sbd", data__split="$HOME/list.txt", init_from="~/run",
        schedule_from="~/s", replay="~/r.json",
    )  # fmt: skip
    paths.expand_settings(config)
    assert config.data.source == f"{home}/a,{home}/b"
    found = (config.data.sbd, config.data.split, config.init_from, config.schedule_from)
    assert found == (f"{home}/sbd", f"{home}/list.txt", f"{home}/run", f"{home}/s")
    assert config.replay == f"{home}/r.json" and config.data.eval_split == ""


def test_flags_of_commands(home):
    recipe = (saved.ROOT / "configs/vgg16_col.py").read_text()
    pathlib.Path(home, "r.py").write_text(recipe)
    asked = command_line.parse(
        main.parser(), ["--config=~/r.py:long", "--workdir", "~/run", "--config.init_from=$HOME/a"]
    )
    assert asked.workdir == f"{home}/run" and asked.config.init_from == f"{home}/a"
    assert asked.config.schedule.epochs == 10 and asked.stated == {"init_from"}
    asked = evaluate.parser().parse_args(["--config=c", "--checkpoint=~/run", "--output=$HOME/o"])
    assert (asked.checkpoint, asked.output) == (f"{home}/run", f"{home}/o")


def test_names_are_shown_without_what_moves_a_terminal():
    assert shown("a\x1b[2Jb\r\n\u202e\udcfc") == r"a\x1b[2Jb\r\n\u202e\xfc"
    assert shown("日本 ü.jpg") == "日本 ü.jpg"
    assert printable("two\nlines\x07") == "two\nlines\\x07"
    assert str(ConfigError("no \x1b[31m here\nnor there")) == "no \\x1b[31m here\nnor there"
