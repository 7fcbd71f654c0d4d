"""The page about the HTTP API says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from http_api_doc import PAGE, written
from kvloom.server import errors
from kvloom.server.dialect.openapi import EXTENSION
from kvloom.server.dialect.unserved import IGNORED_HEADER


def test_the_tables_are_the_codes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run `python -m tests.http_api_doc`"


def test_every_error_code_and_header_is_told() -> None:
    page = PAGE.read_text(encoding="utf-8")
    source = Path(errors.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'code="(\w+)"', source))
    assert len(codes) > 8
    told = page[page.index("## Errors") :]
    assert {code for code in codes if f"`{code}`" not in told} == set()
    assert f"`{IGNORED_HEADER}`" in page
    assert f"`{EXTENSION}`" in page
