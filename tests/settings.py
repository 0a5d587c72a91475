"""Writes docs/settings.md, the page about all settings, out of the schema.

python -m tests.settings            # prints the page
python -m tests.settings --write    # puts it into the document
"""

from __future__ import annotations

import sys

from bstar_jax.config import help as helps
from tests import structure

DOCUMENT = structure.ROOT / "docs" / "settings.md"


def main() -> None:
    """Prints the page, or writes it to the document."""
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(helps.settings_page())
    else:
        print(helps.settings_page(), end="")


if __name__ == "__main__":
    main()
