"""README fits 150 lines, and no line of the pages is longer than 160 characters."""

from __future__ import annotations

import pytest
from doc_blocks import PAGES, ROOT, page_name

MAX_README_LINES, MAX_CHARACTERS = 150, 160


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_lines_are_short(page):
    lines = enumerate(page.read_text().splitlines(), start=1)
    long = [number for number, line in lines if len(line) > MAX_CHARACTERS]
    assert not long, f"lines of more than {MAX_CHARACTERS} characters: {long}"
