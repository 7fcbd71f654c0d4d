"""The chunk store: passages computed alone, once, kept apart from texts, and exchanged through files."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
import tiny_decoder
from dict_tier import DictTier
from kvloom import LLM
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.chunks import Added, computed_alone
from kvloom.engine.chunks.exchange import Exchange
from kvloom.engine.chunks.turning import turned, turned_back
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.params import SamplingParams
from kvloom.engine.tiers import tiers as tiers_of
from kvloom.errors import PromptTooLong, RequestError
from kvloom.memory.cells import page_cells
from kvloom.memory.kvchunk import KvChunk, Library, Refusal, Turn, read_chunk, sliced
from kvloom.memory.kvchunk.writing import file_parts, write_parts
from kvloom.segment import RAM

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PASSAGE = tiny.random_prompt(71, 101)
OTHER = tiny.random_prompt(40, 102)
QUESTION = tiny.random_prompt(9, 103)
MODELS = {"dense": (None, None), "hybrid": (24, None, 24), "windows-only": (20, 20)}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time."""
    monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)


def library_over(
    monkeypatch: pytest.MonkeyPatch, tokenizer: tiny.CharTokenizer | None = None, **settings: object
) -> LLM:
    engine = tiny.make_engine(**settings)
    loaded = SimpleNamespace(engine=engine, tokenizer=tokenizer or tiny.CharTokenizer(), defaults=SamplingDefaults())
    monkeypatch.setattr("kvloom.engine.llm.build", lambda config: loaded)
    return LLM("tiny")


Opened = Callable[..., LLM]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return lambda **settings: library_over(monkeypatch, **settings)


@pytest.fixture
def llm(opened: Opened) -> LLM:
    return opened()


def ask(llm: LLM, prompt: list[int], cache: CacheParams | None = None) -> tuple[list[int], int]:
    """The answer, and how many tokens were computed."""
    (output,) = llm.generate({"prompt_token_ids": prompt}, GREEDY, cache_params=cache)
    llm.cache.check()
    return output.outputs[0].token_ids, output.metrics.computed_tokens


# -- computing ---------------------------------------------------------------------------------------------------------


def test_a_passage_is_computed_once(llm: LLM) -> None:
    told: list[Added] = []
    expected = [Added(0, 71, 71), Added(1, 40, 40), Added(2, 71, 0)]
    assert llm.chunks.add([PASSAGE, OTHER, PASSAGE], progress=told.append) == expected
    assert sorted(told, key=lambda each: each.number) == expected
    assert llm.chunks.add([OTHER, PASSAGE]) == [Added(0, 40, 0), Added(1, 71, 0)]
    assert llm.chunks.add(PASSAGE) == [Added(0, 71, 0)]
    llm.cache.check()


def test_texts_are_passages_too(llm: LLM) -> None:
    text = "It was the best of times"
    assert llm.chunks.add(text) == [Added(0, len(text), len(text))]
    found = llm.chunks.find(text)
    assert found is not None
    assert found.in_ram
    assert found.kept
    assert found.places == {RAM: len(text)}
    assert found.passage.tokens == tuple(tiny.CharTokenizer().encode(text))


def test_start_tokens_stand_before_every_passage(opened: Opened) -> None:
    class Leading(tiny.CharTokenizer):
        lead = (5,)

    llm = opened(tokenizer=Leading())
    assert llm.chunks.add([OTHER]) == [Added(0, 41, 41)]
    (found,) = llm.chunks.ls()
    assert (found.passage.tokens, found.passage.lead) == ((5, *OTHER), 1)


def test_chunks_and_texts_do_not_find_each_other(llm: LLM) -> None:
    llm.chunks.add([PASSAGE])
    answer, computed = ask(llm, PASSAGE + QUESTION)
    assert answer == tiny.oracle((None, None), PASSAGE + QUESTION, 6)
    assert computed == 80 + 5, "an exact look-up never finds a chunk"
    ask(llm, OTHER)
    assert llm.chunks.find(OTHER) is None
    assert llm.chunks.add([OTHER]) == [Added(0, 40, 40)]


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_a_chunk_and_a_question_behind_it_are_the_full_prompt(windows: tuple[int | None, ...], opened: Opened) -> None:
    """Positions coincide: what was computed alone is what is needed, bit for bit."""
    llm = opened(windows=windows)
    llm.chunks.add([PASSAGE])
    answer, computed = ask(llm, PASSAGE + QUESTION, computed_alone(None))
    assert answer == tiny.oracle(windows, PASSAGE + QUESTION, 6)
    assert computed == len(QUESTION) + 5


