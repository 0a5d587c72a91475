"""Every file in configs/ builds in every variant, and its docstring is a lab notebook."""

import importlib.util
import pathlib
import re

import pytest

from bstar_jax.config import Config, UserError, load_config

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path):
    """The module of a config file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variant_builds(path):
    for name in load(path).VARIANTS:
        assert isinstance(load_config(f"{path}:{name}"), Config)
    assert load_config(str(path)) == load_config(f"{path}:bstar")


def test_a_file_that_builds_on_another_loads_in_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in FILES:
        assert isinstance(load_config(path), Config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_unknown_variant_names_the_nearest(path):
    with pytest.raises(UserError, match="no variant 'bstarr'; the nearest is 'bstar'"):
        load_config(f"{path}:bstarr")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_docstring_says_command_hardware_time_and_result(path):
    text = load(path).__doc__
    for word in (f"--config=configs/{path.name}", "Hardware:", "Time:", "Result"):
        assert word in text, f"{path.name} does not say {word}"
    result = text.partition("Result")[2]
    assert re.search(r"\d", result) or "not yet measured" in result


def test_a_baseline_is_a_single_cell_with_equal_steps():
    path = next(path for path in FILES if path.stem == "arithmetic")
    default = load_config(str(path))
    for name in ("online_rft", "iterative_rft", "rest_em", "rft", "star"):
        config = load_config(f"{path}:{name}")
        assert config.calibrate.is_single_cell
        total = config.improve.steps * config.loop.iterations
        assert total == default.improve.steps * default.loop.iterations
