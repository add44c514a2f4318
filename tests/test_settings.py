"""Errors name invalid settings and recipes that do not run."""

from ml_collections import ConfigDict
import pytest

from colorize_jax.bench import __main__ as bench
from colorize_jax.config import check_numbers, config_form, default_config, recipe
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
    config = default_config("segmentation" if name == "eval.classes" else "colorization")
    config.update_from_flattened_dict({name: value})
    with pytest.raises(ConfigError, match=message):
        check_numbers(config)


def test_no_setting_can_do_without_a_kind_and_a_range():
    """A new network has its suited settings: the default's, or those of the table."""

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
        (None, "there is no file .*recipe.py, and no recipe"),
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


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder like an installed package, with one recipe and one study."""
    (tmp_path / "package/recipes/studies").mkdir(parents=True)
    source = f"{_OWN}    config.steps = 7\n    return config\n"
    (tmp_path / "package/recipes/mine.py").write_text(source)
    (tmp_path / "package/recipes/studies/ours.py").write_text("def get_study(): ...")
    monkeypatch.setattr(recipe, "_PACKAGE", tmp_path / "package")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def test_recipes_and_studies_are_found_by_name_where_the_package_is_installed(installed):
    assert recipe.load_config("mine").steps == 7
    assert recipe.load_file("ours", "get_study").get_study() is None
    with pytest.raises(ConfigError, match="no file vgg17.*known: mine"):
        recipe.read_config("vgg17")
    with pytest.raises(ConfigError, match="no study.*known: ours"):
        recipe.load_file("mine", "get_study")


def test_a_checkout_has_them_beside_the_package_and_paths_go_on_working(installed):
    (installed / "package/recipes").rename(installed / "configs")
    assert list(recipe.shipped()) == ["mine"] and list(recipe.shipped("get_study")) == ["ours"]
    assert recipe.load_config("mine").steps == recipe.load_config("../configs/mine.py").steps == 7
    (installed / "elsewhere/mine").mkdir()  # This is a workdir with the name of its recipe.
    assert recipe.load_config("mine").steps == 7


def test_a_command_line_is_parted_into_changes_and_the_rest():
    words = (
        "--config=mine --config.steps=3 --workdir w --config.model.width 0.5 --config.model.remat "
        "--config.distributed.id -1 --config.data.source="
    )
    changes, others = recipe.split(words.split())
    assert others == ["--config=mine", "--workdir", "w"]
    assert changes == [
        "steps=3", "model.width=0.5", "model.remat", "distributed.id=-1", "data.source=",
    ]  # fmt: skip
    names = {"steps", "model.width", "model.remat", "distributed.id", "data.source"}
    assert recipe.stated(changes) == names


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("steps=3", 3),
        ("model.width=1", 1.0),
        ("optimizer.rate=1e-4", 1e-4),
        ("model.remat", True),
        ("model.remat=true", True),
        ("model.hypercolumn=False", False),
        ("data.source=5", "5"),  # Text stays text.
        ("data.source=a=b", "a=b"),
        ("schedule.drops=(0.5, 1)", (0.5, 1)),
        ("schedule.drops=0.5", (0.5,)),
        ("schedule.drops=", ()),
        ("eval.classes=('cat','dog')", ("cat", "dog")),
        ("eval.classes=cat,dog", ("cat", "dog")),
        ("optimizer.groups={'head': {'rate': 0.1}}", ConfigDict({"head": {"rate": 0.1}})),
    ],
)
def test_a_change_has_the_kind_of_its_setting(change, value):
    config = recipe.load_config("voc2012_seg" if "classes" in change else "vgg16_col", [change])
    for part in change.partition("=")[0].split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


def test_groups_of_parameters_are_changed_one_by_one_or_all_at_once():
    groups = "optimizer.groups={'head': {'rate': 0.1}}"
    one = recipe.load_config("vgg16_col", [groups, "optimizer.groups.head.rate=0.2"])
    assert one.optimizer.groups.to_dict() == {"head": {"rate": 0.2}}
    other = recipe.load_config("vgg16_col", [groups, "optimizer.groups={'encoder': {}}"])
    assert other.optimizer.groups.to_dict() == {"encoder": {}}


def test_settings_that_follow_others_follow_their_changes_too():
    config = recipe.load_config("vgg16_col", ["data.crop=704"])
    assert config.task.edge_buffer == 192
    config = recipe.load_config("vgg16_col", ["task.edge_buffer=5", "data.crop=704"])
    assert config.task.edge_buffer == 5


def test_names_that_decide_about_other_settings_are_changed_first():
    changes = ["model.lrn=False", "task.layer=conv5", "model.name=alexnet", "task.name=rotation"]
    config = recipe.load_config("vgg16_col", changes)
    assert not config.model.lrn and config.task.layer == "conv5" and "points" not in config.task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.rat=1", r"no field optimizer.rat. Did you mean optimizer.rate\?"),
        ("zzz=1", "no field zzz. --help=settings lists all"),
        ("model=1", "config.model is a group of settings"),
        ("steps=1.5", "config.steps=1.5 must be a whole number"),
        ("steps", "config.steps needs a value"),
        ("model.width=wide", "config.model.width=wide must be a number"),
        ("optimizer.groups=head", "config.optimizer.groups=head must be settings with their val"),
        ("steps.long=1", "no field steps.long"),
        ("model.remat=maybe", "config.model.remat=maybe must be True or False"),
        ("data.scale=wide", r"config.data.scale\[0\]=wide must be a whole number"),
        ("data.crop=-1", "config.data.crop=-1 must be a whole number from 1"),
    ],
)
def test_changes_that_make_no_sense_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        recipe.load_config("vgg16_col", [change])


def test_a_command_without_a_recipe_takes_no_settings(capsys):
    with pytest.raises(SystemExit):
        bench.main(["data", "/nowhere", "--config.data.crop=3"])
    assert "--config.data.crop=3: this command takes no recipe" in capsys.readouterr().err


def test_a_batch_that_no_machine_holds_is_refused():
    memory.check_batch(8, 352)
    with pytest.raises(
        ConfigError, match=r"data.batch_size .*data.crop=16384 pixels takes 786,432 G"
    ):
        memory.check_batch(2**20, 2**14)
