"""What --help shows: every setting, every recipe, and how a command is called."""

import ast
import os
import pathlib
import subprocess
import sys

from ml_collections import ConfigDict
import pytest

from colorize_jax import __main__ as commands
from colorize_jax import convert, extract, help, probe, study
from colorize_jax.bench import __main__ as bench
from colorize_jax.config.recipe import load_config
from colorize_jax.config.settings import default_config
from colorize_jax.data import __main__ as data
from colorize_jax.errors import ConfigError
from colorize_jax.training.same_run import flat

ROOT = pathlib.Path(__file__).parent.parent


def test_every_setting_has_its_default_and_a_comment():
    found = {setting.name: setting for setting in help.settings()}
    plain = {n: s for n, s in found.items() if not isinstance(s.default, ConfigDict)}
    config = default_config()
    assert set(plain) == set(flat(config.to_dict()))
    assert not [name for name, setting in plain.items() if not setting.comment]
    assert plain["task.edge_buffer"].default == 96 and plain["data.crop"].default == 352
    assert plain["model.width"].comment == "multiplies the channels of the trunk"
    above = plain["finetune"].comment
    assert above.startswith("What is trained besides") and above.endswith("costs no gradient.")
    assert found["early_stopping"].comment.startswith("Finds the schedule while it trains")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_variant_of_a_recipe_is_explained(path):
    (variants,) = [v for p, _, v in help.recipes(path.parent) if p == str(path)]
    with pytest.raises(ConfigError) as error:
        load_config(f"{path}:no_such_variant")
    known = str(error.value).partition("known: ")[2].split(", ")
    assert sorted(name for name, _ in variants) == sorted(known)
    assert all(text for _, text in variants)


def test_files_that_are_no_recipes_are_passed_over(tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(:")
    (tmp_path / "other.py").write_text('"""A sweep."""')
    (tmp_path / "mine.py").write_text(
        '"""Mine.\n\nVariants, as in :a\n    a   one thing,\n        and more\n    bc  two\n"""\n'
        "raise SystemExit\ndef get_config(variant=''): ...\n"
    )
    (found,) = help.recipes(tmp_path)
    assert found[1:] == ("Mine.", [("a", "one thing, and more"), ("bc", "two")])


def test_the_help_is_readable(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = help.recipes_and_settings()
    assert max(map(len, text.splitlines())) <= help.WIDTH
    assert "  configs/vgg16_col.py\n" in text and "      :no_drop " in text
    assert '  --config.data.scale="(352, 600)"  ' in text
    assert "  --config.model.width=1.0                multiplies the channels" in text


@pytest.mark.parametrize("command", [bench, convert, data, extract, probe, study])
def test_help_of_a_command_ends_well_and_explains_every_flag(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: {'python -m ' + command.__name__.removesuffix('.__main__')}" in said
    assert ("--config.model.width=1.0" in said) == (command in (bench, study))
    assert "python -m colorize_jax.main --help" in said or command in (bench, study)


@pytest.mark.parametrize(
    "arguments",
    [
        (bench, "data"), (bench, "memory"), (bench, "cost"), (bench, "step"),
        (data, "check"), (data, "pack"), (extract,), (probe,), (study,),
    ],
    ids=lambda x: "-".join([x[0].__name__, *x[1:]]),
)  # fmt: skip
def test_no_flag_is_left_without_a_word(arguments, capsys, monkeypatch):
    command, *words = arguments
    monkeypatch.setenv("COLUMNS", "200")
    bare = []

    def remember(self):
        bare.extend(a.option_strings or a.dest for a in self._actions if not a.help)
        return ""

    monkeypatch.setattr(help.Parser, "format_help", remember)
    with pytest.raises(SystemExit):
        command.main([*words, "--help"])
    assert not bare


@pytest.mark.parametrize("command", ["main", "evaluate"])
def test_help_of_a_run_shows_flags_recipes_and_settings(command):
    result = subprocess.run(
        [sys.executable, "-m", f"colorize_jax.{command}", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0 and not result.stderr
    assert result.stdout.startswith(commands.about(command))
    for shown in ("--workdir" if command == "main" else "--checkpoint", "configs/voc2012_seg.py",
                  ":crossval", "--config.log.every=100"):  # fmt: skip
        assert shown in result.stdout


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", "from colorize_jax.help import show; show('x' * 100_000)"],
        cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        os.close(writing)
        os.read(reading, 10)
        os.close(reading)
        assert not process.communicate(timeout=100)[1]
    assert process.returncode == 0


def test_the_package_lists_its_commands(capsys):
    commands.main([])
    said = capsys.readouterr().out
    found = set()
    for path in (ROOT / "colorize_jax").glob("**/*.py"):
        if '__name__ == "__main__"' in path.read_text():
            name = ".".join(path.relative_to(ROOT / "colorize_jax").with_suffix("").parts)
            found.add(name.removesuffix(".__main__"))
    assert found.remove("__main__") is None
    assert found == set(commands.COMMANDS)
    for name in found:
        assert f"python -m colorize_jax.{name} " in said
    assert (
        ast.get_docstring(ast.parse((ROOT / "colorize_jax/probe.py").read_text())).split("\n")[0]
        in said
    )


def test_a_command_behind_a_space_is_told_the_dot():
    with pytest.raises(SystemExit, match=r"write python -m colorize_jax\.probe, with a dot"):
        commands.main(["probe", "--train=a"])
    with pytest.raises(SystemExit, match="no command 'train'"):
        commands.main(["train"])
