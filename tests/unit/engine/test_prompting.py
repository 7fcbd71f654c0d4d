"""What the library makes of prompts: texts, tokens, parts of which some are documents, conversations."""

from __future__ import annotations

from typing import Any

import pytest

import tiny
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.prompting import Prompting, as_list
from kvloom.errors import ParamsError, RequestError
from kvloom.policy.fusion import found_by_content, fusion_of
from trained_tokenizer import trained_tokenizer

FOX, JUMPS, ASK = "The quick brown fox", " jumps over it.\n", "Who?"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>"
MARKED = CacheParams(fusion=fusion_of("a3"), documents="marked")
EXACT = CacheParams()


@pytest.fixture(scope="module")
def prompting() -> Prompting:
    return Prompting(trained_tokenizer(chat_template=TEMPLATE), tiny.make_engine().intake)


def document(text: str) -> dict[str, Any]:
    return {"type": "document", "text": text}


def test_texts_and_tokens_are_taken_as_they_are(prompting: Prompting) -> None:
    ids = prompting.tokenizer.encode(FOX)
    for given in (FOX, {"prompt": FOX}):
        assert prompting.prompt(given, EXACT, None) == ((FOX, ids), EXACT)
    assert prompting.prompt(ids, EXACT, None) == ((None, ids), EXACT)
    assert prompting.prompt({"prompt_token_ids": ids, "prompt": FOX}, EXACT, None) == ((FOX, ids), EXACT)


@pytest.mark.parametrize("cache", [EXACT, MARKED])
def test_documents_among_parts_have_spans_where_they_are_fused(prompting: Prompting, cache: CacheParams) -> None:
    (text, ids), placed = prompting.prompt({"prompt": ["Read.", document(FOX), document(JUMPS), ASK]}, cache, None)
    encode = prompting.tokenizer.encode
    first, second, third = encode("Read."), encode(FOX), encode(JUMPS)
    assert text == f"Read.{FOX}{JUMPS}{ASK}"
    assert ids == [*first, *second, *third, *encode(ASK)]
    a, b = len(first), len(first) + len(second)
    assert placed.documents == (() if cache is EXACT else ((a, b), (b, b + len(third))))


def test_documents_in_a_conversation(prompting: Prompting) -> None:
    turns = [{"role": "user", "content": [document(FOX), {"type": "text", "text": ASK}]}]
    (text, ids), placed = prompting.chat(turns, MARKED, None)
    assert text == f"<user>{FOX}\n{ASK}<a>"
    ((start, stop),) = placed.spans
    assert prompting.tokenizer.decode(ids[start:stop]) == FOX
    assert prompting.tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("parts", "cache", "says"),
    [
        (["Read.", ASK], MARKED, "the prompt marks none"),
        (["Read.", {"type": "image"}], EXACT, "neither a text nor a document"),
        (["Read.", 3], EXACT, "neither a text nor a document"),
        ([document(FOX), ASK], CacheParams(fusion=fusion_of("a3"), documents="by content"), "says other ones"),
        ([document(FOX), ASK], CacheParams(fusion=fusion_of("a3"), documents=((0, 3),)), "says other ones"),
        ([document(""), ASK], EXACT, "document 0 is empty"),
    ],
)
def test_parts_that_cannot_be(prompting: Prompting, parts: list[Any], cache: CacheParams, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        prompting.prompt({"prompt": parts}, cache, None)


def test_who_asks_for_marks_and_sends_a_text_is_told_by_the_engine() -> None:
    engine = tiny.make_engine()
    with pytest.raises(ParamsError, match="the prompt marks none"):
        engine.submit("it", tiny.random_prompt(30, 1), tiny.SamplingParams(), cache=MARKED)


def test_by_content_is_settled_with_the_prompt() -> None:
    cache = CacheParams(fusion=fusion_of("a3"), documents="by content")
    prompt = tiny.random_prompt(500, 1)
    spans = tuple((span.start, span.stop) for span in found_by_content(prompt))
    assert spans
    assert cache.placed(prompt) == CacheParams(fusion=fusion_of("a3"), documents=spans)
    assert cache.placed(prompt[:60]) == EXACT


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", ["a"]),
        ([1, 2], [[1, 2]]),
        (["a", "b"], ["a", "b"]),
        ({"prompt": ["a"]}, [{"prompt": ["a"]}]),
        ([[1], [2]], [[1], [2]]),
    ],
)
def test_one_prompt_or_several(given: Any, expected: list[Any]) -> None:
    assert as_list(given) == expected
