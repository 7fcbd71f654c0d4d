"""Bodies whose reading would hold up everybody are counted before they are read."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.server.edge.weigh import refuse_heavy
from kvloom.server.errors import BodyTooLarge

JSON = st.recursive(
    st.none() | st.integers() | st.text('ab"\\{[,é', max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text('a"\\{[,', max_size=3), inner, max_size=5),
    max_leaves=40,
)


def parts_of(value: Any) -> int:
    """Strings, lists and objects."""
    if isinstance(value, dict):
        return 1 + sum(1 + parts_of(inner) for inner in value.values())
    if isinstance(value, list):
        return 1 + sum(map(parts_of, value))
    return int(isinstance(value, str))


def commas_of(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return max(0, len(inner) - 1) + sum(map(commas_of, inner))


@given(value=JSON, ascii_only=st.booleans())
def test_values_are_counted_as_the_reader_would(value: Any, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    parts, commas = parts_of(value), commas_of(value)
    refuse_heavy(data, max_values=commas, max_parts=parts)
    with pytest.raises(BodyTooLarge, match="strings, lists and objects"):
        refuse_heavy(data + b"[]", max_values=commas, max_parts=parts)
    with pytest.raises(BodyTooLarge, match="values"):
        refuse_heavy(data + b",", max_values=commas, max_parts=parts)


@given(data=st.lists(st.sampled_from([b'"', b"\\", b"{", b"[", b",", b"a"])).map(b"".join))
def test_what_is_not_json_comes_to_an_end(data: bytes) -> None:
    try:
        refuse_heavy(data, max_values=2, max_parts=2)
    except BodyTooLarge:
        assert len(data) > 2


@pytest.mark.parametrize("filling", [b"a, {b} [c], ", b'\\"', b'\\"{[,', b"\\\\", b"\\u005c"])
def test_text_weighs_nothing(filling: bytes) -> None:
    data = b'{"prompt": "' + filling * (4 * 2**20 // len(filling)) + b'"}'
    started = time.monotonic()
    refuse_heavy(data)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "mock", "prompt": [' + b"1," * 500_000 + b"1]}",
        b'{"model": "mock", "prompt": "x", "more": [' + b"[]," * 60_000 + b"1]}",
        b'{"model": "mock", "messages": [' + b'{"role": "user", "content": "x"},' * 20_000 + b"1]}",
    ],
)
async def test_a_heavy_body_is_refused(http: httpx2.AsyncClient, body: bytes) -> None:
    reply = await http.post("/v1/completions", content=body)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"
    assert "several requests" in reply.json()["error"]["message"]


async def test_many_tokens_are_refused_by_their_number(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/v1/completions", json={"model": "mock", "prompt": [0] * 100_000})
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith(
        "This model's maximum context length is 64 tokens. However, the prompt is too long: it has 100,000"
    )


async def test_many_faults_are_counted_not_listed(http: httpx2.AsyncClient) -> None:
    body = {"model": "mock", "prompt": "x", "stop_token_ids": [0.5] * 5_000}
    reply = await http.post("/v1/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "the body has 5,000 values of the wrong type or form"
