"""Whatever fails while one request is sampled, scored, turned to text or committed ends this request alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import tiny
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.commit import Commit
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.kv import SequenceKv
from kvloom.engine.kv.holder import Holder
from kvloom.engine.kv.sharing import Sharing
from kvloom.engine.llm import LLM
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler
from kvloom.engine.text import TextState
from kvloom.errors import InternalError
from kvloom.memory.ledger import Ledger

PROMPTS = {"left": tiny.random_prompt(40, 1), "bad": tiny.random_prompt(37, 2), "right": tiny.random_prompt(50, 3)}
PLAIN = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
SCORED = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=2, prompt_logprobs=2, stop="\x00\x01")
FORKED = SamplingParams(temperature=1.0, max_tokens=24, ignore_eos=True, n=3, seed=5)

Throw = Callable[[pytest.MonkeyPatch, tiny.Engine], None]


def throwing(owner: type, method: str, is_bad: Callable[..., bool], after: int = 0, late: bool = False) -> Throw:
    """Break ``method`` for the bad request from its call number ``after`` on; ``late``: once the work is done."""

    def install(monkeypatch: pytest.MonkeyPatch, engine: tiny.Engine) -> None:
        working, calls = getattr(owner, method), iter(range(10**6))

        def broken(*args, **kwargs):
            if not is_bad(engine, *args) or next(calls) < after:
                return working(*args, **kwargs)
            if late:
                working(*args, **kwargs)
            raise RuntimeError(f"{method} broke")

        monkeypatch.setattr(owner, method, broken)

    return install


def sequence_is_bad(engine, _self, sequence, *args) -> bool:
    return _id(sequence.request.id) == "bad"


def kv_is_bad(engine, kv, *args) -> bool:
    return _id(kv.owner.split("/")[0]) == "bad"


def sharing_is_bad(engine, sharing, *args) -> bool:
    return kv_is_bad(engine, sharing.holder)


def owner_is_bad(engine, ledger, what, owner, *args) -> bool:
    return _id(owner.split("/")[0]) == "bad"


def page_is_bad(engine, ledger, page, *args) -> bool:
    return any(_id(owner.split("/")[0]) == "bad" for owner in ledger._records[page].holders)


def chunk_is_bad(engine, _self, chunk) -> bool:
    return _id(chunk.sequence.request.id) == "bad"


def sampler_is_bad(engine, sampler, *args) -> bool:
    return list(sampler.prompt) == PROMPTS["bad"]


def text_is_bad(engine, text, *args) -> bool:
    return any(
        text is sequence.text
        for request in engine.requests.values()
        for sequence in request.sequences
        if _id(request.id) == "bad"
    )


def _id(request_id: str) -> str:
    """LLM numbers its requests in the order of the prompts."""
    return {"req-0": "left", "req-1": "bad", "req-2": "right"}.get(request_id, request_id)


PLACES = {
    "score the prompt": (SCORED, throwing(Commit, "prompt_scored", sequence_is_bad)),
    "score the prompt, late": (SCORED, throwing(Commit, "prompt_scored", sequence_is_bad, late=True)),
    "write": (PLAIN, throwing(Commit, "written", chunk_is_bad)),
    "write, late": (PLAIN, throwing(Commit, "written", chunk_is_bad, late=True)),
    "write an answer": (PLAIN, throwing(Commit, "written", chunk_is_bad, after=9)),
    "write pages": (PLAIN, throwing(SequenceKv, "written", kv_is_bad)),
    "write pages, late": (PLAIN, throwing(SequenceKv, "written", kv_is_bad, after=2, late=True)),
    "publish pages": (PLAIN, throwing(SequenceKv, "publish", kv_is_bad, after=1)),
    "publish": (PLAIN, throwing(Ledger, "publish", page_is_bad)),
    "publish, late": (PLAIN, throwing(Ledger, "publish", page_is_bad, late=True)),
    "publish in the middle": (PLAIN, throwing(Ledger, "publish", page_is_bad, after=3, late=True)),
    "publish a page": (PLAIN, throwing(Sharing, "publish", sharing_is_bad, after=1, late=True)),
    "trim windows": (PLAIN, throwing(SequenceKv, "_trim_windows", kv_is_bad)),
    "give back": (PLAIN, throwing(Holder, "give_back", kv_is_bad)),
    "give back, late": (PLAIN, throwing(Holder, "give_back", kv_is_bad, late=True)),
    "keep a promise": (PLAIN, throwing(Sharing, "keep", sharing_is_bad)),
    "keep a promise, late": (PLAIN, throwing(Sharing, "keep", sharing_is_bad, late=True)),
    "append": (PLAIN, throwing(SequenceKv, "append", kv_is_bad, after=2)),
    "sample": (PLAIN, throwing(Sampler, "draw", sampler_is_bad)),
    "sample later": (PLAIN, throwing(Sampler, "draw", sampler_is_bad, after=5)),
    "sample a fork": (FORKED, throwing(Sampler, "draw", sampler_is_bad, after=1)),
    "sample one of three": (FORKED, throwing(Sampler, "draw", sampler_is_bad, after=10)),
    "fork": (FORKED, throwing(Commit, "_fork", sequence_is_bad)),
    "fork, late": (FORKED, throwing(Commit, "_fork", sequence_is_bad, late=True)),
    "share": (FORKED, throwing(SequenceKv, "fork", kv_is_bad)),
    "share, late": (FORKED, throwing(SequenceKv, "fork", kv_is_bad, late=True)),
    "share a page": (FORKED, throwing(Holder, "share", kv_is_bad, after=2)),
    "share a page, late": (FORKED, throwing(Holder, "share", kv_is_bad, after=2, late=True)),
    "hold": (FORKED, throwing(Ledger, "hold", owner_is_bad, after=2)),
    "hold, late": (FORKED, throwing(Ledger, "hold", owner_is_bad, after=2, late=True)),
    "text": (SCORED, throwing(TextState, "push", text_is_bad, after=2)),
    "last text": (PLAIN, throwing(TextState, "flush", text_is_bad)),
    "time": (PLAIN, throwing(Commit, "_time", sequence_is_bad, after=3)),
    "note": (PLAIN, throwing(Commit, "_note", sequence_is_bad, after=3)),
    "finish": (PLAIN, throwing(Commit, "_finish", sequence_is_bad)),
    "end": (PLAIN, throwing(SequenceKv, "release", kv_is_bad)),
    "end, late": (PLAIN, throwing(SequenceKv, "release", kv_is_bad, late=True)),
}
every_place = pytest.mark.parametrize(("params", "install"), PLACES.values(), ids=PLACES)


def alone(params: SamplingParams) -> dict[str, dict[int, list[int]]]:
    """What each of the good ones says without the others. Seeds are told, so that numbers do not matter."""
    return {name: tiny.run(tiny.make_engine((24, None)), {name: PROMPTS[name]}, params)[name].tokens for name in GOOD}


GOOD = ("left", "right")


@every_place
def test_the_engine_ends_one_request_and_serves_the_others(
    params: SamplingParams, install: Throw, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, engine = alone(params), tiny.make_engine((24, None), step_tokens=48)
    install(monkeypatch, engine)
    done = tiny.run(engine, PROMPTS, params)  # audits after every step
    last = done["bad"].updates[-1]
    assert last.finished
    assert isinstance(last.error, InternalError)
    assert "broke" in str(last.error)
    assert isinstance(last.error.__cause__, RuntimeError)
    assert sum(update.finished for update in done["bad"].updates) == 1
    assert "error" in done["bad"].reasons.values()
    assert {name: done[name].tokens for name in GOOD} == want
    assert all(update.error is None for name in GOOD for update in done[name].updates)
    assert engine.stats().cache.held_pages == 0
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    monkeypatch.undo()
    again = tiny.run(engine, {name: PROMPTS[name] for name in GOOD}, params)
    assert {name: again[name].tokens for name in GOOD} == want, "and what it left in the cache is right"


@every_place
async def test_the_async_engine_tells_one_caller(
    params: SamplingParams, install: Throw, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = alone(params)
    inner = tiny.make_engine((24, None), step_tokens=48)
    install(monkeypatch, inner)
    engine = AsyncEngine.over(inner, tiny.CharTokenizer(), "tiny")

    async def ask(name: str):
        return [output async for output in engine.generate(PROMPTS[name], params, name)][-1]

    try:
        outputs = dict(zip(PROMPTS, await asyncio.gather(*map(ask, PROMPTS)), strict=True))
        await engine.check()
        assert isinstance(outputs["bad"].error, InternalError)
        assert outputs["bad"].finished
        for name in GOOD:
            assert {part.index: part.token_ids for part in outputs[name].outputs} == want[name]
        assert engine.stats().cache.held_pages == 0
    finally:
        engine.close()


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    class Loaded:
        engine, tokenizer = tiny.make_engine((24, None), step_tokens=48), tiny.CharTokenizer()
        defaults = SamplingDefaults()

    monkeypatch.setattr("kvloom.engine.llm.build", lambda config: Loaded)
    return LLM("tiny")


@every_place
def test_the_library_keeps_the_rest_of_the_batch(
    params: SamplingParams, install: Throw, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = alone(params)
    install(monkeypatch, llm.engine)
    left, bad, right = llm.generate(list(PROMPTS.values()), params)
    assert isinstance(bad.error, InternalError)
    assert "error" in {part.finish_reason for part in bad.outputs}
    for name, output in (("left", left), ("right", right)):
        assert output.error is None
        assert {part.index: part.token_ids for part in output.outputs} == want[name]
    llm.cache.check()
    assert llm.cache.stats().held_pages == 0


def test_the_library_raises_when_nothing_is_left(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "draw", lambda *a: 1 / 0)
    with pytest.raises(InternalError, match="ZeroDivisionError: division by zero"):
        llm.generate(list(PROMPTS.values()), PLAIN)
    assert llm.generate([], PLAIN) == []


def test_a_broken_abort_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, method in ((TextState, "flush"), (SequenceKv, "release"), (Ledger, "publish")):
        engine = tiny.make_engine()
        for name, prompt in PROMPTS.items():
            engine.submit(name, prompt, PLAIN)
        engine.step()
        engine.step()
        with monkeypatch.context() as broken:
            broken.setattr(owner, method, lambda *a: 1 / 0)
            update = engine.abort("bad")
        assert update is not None
        assert [delta.finish_reason for delta in update.deltas] == ["abort"]
        engine.check()
        done = tiny.drain(engine, list(GOOD))
        assert all(len(done[name].tokens[0]) >= 22 for name in GOOD)
        assert engine.stats().cache.held_pages == 0


def test_a_request_that_cannot_begin_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny.make_engine()
    with monkeypatch.context() as broken:
        broken.setattr(Sampler, "start", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.submit("bad", PROMPTS["bad"], PLAIN)
    assert not engine.has_work
    assert len(tiny.run(engine, PROMPTS, PLAIN)["bad"].tokens[0]) == 24


class WiderThanItsTokenizer(tiny.CharTokenizer):
    """The last ids of the head have no text here, and asking for one raises: a fault that must stay in its request."""

    @staticmethod
    def token_text(token_id: int) -> str:
        if token_id > 90:
            raise ValueError(f"token {token_id}")
        return tiny.CharTokenizer.token_text(token_id)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0, max_tokens=4, logprobs=20),
        SamplingParams(temperature=0.0, max_tokens=4, logit_bias={95: 100.0}, logprobs=0),
        SamplingParams(temperature=0.0, max_tokens=4, prompt_logprobs=97),
    ],
    ids=["among the likeliest", "biased", "in the prompt"],
)
def test_a_tokenizer_that_raises_hurts_one_request(params: SamplingParams) -> None:
    engine = tiny.make_engine(tokenizer=WiderThanItsTokenizer())
    engine.submit("left", PROMPTS["left"], PLAIN)
    engine.submit("bad", [95, *PROMPTS["bad"]], params)
    done = tiny.drain(engine, ["left", "bad"])
    assert isinstance(done["bad"].updates[-1].error, InternalError)
    assert tiny.run(tiny.make_engine(), {"left": PROMPTS["left"]}, PLAIN)["left"].tokens == done["left"].tokens
