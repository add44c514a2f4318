"""--help shows every setting, every recipe, and the usage of every command."""

import ast
import os
import pathlib
import re
import subprocess
import sys

from ml_collections import ConfigDict
import pytest

from colorize_jax import __main__ as commands
from colorize_jax import convert, evaluate, extract, frozen, help, main, probe, study
from colorize_jax.analysis import __main__ as analysis
from colorize_jax.bench import __main__ as bench
from colorize_jax.bench import regression_scale
from colorize_jax.colorize import demo, fooled, score
from colorize_jax.config import default_config, recipe
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
    assert plain["model.width"].comment == "Multiplies the number of channels of every layer."
    above = plain["finetune"].comment
    assert above.startswith("Says what is trained besides") and above.endswith("costs no gradient.")
    assert plain["evals.linear.photos"].default == 10_000
    assert '"zhang", "vit", "nin"' in plain["model.name"].comment  # A comma ends a line there.
    # Several tasks have a setting of this name; the comment is the one of this task.
    assert plain["model.hidden"].comment == "The number of units of the head's hidden layer."
    found_of = {setting.name: setting.comment for setting in help.settings("jigsaw")}
    assert found_of["model.hidden"] == "The number of units that see all nine tiles."
    assert found["early_stopping"].comment.startswith("Finds the schedule while it trains")


def test_own_settings_of_other_choices_are_shown_with_defaults():
    shown = help.all_settings().splitlines()
    assert "    cosine: end=0.0" in shown and "    constant: none of its own" in shown
    assert "    sgd: momentum=0.9, nesterov=False, weight_decay=0.0005" in shown
    assert "    resnet18: depth=18, variant=caffe, stem=imagenet" in shown
    assert shown[shown.index("  --config.optimizer.groups={}") + 1].strip()


@pytest.mark.parametrize("name", recipe.shipped())
def test_every_variant_of_a_recipe_is_explained(name):
    variants = help.variants(help.recipes()[name])
    with pytest.raises(ConfigError) as error:
        recipe.load_config(f"{name}:no_such_variant")
    known = str(error.value).partition("known: ")[2]
    assert sorted(variants) == sorted(known.split(", ") if known else [])
    assert all(variants.values())


def test_own_recipes_are_listed_beside_those_of_the_package(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/broken.py").write_text("def get_config(:")
    (tmp_path / "configs/other.py").write_text('"""A sweep."""')
    (tmp_path / "configs/mine.py").write_text(
        '"""Mine.\n\nVariants, as in :a\n    a   one thing,\n        and more\n    bc  two\n"""\n'
        "raise SystemExit\ndef get_config(variant=''): ...\n"
    )
    found = help.recipes()
    assert list(found) == [*recipe.shipped(), "configs/mine.py"]
    assert help.variants(found["configs/mine.py"]) == {"a": "one thing, and more", "bc": "two"}
    monkeypatch.chdir(ROOT)
    assert list(help.recipes()) == list(recipe.shipped())
    assert list(help.recipes("get_study")) == list(recipe.shipped("get_study"))


def _said(capsys, call, *words):
    with pytest.raises(SystemExit) as ended:
        call(list(words))
    said = capsys.readouterr()
    return ended.value.code, said.out + said.err


PLAIN = (analysis, score, fooled, demo)  # Their settings are flags, not a config.
COMMANDS = [
    *(
        (module, ())
        for module in (main, evaluate, regression_scale, extract, probe, frozen, study)
    ),
    (convert, ()), *((convert, (name,)) for name in
     ("caffe", "to-caffe", "torch", "to-torch", "to-onnx", "inspect")),
    (bench, ()), *((bench, (name,)) for name in ("data", "memory", "cost", "step")),
    (data, ()), *((data, (name,)) for name in ("check", "pack")),
    (score, ()), (fooled, ()), (demo, ()),
    (analysis, ()), *((analysis, (name,)) for name in analysis.COMMANDS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "words"), COMMANDS, ids=lambda x: "-".join(x) if isinstance(x, tuple) else x.__name__
)
def test_help_of_every_command_fits_a_screen(module, words, capsys, monkeypatch):
    plain, bare = help.Parser.format_help, []

    def remember(self):
        bare.extend(a.dest for a in self._actions if not a.help and a.dest != "command")
        return plain(self)

    monkeypatch.setattr(help.Parser, "format_help", remember)
    call = module.parser().parse_args if hasattr(module, "parser") else module.main
    code, said = _said(capsys, call, *words, "--help")
    command = " ".join((module.__name__.removesuffix(".__main__"), *words))
    assert code == 0 and said.startswith(f"usage: python -m {command} ")
    lines = said.splitlines()
    assert len(lines) <= help.SCREEN and max(map(len, lines)) <= help.WIDTH
    takes_recipe = (hasattr(module, "parser") and module not in PLAIN) or words in (
        ("cost",),
        ("step",),
    )
    assert not bare  # Every flag has a text.
    listed = re.search(r"^Recipes; (?s:.*)\bvgg16_col\b", said, re.M)  # with its line, or alone
    assert bool(listed) == takes_recipe == ("--config.NAME=VALUE" in said)


def test_variants_are_listed_where_they_have_room():
    assert "\n" + " " * 23 + ":long :regression" in help.list_of("get_config", 1000)
    short = help.list_of("get_config", len(recipe.shipped()))
    assert len(short.splitlines()) == len(recipe.shipped()) and ":long" not in short
    names = help.list_of("get_config", 10).split()
    assert [name.strip(",") for name in names] == list(recipe.shipped())


def test_settings_and_recipes_are_shown_if_asked_for(capsys):
    code, said = _said(capsys, main.parser().parse_args, "--help=settings")
    assert code == 0 and max(map(len, said.splitlines())) <= help.WIDTH
    assert '  --config.data.scale="(352, 600)"\n' in said
    assert "  --config.model.width=1.0                Multiplies the number" in said
    for topic in ("vgg16_col", "vgg16_col:long", str(ROOT / "configs/vgg16_col.py")):
        code, said = _said(capsys, main.parser().parse_args, f"--help={topic}")
        assert code == 0 and "    no_drop         the rate never drops" in said
    code, said = _said(capsys, main.parser().parse_args, "--help=vgg17")
    assert code == 2 and "--help=vgg17: known: settings, alexnet_col, " in said


def test_flags_may_be_spelled_with_hyphens_and_what_is_no_flag_stays():
    parser = help.Parser()
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("files", nargs="*")
    asked = parser.parse_args(["--batch-size=3", "--dry-run", "--name=--batch-size", "a-b"])
    assert (asked.batch_size, asked.dry_run) == (3, True)
    assert (asked.name, asked.files) == ("--batch-size", ["a-b"])
    asked = parser.parse_args(["--batch-size", "4", "--", "--batch-size"])
    assert (asked.batch_size, asked.files) == (4, ["--batch-size"])
    assert "--batch-size" not in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--batches-size=3"])


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


def test_a_command_after_a_space_gets_a_hint_to_use_a_dot():
    with pytest.raises(SystemExit, match=r"python -m colorize_jax\.probe.*dot"):
        commands.main(["probe", "--train=a"])
    with pytest.raises(SystemExit, match="no command 'train'"):
        commands.main(["train"])