def test_an_end_that_some_layers_lack_hides_no_other(opened: Opened) -> None:
    """A longer text that begins like a passage has lost what one layer group had; the passage's own end is there."""
    llm = opened(windows=(24, None))
    ask(llm, PASSAGE[:5], computed_alone(None))
    (longer,) = llm.engine.ledger.index.entries.values()
    assert len(longer.tokens) > 5
    assert longer.pages[0] is not None
    llm.engine.ledger.apply(tiny.Drop(longer.pages[0]))
    llm.chunks.add(PASSAGE[:5])
    assert llm.chunks.find(PASSAGE[:5]).in_ram


def test_salts_are_apart(llm: LLM) -> None:
    llm.chunks.add([PASSAGE], salt="mine")
    assert llm.chunks.find(PASSAGE) is None
    assert llm.chunks.find(PASSAGE, salt="yours") is None
    assert llm.chunks.find(PASSAGE, salt="mine") is not None
    assert llm.chunks.ls() == []
    assert len(llm.chunks.ls(salt="mine")) == 1
    assert llm.chunks.add([PASSAGE]) == [Added(0, 71, 71)]


def test_passages_that_begin_alike_share_pages(llm: LLM) -> None:
    llm.chunks.add([PASSAGE])
    assert llm.chunks.add([PASSAGE[:40] + OTHER]) == [Added(0, 80, 40)]
    assert llm.chunks.add([PASSAGE[:40]]) == [Added(0, 40, 0)], "the beginning of a chunk is one as well"
    assert {each.passage.tokens for each in llm.chunks.ls()} == {tuple(PASSAGE), tuple(PASSAGE[:40] + OTHER)}


def test_what_can_never_be_computed_is_refused_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(RequestError, match="passage is empty"):
        llm.chunks.add([OTHER, []])
    with pytest.raises(PromptTooLong):
        llm.chunks.add([OTHER, [1] * 600])
    with pytest.raises(RequestError, match="outside the vocabulary"):
        llm.chunks.add([OTHER, [97]])
    assert llm.chunks.find(OTHER) is None
    assert llm.chunks.add([]) == []


def test_what_was_evicted_is_said_to_be_missing(opened: Opened) -> None:
    llm = opened(kv_bytes=200_000)
    passages = [tiny.random_prompt(70, seed) for seed in range(20)]
    llm.chunks.add(passages)
    found = [llm.chunks.find(each) for each in passages]
    assert found[0] is None
    assert found[-1] is not None
    assert found[-1].missing == 0
    assert 0 < len(llm.chunks.ls()) < 20
    llm.cache.check()


# -- tiers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_what_windows_have_passed_is_kept_and_comes_back(windows: tuple[int | None, ...], opened: Opened) -> None:
    """All layers have all of a chunk, although no row behind it sees that much."""
    llm = opened(windows=windows)
    llm.chunks.add([PASSAGE])
    group = len(llm.engine.layout.formats) - 1
    lost = [entry.pages[group] for entry in llm.engine.ledger.index.entries.values() if entry.position == 0]
    llm.engine.ledger.apply(tiny.Drop(lost[0]))
    assert llm.chunks.find(PASSAGE).missing == 16
    (added,) = llm.chunks.add([PASSAGE])
    assert added.computed >= 16
    assert llm.chunks.find(PASSAGE).in_ram
    llm.cache.check()


@pytest.mark.parametrize("windows", MODELS.values(), ids=MODELS)
def test_tiers_keep_all_of_a_passage(windows: tuple[int | None, ...], opened: Opened) -> None:
    tier = DictTier()
    llm = opened(windows=windows, tiers=[tier])
    llm.chunks.add([PASSAGE])
    assert llm.engine.tiers.flush(10)
    llm = opened(windows=windows, tiers=[tier])  # after a restart
    found = llm.chunks.find(PASSAGE)
    assert found is not None
    assert found.places == {"disk": 71}
    assert (found.missing, found.kept, found.in_ram) == (0, True, False)
    assert llm.chunks.add([PASSAGE]) == [Added(0, 71, 0)]
    assert tier.reads == [], "nothing is loaded only to be known"
    answer, computed = ask(llm, PASSAGE + QUESTION, computed_alone(None))
    assert answer == tiny.oracle(windows, PASSAGE + QUESTION, 6)
    assert computed == 7 + len(QUESTION) + 5
    assert llm.chunks.find(PASSAGE).in_ram


