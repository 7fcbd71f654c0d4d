"""The site of the documentation: it builds without a warning, has all pages, and asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dev.site_hooks import linked, place_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strict: a link that leads nowhere is an error."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return place


def test_every_page_is_there_and_in_the_nav(site: Path) -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert f": {name}\n" in nav, f"{name} is not in the nav"
        assert (site / name).with_suffix(".html").is_file()
    assert (site / "contributing.html").is_file()
    assert (site / "results" / "intel-r-xeon-r-processor-2-threads" / "2026-11" / "claim-decode.png").is_file()


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"?([^\" >]+)", text)
        assert [each for each in loaded if re.match(r"(?:https?:)?//", each)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_links_between_files_become_links_between_pages() -> None:
    pages = {"operations.md", "results/x.md", "guides/serve.md", "contributing.md"}
    assert linked("[a](../../bench/results/x.md#y)", "docs/guides/serve.md", pages) == "[a](../results/x.md#y)"
    assert linked("[a](docs/operations.md)", "CONTRIBUTING.md", pages) == "[a](operations.md)"
    assert linked("[the files](../deploy)", "docs/operations.md", pages) == "the files (`deploy`)"
    assert linked("[`deploy/`](../deploy)", "docs/operations.md", pages) == "`deploy/`"
    assert linked("[a](https://x.example/y)", "docs/operations.md", pages) == "[a](https://x.example/y)"
    assert linked("[a](nowhere.md)", "docs/operations.md", pages) == "[a](nowhere.md)"  # which a strict build refuses
    assert place_of("README.md") == "index.md"
