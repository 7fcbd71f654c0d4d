"""After a restart with another model or format, a miss says that the text is there, and why that does not help."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from kvloom.cli.notices import foreign
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.layout import identity_of
from kvloom.engine.params import SamplingParams
from kvloom.memory.tier.disk import DiskTier
from kvloom.memory.tier.writer import Writer
from kvloom.segment import Miss, Span, Why

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT = tiny.random_prompt(100, 1)


def other() -> tiny.TinyModel:
    model = tiny.TinyModel()
    model.weights_id = "another"
    return model


def started(directory: Path, model: tiny.TinyModel, kv_dtype: str = "float32") -> tiny.Engine:
    formats = tiny.make_engine(model=model, kv_dtype=kv_dtype).layout.formats
    disk = DiskTier(directory, 2**26, writer=Writer(model.weights_id, identity_of(formats)))
    return tiny.make_engine(model=model, kv_dtype=kv_dtype, tiers=[disk])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With the KV of the prompt, under two salts."""
    engine = started(tmp_path, tiny.TinyModel())
    for name, salt in (("a", None), ("b", "s")):
        tiny.run(engine, {name: PROMPT}, GREEDY, cache=CacheParams(salt=salt))
    engine.close()
    return tmp_path


def misses(engine: tiny.Engine, name: str, prompt: list[int], salt: str | None = None) -> list[Miss]:
    return tiny.run(engine, {name: prompt}, GREEDY, cache=CacheParams(salt=salt))[name].updates[-1].metrics.misses


@pytest.mark.parametrize("what", ["weights", "formats"])
def test_a_miss_says_what_differs(directory: Path, what: str) -> None:
    model, kv_dtype = (other(), "float32") if what == "weights" else (tiny.TinyModel(), "float16")
    engine = started(directory, model, kv_dtype)
    why = Why.OTHER_WEIGHTS if what == "weights" else Why.OTHER_FORMATS
    assert misses(engine, "a", PROMPT) == [Miss(Span(0, 96), why), Miss(Span(96, 100), Why.NEW)]
    assert engine.stats().cache.misses_by_why == {why.value: 96, "new": 4}
    longer = [*PROMPT[:48], *tiny.random_prompt(40, 9)]
    assert misses(engine, "b", longer, "s")[0] == Miss(Span(0, 48), why)
    assert {miss.why for miss in misses(engine, "c", PROMPT, "t")} <= {Why.NEW, Why.OTHER_SALT}
    assert {miss.why for miss in misses(engine, "d", tiny.random_prompt(50, 4))} == {Why.NEW}
    stats = engine.stats().cache.tiers
    assert {each: found.pages for each, found in stats["disk"].foreign.items()} == {what: 12}
    (line,) = foreign(stats)
    assert line.startswith(f"disk       12 of {stats['disk'].pages} pages (")
    engine.close()


def test_nothing_is_said_where_nothing_changed(directory: Path) -> None:
    engine = started(directory, tiny.TinyModel())
    assert misses(engine, "a", PROMPT) == [Miss(Span(96, 100), Why.NEW)]
    stats = engine.stats().cache.tiers
    assert stats["disk"].foreign == {}
    assert list(foreign(stats)) == []
    engine.close()


def test_others_salts_change_nothing(directory: Path) -> None:
    """A reason does not tell that the same text is stored under another salt."""
    engine = started(directory, other())
    tiny.run(engine, {"x": PROMPT}, GREEDY, cache=CacheParams(salt="other"))
    assert misses(engine, "a", PROMPT, "s")[0] == Miss(Span(0, 96), Why.OTHER_WEIGHTS)
    engine.close()
