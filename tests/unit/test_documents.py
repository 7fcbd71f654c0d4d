"""What the documents name exists, and what exists is named."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

from bench.claims import CLAIMS, Compared, claim_of
from kvloom import CompletionOutput, Logprob, RequestOutput, SamplingParams
from kvloom.codec import CODECS
from kvloom.engine.vllm_names import HOLDS, NOT_HERE, RENAMED

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section `{heading}`"
    return found[1]


def first_column(table: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def test_contributing_lists_the_claims() -> None:
    assert first_column(section(read("CONTRIBUTING.md"), "Claims")) == list(CLAIMS)


def test_every_claim_can_be_measured() -> None:
    claims = [claim_of(name) for name in CLAIMS]
    assert all(callable(claim.judge if isinstance(claim, Compared) else claim) for claim in claims)


def test_the_readme_lists_the_codecs() -> None:
    assert first_column(section(read("README.md"), "Codecs")) == list(CODECS)


def test_the_readme_names_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^ {4})make ([a-z]+)", read("README.md") + read("CONTRIBUTING.md"), re.MULTILINE))
    assert {"demo", "test", "lint", "bench", "claim"} <= named <= targets


def test_paths_named_in_the_documents_exist() -> None:
    pages = [f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")]
    for name in ("README.md", "CONTRIBUTING.md", "dev/LOG.md", *pages):
        for path in re.findall(r"`((?:src|bench|docs|dev|examples|tests)/[\w./-]+)`", read(name)):
            assert "/your_" in path or (ROOT / path).exists(), f"{name} names {path}"


def test_dependencies_are_explained() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += project["project"]["optional-dependencies"]["dev"]
    names = {re.split(r"[=<>~!\[; ]", requirement)[0] for requirement in wanted}
    assert names - set(re.findall(r"^\| `([^`]+)` \|", read("docs/dependencies.md"), re.MULTILINE)) == set()
    lines = read("constraints.txt").lower().replace("_", "-").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert {name for name in names if name not in ("scikit-build-core", "nanobind")} <= pinned


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section `{heading}`"
    return [re.split(r"\s*\|\s*", line.strip("| \n")) for line in found[1].splitlines() if line.startswith("|")][2:]


def test_the_page_on_vllm_says_what_the_code_does() -> None:
    page = read("docs/from-vllm.md")
    assert rows(page, "Renamed") == [[f"`{name}`", f"`{ours}`"] for name, ours in RENAMED.items()]
    assert rows(page, "Refused") == [[f"`{name}`", hint] for name, hint in NOT_HERE.items()]
    held = [[f"`{name}`", ", ".join(f"`{value!r}`" for value in values)] for name, values in HOLDS.items()]
    assert rows(page, "Accepted without effect") == held
    same = re.search(r"These are the same: (.*?)\. vLLM's", page)
    assert same is not None
    ours = re.findall(r"`(\w+)` is kvloom's own", page)
    shared = [field.name for field in dataclasses.fields(SamplingParams) if field.name not in ours]
    assert re.findall(r"`(\w+)`", same[1]) == shared
    for kind in (RequestOutput, CompletionOutput, Logprob):
        (cells,) = [cells for cells in rows(page, "Outputs") if cells[0] == f"`{kind.__name__}`"]
        here = {field.name for field in dataclasses.fields(kind)}
        assert set(re.findall(r"`(\w+)`", "".join(cells[1:]))) == here
