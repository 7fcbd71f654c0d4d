"""``kvloom chunks``: from texts to KV on disk or in files, and back, without a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from kvchunk_cases import made_chunk
from kvloom.cli import backend, main
from kvloom.config import EngineConfig, TierConfig
from kvloom.engine import factory
from kvloom.engine.build import Loaded
from kvloom.engine.chunks import Chunks, computed_alone, split
from kvloom.engine.chunks.named import NamedDocuments
from kvloom.engine.driving import Driver
from kvloom.engine.tiers.open import open_tiers
from kvloom.memory.kvchunk import Library, read_chunk, sliced

TEXT = "\n\n".join(f"This is paragraph {n}, of a few words that nobody needs." for n in range(20))


class Characters(tiny.CharTokenizer):
    """Knows line breaks too."""

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        return super().encode(text.replace("\n", "~"), add_special_tokens, max_tokens)


def engine_with(tiers: TierConfig) -> tiny.Engine:
    made = tiny.make_engine(kv_dtype="int16")

    return factory.make_engine(
        made.model,
        made.tokenizer,
        made.config,
        made.attend_factory,
        made.ledger.retention.texts.fresh(),
        tier_factory=lambda formats: open_tiers(tiers, formats),
    )


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVLOOM_DEBUG", raising=False)

    def load(config: EngineConfig) -> Loaded:
        return Loaded(None, Characters(), engine_with(config.tiers))  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "load_engine", load)


Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Called:
    def call(*arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with pytest.raises(SystemExit) as end:
            main(["chunks", *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return call


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A directory with a text of 20 paragraphs, one of JSON Lines, and something else."""
    directory = tmp_path / "texts"
    (directory / "more").mkdir(parents=True)
    (directory / "one.txt").write_text(TEXT)
    lines = [
        json.dumps({"text": "This is the first line.", "id": 1}),
        "",
        json.dumps({"text": "This is another line."}),
    ]
    (directory / "more" / "two.jsonl").write_text("\n".join(lines))
    (directory / "three.bin").write_bytes(b"\xff\xfe")
    return directory


def test_requests_may_name_what_was_added(texts: Path, tmp_path: Path, called: Called) -> None:
    cache = tmp_path / "cache"
    arguments = ["add", "tiny", texts, "--cache-dir", cache, "--passage-tokens", 120, "--owner", "alice", "--json"]
    _, printed, _ = called(*arguments)
    ids = json.loads(printed)["ids"]
    assert ids[:2] == ["1", "more/two.jsonl:3"]
    assert ids[2:4] == ["one.txt#1", "one.txt#2"]
    named = NamedDocuments.beside(TierConfig(cache_dir=str(cache)), 10**6)
    assert named.find("alice", "more/two.jsonl:3") == "This is another line."
    assert [named.find("alice", name) for name in ids[2:]] == split(TEXT, 120, len)
    assert named.find("", "1") is None
    named.close()
    assert "ids        1 ... one.txt#" in called(*arguments[:-1])[1]


def test_a_name_that_is_too_long_is_told_before_anything_is_computed(tmp_path: Path, called: Called) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"text": "Owls hunt.", "id": "x" * 300}))
    code, _, said = called("add", "tiny", lines, "--cache-dir", tmp_path / "cache")
    assert code == 2
    assert "1 to 256 printable characters" in said


def test_add_keeps_passages_in_the_cache_directory(texts: Path, tmp_path: Path, called: Called) -> None:
    cache = tmp_path / "cache"
    arguments = ["add", "tiny", texts, "--cache-dir", cache, "--passage-tokens", 120]
    code, out, err = called(*arguments)
    assert (code, err.strip()) == (0, "")
    assert out.splitlines()[0] == "passages   12, 0 of which were there"
    facts = json.loads(called(*arguments, "--json")[1])
    assert (facts["passages"], facts["there"], facts["computed_tokens"], facts["missed_pages"]) == (12, 12, 0, 0)
    engine = engine_with(TierConfig(cache_dir=str(cache)))
    chunks = Chunks(engine, Characters(), Driver(engine).compute)
    found = chunks.find(TEXT[:110])
    assert found is not None
    assert (found.places, found.kept) == ({"disk": 110}, True)
    assert chunks.find(TEXT[:110], salt="other") is None
    engine.close()