def test_more_than_ram_holds_reaches_a_slow_tier(opened: Opened) -> None:
    llm = opened(tiers=[DictTier(before_write=lambda place: time.sleep(0.004))], kv_bytes=500_000)
    passages = [tiny.random_prompt(71, 200 + n) for n in range(40)]
    llm.chunks.add(passages)
    assert len(llm.chunks.ls()) < 40
    found = [llm.chunks.find(passage) for passage in passages]
    assert all(each is not None and each.kept for each in found)


@pytest.mark.parametrize(("keeps_up", "waits"), [(True, "for every batch but the last"), (False, "once")])
def test_a_tier_that_does_not_keep_up_is_waited_for_once(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, keeps_up: bool, waits: str
) -> None:
    llm, asked = opened(tiers=[DictTier()], kv_bytes=500_000), list[float]()
    monkeypatch.setattr(llm.engine.tiers, "flush", lambda seconds: asked.append(seconds) or keeps_up)
    added = llm.chunks.add([tiny.random_prompt(71, 200 + n) for n in range(20)])
    assert all(each.computed for each in added)
    assert len(asked) == 1 if waits == "once" else len(asked) > 1
    asked.clear()
    llm.chunks.add([tiny.random_prompt(71, 300)])
    assert not asked, "nothing is going to displace it"


def test_what_tiers_have_is_brought_to_ram(opened: Opened) -> None:
    tier = DictTier()
    llm = opened(tiers=[tier])
    llm.chunks.add([PASSAGE, OTHER])
    assert llm.engine.tiers.flush(10)
    llm = opened(tiers=[tier])
    assert llm.chunks.bring([PASSAGE, OTHER, PASSAGE]) == [Added(0, 71, 7), Added(1, 40, 8), Added(2, 71, 0)]
    assert llm.chunks.find(PASSAGE).in_ram
    assert llm.chunks.bring(PASSAGE) == [Added(0, 71, 0)]
    llm.cache.check()


def test_a_page_that_a_tier_lost_is_computed_again(opened: Opened) -> None:
    tier = DictTier()
    llm = opened(tiers=[tier])
    llm.chunks.add([PASSAGE])
    assert llm.engine.tiers.flush(10)
    del tier.pages[sorted(tier.pages, key=lambda place: tier.pages[place].position)[1]]
    llm = opened(tiers=[tier])
    found = llm.chunks.find(PASSAGE)
    assert found is not None
    assert not found.kept
    (added,) = llm.chunks.add([PASSAGE])
    assert added.computed > 0
    assert llm.chunks.find(PASSAGE).kept


def test_loading_a_chunk_overlaps_computing_for_others(opened: Opened) -> None:
    tier, come = DictTier(), threading.Event()
    llm = opened(tiers=[tier])
    llm.chunks.add([PASSAGE])
    assert llm.engine.tiers.flush(10)

    def wait(place: object) -> None:
        assert come.wait(60)

    tier.before_read = wait
    engine = opened(tiers=[tier]).engine
    engine.submit("chunk", PASSAGE, SamplingParams(max_tokens=0), cache=computed_alone(None))
    engine.submit("other", OTHER, GREEDY)
    ended: list[str] = []
    while "other" not in ended:
        ended += [update.request_id for update in engine.step() if update.finished]
        engine.check()
    assert ended == ["other"], "it did not wait for the tier, nor the tier for it"
    come.set()
    metrics = tiny.drain(engine, ["chunk"])["chunk"].updates[-1].metrics
    assert metrics.computed_tokens == 7


# -- files -------------------------------------------------------------------------------------------------------------


def rope(**settings: object) -> dict[str, object]:
    """An engine whose model has RoPE."""
    return {"model": tiny_decoder.decoder((None, 24, None)), **settings}


def exported(opened: Opened, directory: Path, **settings: object) -> Path:
    llm = opened(**settings)
    (path,) = llm.chunks.export_to(directory, [PASSAGE])
    llm.cache.check()
    return path


