"""The claim ``schema-suite`` in small: schemas in packages that are made here, asked of a real server and judged."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.claims import schema_suite
from bench.schemas import sources
from bench.schemas.asking import Counts, Told, ask_all
from bench.schemas.cases import Case, cases_of, some_of
from bench.schemas.judge import verdict_on
from bench.schemas.sources import Source, documents
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.grammar import Constraint
from listening import listening_in_thread
from structured_cases import SCHEMAS, UNBOUNDED
from tiny import CharTokenizer, make_engine

COUNT = {"type": "integer", "minimum": 0, "maximum": 99}
DOCUMENT: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "definitions": {
        "a/b": {"type": "array", "items": {"$ref": "#/definitions/count"}, "minItems": 1, "maxItems": 2},
        "count": COUNT,
        "outer": {"$ref": "https://schemas.invalid/other"},
        "far": {"$ref": "#/properties/x"},
    },
    "properties": {"x": {"$ref": "#/definitions/a~1b"}},
}
SUITE = [{"description": "one", "schema": COUNT, "tests": []}, {"description": "none", "schema": True, "tests": []}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    config, engine = ServerConfig(port=0), AsyncEngine.over(make_engine(), CharTokenizer(), "tiny")
    with listening_in_thread(engine, config) as found:
        yield found


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("schemas/b.json", json.dumps(DOCUMENT))
        made.writestr("schemas/a.json", json.dumps(COUNT))
        made.writestr("schemas/list.json", "[1]")
        made.writestr("schemas/damaged.json", "{")
        made.writestr("other/c.json", json.dumps(COUNT))
    return path


def sdist(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as made:
        data = json.dumps(SUITE).encode()
        entry = tarfile.TarInfo("x-1/json/tests/draft7/maximum.json")
        entry.size = len(data)
        made.addfile(entry, io.BytesIO(data))
    return path


def test_schemas_are_read_from_archives_and_cut_out_with_what_they_need(tmp_path: Path) -> None:
    source = Source("made", "x==1", r"schemas/\w+\.json")
    found = list(documents(source, wheel(tmp_path / "x-1-py3-none-any.whl")))
    assert [name for name, _ in found] == ["a", "b"]
    cases = {case.name: case.schema for case in cases_of(found)}
    assert list(cases) == ["a", "b", "b#a/b", "b#count"], "what refers to elsewhere is not cut out"
    assert cases["b#a/b"] == {
        "$schema": DOCUMENT["$schema"],
        "definitions": {name: DOCUMENT["definitions"][name] for name in ("a/b", "count")},
        "$ref": "#/definitions/a~1b",
    }
    assert verdict_on(cases["b#a/b"], "[1, 2]") == "valid"
    assert verdict_on(cases["b#a/b"], "[100]") == "invalid"
    suite = Source("suite", "x==1", r".*/json/tests/(draft7)/.*\.json", cases=True)
    assert list(documents(suite, sdist(tmp_path / "x-1.tar.gz"))) == [
        ("draft7/maximum: one", {"$schema": "http://json-schema.org/draft-07/schema#"} | COUNT)
    ]
    many = [Case(str(n), {"const": n}) for n in range(50)]
    some = some_of(many, 9, 1)
    assert (len(some), some) == (9, some_of(many, 9, 1))
    assert [int(case.name) for case in some] == sorted(int(case.name) for case in some)
    assert some_of(many, None, 1) == many


def test_a_package_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "home_dir", lambda: tmp_path)
    asked: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> None:
        asked.append(command)
        wheel(Path(command[command.index("--dest") + 1]) / "x-1-py3-none-any.whl")

    monkeypatch.setattr(sources.subprocess, "run", pip)
    source = Source("made", "x==1", r"schemas/\w+\.json")
    assert sources.archive_of(source) == sources.archive_of(source)
    ((*_, last),) = asked
    assert last == "x==1"


@pytest.mark.parametrize(
    ("schema", "text", "verdict"),
    [
        (COUNT, "12", "valid"),
        (COUNT, "120", "invalid"),
        (COUNT, "12 13", "invalid"),
        ({"type": "string", "format": "date"}, '"2026-02-30"', "invalid"),
        ({"type": "string", "pattern": "^\\W$"}, '"纖"', "valid"),
        ({"type": "string", "pattern": "^\\d$"}, '"٣"', "invalid"),
        ({"type": "string", "pattern": "^\\s$"}, '"\u00a0"', "valid"),
        ({"type": "string", "pattern": "^\\p{Lu}$"}, '"A"', "not judged"),
        ({"patternProperties": {"^\\d$": COUNT}, "additionalProperties": False}, '{"1": 2}', "valid"),
        ({"patternProperties": {"^\\d$": COUNT}, "additionalProperties": False}, '{"a": 2}', "invalid"),
        ({"properties": {"pattern": {"const": {"pattern": "x"}}}}, '{"pattern": {"pattern": "x"}}', "valid"),
    ],
)
def test_answers_are_judged_by_the_schema_as_it_is_meant(schema: dict[str, Any], text: str, verdict: str) -> None:
    assert verdict_on(schema, text) == verdict


def test_a_server_answers_with_the_form_or_says_why_not(url: str) -> None:
    mine = [Case(name, schema) for name, schema in SCHEMAS.items() if name not in UNBOUNDED | {"unicode"}]
    counts = ask_all(url, "tiny", mine, 300)
    assert (counts.schemas, counts.supported) == (len(mine), len(mine)), counts.wrong[:1]
    assert counts.verdicts.keys() <= {"valid", "length"}, counts.wrong
    assert counts.verdicts["valid"] > len(mine)
    others = [
        Case("unique", {"type": "array", "items": COUNT, "uniqueItems": True}),
        Case("elsewhere", {"$ref": "https://schemas.invalid/other"}),
        Case("nothing", {"type": "array", "items": False, "minItems": 1}),
        Case("endless", {"type": "array", "items": COUNT, "minItems": 1000}),
    ]
    counts = ask_all(url, "tiny", others, 20)
    assert counts.verdicts == {"refused": 6, "length": 2}
    assert counts.supported == 1
    assert len(counts.refusals) == 3, counts.refusals
    assert all(words.startswith("the form of the answer cannot be held to: ") for words in counts.refusals)


def test_an_answer_without_its_form_and_a_server_that_fails_are_found(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seven(self: Constraint) -> Any:
        import numpy as np

        self.over = True
        return np.arange(97) == ord("7") - 32

    monkeypatch.setattr(Constraint, "allowed", seven)
    monkeypatch.setattr(Constraint, "take", lambda self, token: None)
    counts = ask_all(url, "tiny", [Case("word", {"type": "string"})], 8)
    assert counts.verdicts == {"invalid": 2}
    found = schema_suite.outcome({"made": counts}, quick=True)
    assert not found.holds
    assert found.details["sources"]["made"]["wrong"][0] == ["word", "greedy", "invalid", "7"]

    def broken(self: Constraint) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Constraint, "allowed", broken)
    counts = ask_all(url, "tiny", [Case("word", {"type": "string"})], 8)
    assert counts.verdicts == {"fault": 2}
    assert not schema_suite.outcome({"made": counts}, quick=True).holds
    assert ask_all("http://127.0.0.1:9", "tiny", [Case("word", {})], 8).verdicts == {"fault": 2}


def test_it_holds_only_when_every_source_was_asked_and_all_is_valid() -> None:
    good = Counts()
    good.add([Told(Case("x", {}), way, "valid", "1") for way in ("greedy", "sampled")])
    assert schema_suite.outcome({"made": good}, quick=True).holds
    assert not schema_suite.outcome({"made": good, "other": "there is none"}, quick=True).holds
    nothing = Counts()
    nothing.add([Told(Case("x", {}), "greedy", "refused", "not supported")])
    assert not schema_suite.outcome({"made": nothing}, quick=True).holds, "nothing was judged"