def test_a_salt_is_a_place_of_its_own(texts: Path, tmp_path: Path, called: Called) -> None:
    arguments = ["add", "tiny", texts, "--cache-dir", tmp_path / "cache", "--json", "--passage-tokens", 400]
    called(*arguments)
    assert json.loads(called(*arguments, "--salt", "mine")[1])["there"] == 0
    assert json.loads(called(*arguments, "--salt", "mine")[1])["there"] == 5


def test_export_then_import(texts: Path, tmp_path: Path, called: Called) -> None:
    files, cache = tmp_path / "files", tmp_path / "cache"
    export = ["export", "tiny", texts, "--into", files, "--passage-tokens", 120]
    code, out, _ = called(*export)
    assert code == 0
    assert out.splitlines()[:2][0] == "passages   12"
    facts = json.loads(called(*export, "--json")[1])
    assert (facts["files"], facts["computed_tokens"]) == (12, 0)
    assert facts["bytes"] == sum(path.stat().st_size for path in files.iterdir())
    code, out, err = called("import", "tiny", files, "--cache-dir", cache)
    assert (code, err.strip()) == (0, "")
    assert out.startswith("chunks     12, ")
    added = json.loads(called("add", "tiny", texts, "--cache-dir", cache, "--passage-tokens", 120, "--json")[1])
    assert added["there"] == 12, "what was imported need not be computed"


def test_refused_files_are_counted_by_reason(texts: Path, tmp_path: Path, called: Called) -> None:
    files = tmp_path / "files"
    called("export", "tiny", texts / "more" / "two.jsonl", "--into", files)
    (one, other) = sorted(files.iterdir())
    raw = one.read_bytes()
    one.write_bytes(raw[:-1])
    Library(files).write(made_chunk())
    code, out, _ = called("import", "tiny", files, "--cache-dir", tmp_path / "cache", "--json")
    facts = json.loads(out)
    assert (code, facts["chunks"], facts["refused"]) == (1, 1, {"short": 1, "model": 1})
    code, out, _ = called("import", "tiny", one, "--cache-dir", tmp_path / "cache")
    assert code == 1
    assert "refused    1: short" in out
    assert read_chunk(other).identity.lead == 0