@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "bfloat16", "int16", "int8"])
def test_what_is_exported_can_be_imported(kv_dtype: str, opened: Opened, tmp_path: Path) -> None:
    model = tiny_decoder.decoder((None, 24, None))
    path = exported(opened, tmp_path, model=model, kv_dtype=kv_dtype)
    llm = opened(model=model, kv_dtype=kv_dtype)
    (imported,) = llm.chunks.import_from(path)
    assert imported.refusal is None
    if kv_dtype == "int16":
        assert imported.kept_as == "chunk", "the default format has the same bits again"
    llm.cache.check()
    found = llm.chunks.find(PASSAGE)
    assert found is not None
    assert found.in_ram
    assert found.kept_as == imported.kept_as
    assert llm.chunks.add([PASSAGE]) == [Added(0, 71, 0)]
    expected, _ = ask(opened(model=model, kv_dtype=kv_dtype), PASSAGE + QUESTION)
    answer, computed = ask(llm, PASSAGE + QUESTION, CacheParams(kept_as=imported.kept_as))
    assert computed == len(QUESTION) + 5
    assert answer == expected
    assert (ask(llm, PASSAGE + QUESTION)[1]) == 80 + 5, "an exact look-up finds no import"


def test_the_same_bits_come_back(opened: Opened, tmp_path: Path) -> None:
    """Of pages in the default format: every byte of every page."""
    settings = rope(kv_dtype="int16")
    path = exported(opened, tmp_path, **settings)
    chunk = read_chunk(path)
    first, second = opened(**settings), opened(**settings)
    assert chunk.same_bits == first.engine.layout.identity
    first.chunks.add([PASSAGE])
    second.chunks.import_from(path)
    assert bits(first) == bits(second)


def bits(llm: LLM) -> dict[tuple[int, int], bytes]:
    """Of all entries that are stored, by layer group and position of the page."""
    arena, found = llm.engine.ledger.arena, {}
    for entry in llm.engine.ledger.index.entries.values():
        for group, (page, fmt) in enumerate(zip(entry.pages, llm.engine.layout.formats, strict=True)):
            assert page is not None
            cells = page_cells(arena.memory, fmt, page)
            keys = fmt.numbers.keys.entries(np.ascontiguousarray(cells[:, : fmt.k_bytes]), fmt.k_dim)
            values = fmt.numbers.values.entries(np.ascontiguousarray(cells[:, fmt.k_bytes :]), fmt.v_dim)
            count = len(entry.tokens)
            found[group, entry.position] = keys[:, :count].tobytes() + values[:, :count].tobytes()
    return found


@pytest.mark.parametrize("kv_dtype", ["float32", "float16", "bfloat16", "int16", "int8"])
def test_what_was_imported_differs_by_no_more_than_rounding(kv_dtype: str, opened: Opened, tmp_path: Path) -> None:
    """2^-22 of a key's norm for turning, and the format's own bound once more."""
    settings = rope(kv_dtype=kv_dtype)
    chunk = read_chunk(exported(opened, tmp_path, **settings))
    llm = opened(**settings)
    changed = replace(chunk, same_bits="")
    Exchange(llm.engine, tiny.CharTokenizer()).put_in(changed, None)
    llm.chunks.compute([PASSAGE], CacheParams(kept_as="imported"), lambda number, output: None)
    fmt = llm.engine.layout.formats[0]
    for layer, k_HnD in chunk.keys.items():
        there = turned(k_HnD, chunk.turn_of(layer))
        again = fmt.numbers.keys.decode(fmt.numbers.keys.encode(_padded(there)), fmt.k_dim)
        bound = fmt.numbers.keys.bound(_padded(there).reshape(-1, fmt.k_dim)).reshape(again.shape)
        norm = np.linalg.norm(_padded(there), axis=-1, keepdims=True)
        assert (np.abs(again - _padded(there)) <= bound + norm * 2.0**-22).all()


