"""Draws the rooms of the package for docs/architecture.md, out of their imports.

    python -m tests.picture            # prints the picture
    python -m tests.picture --write    # puts it into the document

An arrow leads from a room to one that it imports. Arrows that follow from others are left out:
where A imports B and B imports C, A may import C too.
"""

from __future__ import annotations

import sys

from tests import structure

DOCUMENT = structure.ROOT / "docs" / "architecture.md"
BEGIN, END = (
    "<!-- picture: made by python -m tests.picture --write -->\n",
    "<!-- end of picture -->\n",
)


def direct_imports(links: list[structure.Import]) -> dict[str, set[str]]:
    """Room -> rooms that it imports, those aside that it reaches through another one."""
    imported: dict[str, set[str]] = {room: set() for room in structure.ROOMS}
    for link in links:
        imported[link.importer].add(link.imported)

    def reached(room: str) -> set[str]:
        return imported[room].union(*map(reached, imported[room]))

    return {
        room: {
            each for each in found if not any(each in reached(other) for other in found - {each})
        }
        for room, found in imported.items()
    }


def picture() -> str:
    """The rooms as a Mermaid flow chart, which GitHub and most editors show as a drawing."""
    arrows = direct_imports(structure.imports())
    rooms = [
        room
        for room in structure.ROOMS
        if arrows[room] or any(room in to for to in arrows.values())
    ]
    lines = ["```mermaid", "flowchart BT"]
    lines += ["  subgraph without_jax [without JAX]"]
    lines += [f"    {room}" for room in rooms if room in structure.WITHOUT_JAX]
    lines += ["  end"]
    lines += [
        f"  {room} --> {each}"
        for room in rooms
        for each in sorted(arrows[room], key=structure.ROOMS.index)
    ]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Prints the picture, or writes it."""
    if "--write" not in sys.argv:
        print(picture())
        return
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + picture() + END + after)


if __name__ == "__main__":
    main()
