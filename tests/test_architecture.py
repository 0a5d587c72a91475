"""The documents of the house agree with it: the picture, the list of rooms, the glossary."""

import importlib
import re

import pytest

from tests import picture, structure

CONTRIBUTING = (structure.ROOT / "CONTRIBUTING.md").read_text()


def test_the_picture_is_that_of_the_imports():
    document = picture.DOCUMENT.read_text()
    drawn = document.partition(picture.BEGIN)[2].partition(picture.END)[0]
    assert drawn == picture.picture(), "run: python -m tests.picture --write"


def test_an_arrow_that_follows_from_others_is_left_out():
    links = [
        structure.Import("x.py", 1, importer, imported)
        for importer, imported in [
            ("tasks", "grading"),
            ("grading", "records"),
            ("tasks", "records"),
        ]
    ]
    arrows = picture.direct_imports(links)
    assert (arrows["tasks"], arrows["grading"]) == ({"grading"}, {"records"})


def test_every_room_is_on_the_map_in_its_order():
    table = CONTRIBUTING.partition("## Where things live")[2].partition("## Words")[0]
    listed = re.findall(r"^\| `(\w+)(?:/|\.py)`", table, re.MULTILINE)
    rooms = [
        room for room in structure.ROOMS if (structure.ROOT / structure.PACKAGE / room).is_dir()
    ]
    assert listed[: len(rooms)] == rooms
    document = picture.DOCUMENT.read_text()
    missing = [room for room in (*rooms, "iterate", "doors") if f"**{room}**" not in document]
    assert not missing, f"docs/architecture.md says nothing of {missing}"


def glossary() -> list[tuple[str, str]]:
    """(word, name in the package) of the glossary."""
    table = CONTRIBUTING.partition("### Glossary")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|`]+) \| (.+) \|$", table, re.MULTILINE)
    return [
        (word.strip(), name)
        for word, meaning in rows
        for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", meaning)
        if not name.endswith(".py")
    ]


@pytest.mark.parametrize(("word", "name"), glossary())
def test_a_name_of_the_glossary_is_one_of_the_package(word, name):
    module, _, attribute = name.rpartition(".")
    found = importlib.import_module(f"{structure.PACKAGE}.{module}")
    if not hasattr(found, attribute):
        importlib.import_module(f"{structure.PACKAGE}.{name}")


def test_public_names_mean_one_thing():
    """A class has a name of its own in the whole package; a module does so in its room."""
    places: dict[str, list[str]] = {}
    for path, name in structure.public_classes():
        places.setdefault(name, []).append(path)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, f"one word, one thing: {twice}"