def _padded(k_HnD: np.ndarray) -> np.ndarray:
    heads, n, dim = k_HnD.shape
    padded = np.zeros((heads, -(-n // 16) * 16, dim), np.float32)
    padded[:, :n] = k_HnD
    return padded.reshape(-1, 16, dim)


@pytest.mark.parametrize("kv_dtype", ["float32", "int16"])
def test_turning_to_another_position_is_having_been_computed_there(
    kv_dtype: str, opened: Opened, tmp_path: Path
) -> None:
    """Keys of layer 0 depend on nothing but the token and its position: unrotated, they are the same anywhere."""
    settings = rope(kv_dtype=kv_dtype)
    alone = read_chunk(exported(opened, tmp_path, **settings))
    llm = opened(**settings)
    (path,) = llm.chunks.export_to(tmp_path / "later", [OTHER + PASSAGE])
    later = read_chunk(path)
    k, shifted = alone.keys[0], later.keys[0][:, len(OTHER) :]
    fmt = llm.engine.layout.formats[0]
    bound = 2 * fmt.numbers.keys.bound(k.reshape(-1, fmt.k_dim)).reshape(k.shape)
    norm = np.linalg.norm(k, axis=-1, keepdims=True)
    # of the pair, so of the norm: each of two roundings may be turned into either component
    assert (np.abs(k - shifted) <= np.sqrt(2) * bound + norm * 2.0**-20).all()


def test_turning_there_and_back() -> None:
    rng = np.random.default_rng(1)
    k = (rng.standard_normal((3, 500, 20)) * 10.0 ** rng.integers(-5, 5, (3, 500, 1))).astype(np.float32)
    angles = tuple(1e4 ** -(np.arange(8) / 8))
    back = turned_back(turned(k, angles), angles)
    norm = np.linalg.norm(k, axis=-1, keepdims=True)
    assert (np.abs(back - k) <= norm * 2.0**-22).all()
    assert (back[..., 16:] == k[..., 16:]).all(), "what no angle turns stays"
    assert (turned(k, ()) == k).all()
    assert (turned(k, angles)[:, 0] == k[:, 0]).all(), "position 0 turns nothing"


def test_exporting_again_writes_nothing(opened: Opened, tmp_path: Path) -> None:
    llm, told = opened(), list[Added]()
    (path,) = llm.chunks.export_to(tmp_path, [PASSAGE], progress=told.append)
    inode = path.stat().st_ino
    llm.chunks.export_to(tmp_path, [PASSAGE], progress=told.append)
    assert path.stat().st_ino == inode
    assert [each.computed for each in told] == [71, 0]
    assert path.name == Library(tmp_path).path_of(read_chunk(path).identity.key).name


def test_exporting_more_than_there_is_room_for(opened: Opened, tmp_path: Path) -> None:
    llm = opened(kv_bytes=200_000)
    passages = [tiny.random_prompt(70, seed) for seed in range(20)]
    paths = llm.chunks.export_to(tmp_path, passages)
    assert [read_chunk(path).identity.tokens for path in paths] == [tuple(each) for each in passages]
    llm.cache.check()


Change = Callable[[KvChunk], KvChunk]


def other(**fields: object) -> Change:
    return lambda chunk: replace(chunk, identity=replace(chunk.identity, **fields))


WRONG: dict[str, tuple[Change, Refusal]] = {
    "model": (other(model="00" * 32), Refusal.MODEL),
    "rope": (lambda chunk: replace(chunk, turns=(Turn(chunk.layers, (1.0,)),)), Refusal.MODEL),
    "tokenizer": (other(tokenizer="00" * 32), Refusal.TOKENIZER),
    "salt": (other(namespace="00" * 32), Refusal.NAMESPACE),
    "start tokens": (other(lead=1), Refusal.TOKENS),
    "vocabulary": (other(tokens=(97,) * 71), Refusal.TOKENS),
    "slice": (lambda chunk: sliced(chunk, 2)[0], Refusal.SLICE),
    "layers": (
        lambda chunk: replace(
            chunk,
            turns=(replace(chunk.turns[0], layers=(0, 1, 2)),),
            keys={**chunk.keys, 7: chunk.keys[0]},
            values={**chunk.values, 7: chunk.values[0]},
        ),
        Refusal.MALFORMED,
    ),
    "dimensions": (
        lambda chunk: replace(chunk, values={n: v[..., :8] for n, v in chunk.values.items()}),
        Refusal.SHAPE,
    ),
    "numbers": (
        lambda chunk: replace(chunk, keys={n: np.full_like(k, np.nan) for n, k in chunk.keys.items()}),
        Refusal.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_of_something_else_is_a_counted_miss(name: str, opened: Opened, tmp_path: Path) -> None:
    change, expected = WRONG[name]
    model = tiny_decoder.decoder((None, None, None))
    path = exported(opened, tmp_path / "good", model=model)
    wrong = tmp_path / "wrong"
    write_parts(wrong, file_parts(change(read_chunk(path))))
    llm = opened(model=model)
    good, bad = llm.chunks.import_from([path, wrong])
    assert good.refusal is None
    assert (bad.kept_as, bad.refusal) == (None, expected)
    assert llm.chunks.refused == Counter({expected: 1})
    assert len(llm.chunks.ls()) == 1
    llm.cache.check()


def test_damaged_files_are_counted_misses(opened: Opened, tmp_path: Path) -> None:
    path = exported(opened, tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    llm = opened()
    (bad, gone) = llm.chunks.import_from([path, tmp_path / "none"])
    assert (bad.refusal, gone.refusal) == (Refusal.CORRUPT, Refusal.GONE)
    assert llm.chunks.ls() == []


def test_other_page_formats_take_the_same_file(opened: Opened, tmp_path: Path) -> None:
    model = tiny_decoder.decoder((None, 24))
    path = exported(opened, tmp_path, model=model, kv_dtype="float16")
    for kv_dtype in ("float32", "int8"):
        llm = opened(model=model, kv_dtype=kv_dtype)
        (imported,) = llm.chunks.import_from(path)
        assert imported.kept_as == "imported", "bits differ from computed ones"
        assert llm.chunks.find(PASSAGE).in_ram


def test_imports_reach_tiers(opened: Opened, tmp_path: Path) -> None:
    path = exported(opened, tmp_path, **rope(kv_dtype="int16"))
    tier = DictTier()
    opened(**rope(kv_dtype="int16", tiers=[tier])).chunks.import_from(path)
    llm = opened(**rope(kv_dtype="int16", tiers=[tier]))
    assert llm.chunks.find(PASSAGE).places == {"disk": 71}


def test_imports_come_back_from_tiers(opened: Opened, tmp_path: Path) -> None:
    """Under the keys under which they were kept, whatever their bits are."""
    settings = rope(kv_dtype="float32")
    path, tier = exported(opened, tmp_path, **settings), DictTier()
    (imported,) = opened(tiers=[tier], **settings).chunks.import_from(path)
    assert imported.kept_as == "imported"
    llm = opened(tiers=[tier], **settings)
    assert llm.chunks.bring(PASSAGE) == [Added(0, 71, 7)]
    found = llm.chunks.find(PASSAGE)
    assert found is not None
    assert (found.kept_as, found.in_ram) == ("imported", True)


def test_no_room_for_an_import(opened: Opened, tmp_path: Path) -> None:
    path = exported(opened, tmp_path)
    llm = opened(kv_bytes=200_000)
    ledger, (fmt,) = llm.engine.ledger, llm.engine.layout.formats
    held = []
    while (page := ledger.allocate(fmt, "somebody")) is not None:
        held.append(page)
    ledger.release(held[:3], "somebody")
    with pytest.raises(RequestError, match="no room"):
        llm.chunks.import_from(path)
    ledger.check([(page, "somebody") for page in held[3:]])
    ledger.release(held[3:], "somebody")
    assert llm.chunks.import_from(path)[0].kept_as is not None
    llm.cache.check()


def test_put_in_twice_holds_one(opened: Opened, tmp_path: Path) -> None:
    path = exported(opened, tmp_path)
    llm = opened()
    llm.chunks.import_from(path)
    pages = llm.cache.stats().cached_pages
    llm.chunks.import_from(path)
    llm.cache.check()
    assert llm.cache.stats().cached_pages == pages


def test_an_exchange_needs_all_of_a_passage(llm: LLM) -> None:
    exchange = Exchange(llm.engine, tiny.CharTokenizer())
    assert exchange.take_out(llm.chunks.passage(PASSAGE), None) is None


# -- beside serving ----------------------------------------------------------------------------------------------------


async def test_beside_serving() -> None:
    engine = AsyncEngine.over(tiny.make_engine(step_tokens=16), tiny.CharTokenizer(), "tiny")
    try:
        told: list[Added] = []
        forever = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)

        async def answer() -> list[int]:
            return [output async for output in engine.generate(OTHER, forever)][-1].outputs[0].token_ids

        passages = [tiny.random_prompt(70, seed) for seed in range(10)]
        answered, added = await asyncio.gather(answer(), engine.chunks.add(passages, progress=told.append))
        assert answered == tiny.oracle((None, None), OTHER, 60)
        assert added == [Added(n, 70, 70) for n in range(10)]
        assert sorted(told, key=lambda each: each.number) == added
        assert await engine.chunks.add(passages) == [Added(n, 70, 0) for n in range(10)]
        assert await engine.chunks.bring(passages[:2]) == [Added(n, 70, 0) for n in range(2)]
        found = await engine.chunks.find(passages[3])
        assert found is not None
        assert found.in_ram
        assert len(await engine.chunks.ls()) == 10
        assert await engine.chunks.find(OTHER) is None
        with pytest.raises(RequestError, match="empty"):
            await engine.chunks.add([passages[0], []])
        await engine.check()
    finally:
        engine.close()
