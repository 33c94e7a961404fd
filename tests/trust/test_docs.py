"""The tables in docs/trust.md name tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_test_that_the_page_names_is_there() -> None:
    page = (TESTS.parent / "docs/trust.md").read_text()
    sources = "\n".join(f.read_text() for folder in ("trust", "agent") for f in (TESTS / folder).glob("test_*.py"))
    named = set(re.findall(r"`(test_[a-z_0-9]+\*?)`", page))
    assert len(named) > 50
    missing = [n for n in named if f"def {n.rstrip('*')}{'' if n.endswith('*') else '('}" not in sources]
    assert not missing
