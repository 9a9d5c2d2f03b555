from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from cluster.config import Settings, StrictModel, load_yaml, validate
from cluster.errors import ConfigError, NotFoundError


class Optim(StrictModel):
    lr: float = 1e-3
    steps: int = 10


class Recipe(StrictModel):
    name: str
    optim: Optim = Optim()
    parts: tuple[Optim, ...] = ()
    by_team: dict[str, dict[str, Optim]] = Field(default_factory=dict)


@pytest.fixture
def write(tmp_path: Path):
    def run(text: str) -> Path:
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        return file

    return run


def test_overrides_win_over_the_file_and_read_numbers_as_people_write_them(write):
    file = write("name: a\noptim:\n  lr: 0.5\n")

    recipe = load_yaml(file, Recipe, ["optim.lr=1e-4", "optim.steps=3", "name=b"])

    assert recipe == Recipe(name="b", optim=Optim(lr=1e-4, steps=3))


@given(lr=st.floats(min_value=1e-30, max_value=1e30))
def test_any_number_survives_as_an_override(tmp_path_factory, lr):
    file = tmp_path_factory.mktemp("config") / "recipe.yaml"
    file.write_text("name: a\n")

    assert load_yaml(file, Recipe, [f"optim.lr={lr}"]).optim.lr == lr


def test_a_misspelt_key_is_named_with_file_line_and_the_nearest_one(write):
    file = write("name: a\noptim:\n  lr: 1\n  stesp: 4\n")

    with pytest.raises(ConfigError) as caught:
        load_yaml(file, Recipe)

    assert caught.value.code == "config.unknown_key"
    assert f"{file}:4" in caught.value.message
    assert "`stesp`" in caught.value.message
    assert "Did you mean `steps`?" in caught.value.message
    assert "lr, steps" in caught.value.hint


def test_a_misspelt_key_inside_a_list_is_found_too(write):
    file = write("name: a\nparts:\n  - lr: 1\n  - lrr: 2\n")

    with pytest.raises(ConfigError, match=r"recipe\.yaml:4.*`lrr`.*Did you mean `lr`"):
        load_yaml(file, Recipe)


def test_a_misspelt_key_below_names_that_people_choose_is_found_too(write):
    file = write("name: a\nby_team:\n  blue:\n    first:\n      stepz: 4\n")

    with pytest.raises(ConfigError, match=r"recipe\.yaml:5.*`stepz` is not a key.*Did you mean `steps`"):
        load_yaml(file, Recipe)


def test_a_wrong_value_is_named_with_its_line(write):
    with pytest.raises(ConfigError, match=r"recipe\.yaml:3: `optim\.steps` is 'many'"):
        load_yaml(write("name: a\noptim:\n  steps: many\n"), Recipe)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("optim: {}\n", "config.missing_key"),
        ("- a\n- b\n", "config.not_mapping"),
        ("", "config.not_mapping"),
        ("name: [unclosed\n", "config.not_yaml"),
    ],
)
def test_files_that_do_not_fit_say_how(write, text, code):
    with pytest.raises(ConfigError) as caught:
        load_yaml(write(text), Recipe)
    assert caught.value.code == code


@pytest.mark.parametrize("override", ["optim", "=3", "name.deeper=3"])
def test_overrides_that_cannot_apply_are_refused(write, override):
    with pytest.raises(ConfigError) as caught:
        load_yaml(write("name: a\n"), Recipe, [override])
    assert caught.value.code == "config.override"


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match=r"nothing\.yaml"):
        load_yaml(tmp_path / "nothing.yaml", Recipe)


def test_a_parsed_tree_can_be_validated_without_a_file():
    with pytest.raises(ConfigError, match="args: the key `name` is missing"):
        validate({}, Recipe, source="args")


def test_settings_read_the_environment_and_the_root_option_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LINNET_ROOT", str(tmp_path / "shared"))
    monkeypatch.delenv("LINNET_STATE_URL", raising=False)

    assert Settings.load().root == str(tmp_path / "shared")
    assert Settings.load(root=str(tmp_path / "given")).root == str(tmp_path / "given")
    assert Settings.load().state_url == f"sqlite:///{tmp_path}/shared/state/linnet.db"


def test_on_an_object_store_the_database_stays_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LINNET_STATE_URL", raising=False)

    assert Settings.load(root="s3://bucket/x").state_url == f"sqlite:///{tmp_path}/home/state/linnet.db"


def test_specs_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Optim().lr = 3  # type: ignore[misc]
