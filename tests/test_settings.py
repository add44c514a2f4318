"""Settings that make no sense, and recipes that do not run, are named."""

from ml_collections import ConfigDict
import pytest

from colorize_jax.config import recipe
from colorize_jax.config.settings import check_numbers, config_form, default_config
from colorize_jax.errors import ConfigError
from colorize_jax.training import memory

_OWN = """from colorize_jax.config import default_config
def get_config():
    config = default_config()
"""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", 2**32, "config.seed=4294967296 must be a whole number from 0 to 4,294,967,295"),
        ("seed", -1, "config.seed=-1 must be"),
        ("steps", 10**30, "config.steps=1000"),
        (
            "optimizer.rate",
            float("nan"),
            "config.optimizer.rate=nan must be a number of at least 0",
        ),
        ("optimizer.weight_decay", float("inf"), "config.optimizer.weight_decay=inf must be"),
        ("schedule.epochs", 1e30, r"config.schedule.epochs=1e\+30 must be"),
        ("data.crop", 10**6, "config.data.crop=1000000 must be a whole number from 1 to 16,384"),
        ("data.holdout", 1.5, "config.data.holdout=1.5 must be a number from 0 to 1"),
        ("data.scale", (352, float("nan")), r"config.data.scale\[1\]=nan must be a whole number"),
        (
            "checkpoint.snapshots",
            ("all",),
            r"config.checkpoint.snapshots\[0\]=all must be a number",
        ),
        ("eval.classes", (3,), r"config.eval.classes\[0\]=3 must be text"),
        ("distributed.id", -2, "config.distributed.id=-2 must be a whole number from -1"),
    ],
)
def test_absurd_settings_are_refused_by_name(name, value, message):
    config = default_config()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(ConfigError, match=message):
        check_numbers(config)


def test_no_setting_can_do_without_a_kind_and_a_range():
    """A new one has them at once: those of its default, or of the table."""

    def walk(group, form):
        for name, inner in group.items():
            if isinstance(inner, ConfigDict):
                yield from walk(inner, form[f"{name}?"])
            else:
                yield inner, form[f"{name}?"]

    for default, form in walk(default_config(), config_form()):
        for value in default if isinstance(default, tuple) else (default,):
            one = form[0] if isinstance(default, tuple) else form
            if type(value) in (int, float):
                assert -1 <= one.smallest <= value <= one.largest < float("inf")
            else:
                assert type(value) is one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(\n    return 3\n", r"recipe.py, line 1, cannot be read: '\(' was never"),
        ("\ndef get_config():\n    return 1 // 0\n", "recipe.py, line 3, .*ZeroDivisionError"),
        ("import nothing_of_this_name\n", "recipe.py, line 1, .*No module named"),
        ("raise SystemExit(3)\n", "recipe.py, line 1, .*SystemExit"),
        ("def get_config():\n    return get_config()\n", "recipe.py, line 2, .*RecursionError"),
        (f"{_OWN}    config.modle = 3\n", "recipe.py, line 4, .*modle"),
        (f"{_OWN}    config.steps = 1.5\n", "recipe.py, line 4, .*steps"),
        ("\0", "recipe.py cannot be read"),
        ("x = 3\n", "recipe.py has no function get_config"),
        ("get_config = 3\n", "recipe.py has no function get_config"),
        ("def get_config(): pass\n", "get_config must give a ConfigDict and gives None"),
        (f"{_OWN}    return config.model\n", "the config of get_config has no checkpoint"),
        (None, "there is no file .*recipe.py, or it is not Python"),
    ],
)
def test_a_broken_recipe_is_a_sentence_with_its_line(tmp_path, text, message):
    path = tmp_path / "recipe.py"
    if text is None:
        path.mkdir()
    else:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        recipe.read_config(str(path))


def test_a_batch_that_no_machine_holds_is_refused():
    memory.check_batch(8, 352)
    with pytest.raises(
        ConfigError, match=r"data.batch_size .*data.crop=16384 pixels takes 786,432 G"
    ):
        memory.check_batch(2**20, 2**14)