def test_ls_show_verify_gc(tmp_path: Path, called: Called) -> None:
    times = iter(range(1000, 2000))
    library = Library(tmp_path / "files", clock=lambda: next(times))
    chunks = [made_chunk((1, n)) for n in range(3)]
    paths = [library.write(chunk) for chunk in chunks]
    code, out, err = called("ls", library.directory)
    assert code == 0
    assert [line[:16] for line in out.splitlines()] == [chunk.identity.key[:16] for chunk in chunks]
    assert err.startswith("3 chunks, ")
    facts = json.loads(called("ls", library.directory, "--json")[1])
    assert [each["key"] for each in facts["chunks"]] == [chunk.identity.key for chunk in chunks]
    assert facts["chunks"][0]["refusal"] is None
    assert facts["bytes"] == sum(each["bytes"] for each in facts["chunks"])

    code, out, err = called("show", paths[0])
    assert (code, err) == (0, "")
    assert f"key        {chunks[0].identity.key}" in out
    assert "2 tokens, 1 of them before the passage" in out
    shown = json.loads(called("show", paths[0], "--json")[1])
    assert (shown["n"], shown["lead"], shown["layers"], shown["heads"], shown["k_dtype"]) == (2, 1, 2, 4, "F32")
    part = library.write(sliced(chunks[0], 2)[1])
    assert "2 KV heads, part 1 of 2" in called("show", part)[1]
    part.unlink()

    code, out, err = called("verify", library.directory)
    assert (code, out, err.strip()) == (0, "whole chunks: 3; others: 0\n", "")
    raw = paths[1].read_bytes()
    paths[1].write_bytes(raw[:-1] + bytes([raw[-1] ^ 4]))
    paths[2].write_bytes(raw[:100])
    code, out, err = called("verify", *paths)
    assert (code, out) == (1, "whole chunks: 1; others: 2\n")
    assert f"{paths[1]}: corrupt: " in err
    assert f"{paths[2]}: short: " in err
    assert "refused: short" in called("ls", library.directory)[1]

    unfinished = library.directory / ".x.kvchunk.safetensors.0.tmp"
    unfinished.write_bytes(b"unfinished")
    facts = json.loads(called("verify", library.directory, "--json")[1])
    assert (facts["whole"], sorted(facts["refused"].values())) == (1, ["corrupt", "short"])
    code, out, _ = called("gc", library.directory, "--max-bytes", "12KiB")
    assert code == 0
    assert out.startswith("chunks removed: ")
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["add", "tiny", "TEXTS"], "nothing says where the KV", "--cache-dir DIR"),
        (["import", "tiny", "TEXTS"], "nothing says where the KV", "--cache-dir DIR"),
        (["add", "tiny", "nowhere.txt", "--cache-dir", "x"], "cannot be read", ""),
        (["add", "tiny", "TEXTS/three.bin", "--cache-dir", "x"], "not UTF-8", ""),
        (["add", "tiny", "EMPTY", "--cache-dir", "x"], "no text in these files", ".jsonl"),
        (["add", "tiny", "BAD", "--cache-dir", "x"], "line 2: has no `text`", '{"text": "..."}'),
        (["add", "tiny", "TORN", "--cache-dir", "x"], "line 1: is not JSON", ""),
        (["export", "tiny", "TEXTS", "--into", "x", "--max-bytes", "lots"], "cannot read `lots`", "2GiB"),
        (["ls", "nowhere"], "not a directory", "kvloom chunks export"),
        (["gc", "nowhere", "--max-bytes", "1GiB"], "not a directory", "kvloom chunks export"),
        (["show", "nowhere"], "cannot be used", "kvloom chunks export"),
        (["show", "TEXTS/one.txt"], "cannot be used", "kvloom chunks export"),
        (["verify", "EMPTY"], "no kvchunk files", "kvloom chunks export"),
        (["import", "tiny", "EMPTY", "--cache-dir", "x"], "no kvchunk files", "kvloom chunks export"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str],
    error: str,
    hint: str,
    texts: Path,
    tmp_path: Path,
    called: Called,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    (tmp_path / "torn.jsonl").write_text('{"text": "a\n')
    places = {"TEXTS": "texts", "EMPTY": "empty", "BAD": "bad.jsonl", "TORN": "torn.jsonl"}
    for name, place in places.items():
        arguments = [each.replace(name, place) for each in arguments]
    code, out, err = called(*arguments)
    assert (code, out) == (2, "")
    assert error in err
    assert hint in err
    assert not (tmp_path / "x").exists()


def test_a_file_system_without_room(tmp_path: Path, texts: Path, called: Called) -> None:
    (tmp_path / "file").write_text("in the way")
    code, out, err = called("export", "tiny", texts, "--into", tmp_path / "file")
    assert (code, out) == (1, "")
    assert err.strip().startswith("error: `")
    code, out, err = called("export", "tiny", texts, "--into", tmp_path / "small", "--max-bytes", "4KiB")
    assert code == 1
    assert "are all there may be" in err


def test_what_is_asked_beside_serving_is_the_same_request() -> None:
    assert computed_alone("me").salt == "me"
    assert computed_alone("me").kept_as == "chunk"
