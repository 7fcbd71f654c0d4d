"""Random HTTP requests over every documented path and field: right, nearly right, and rubbish."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from kvloom.server.dialect.field_table import HINTS, REFUSED
from kvloom.server.dialect.openapi import openapi_document

JSON = (b"content-type", b"application/json")
_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "x")
_STRAYS = ("/", "", "/v1", "/v1/models/é", "/v1/models/tiny/", "/v1/embeddings", "/chat/completions", "//", "/v1/%00")
_TYPES = (b"text/plain", b"", b"application/json; charset=latin-1", b"multipart/form-data", b"\xff\xfe")

_INTEGERS = (0, 1, -1, 2, 3, 5, 96, 97, 100, 101, 128, 129, 2**31 - 1, 2**31, 2**53, 2**63, -(2**63) - 1, 10**30)
_NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 100.0, 1e-9, 1e-320, 1e308, -1e308, 5)
_TEXTS = ("", "a", " ", "one two", "é😀\u0301", "\x00\x1f", "\u2028", "\ud800", "\udfff\ud800", "x" * 3000, "a\r\nb: c")
_NAMES = ("foo", "x-y", "a\r\nb: c", "", "é", "\ud800", "n" * 3000, "__proto__", "model_config", "minP", "TopK")

# What json.dumps cannot write, by the mark that stands for it.
_RAW = {
    "@huge@": "1" + "0" * 5000,
    "@digits@": "0." + "3" * 5000,
    "@1e999@": "1e999",
    "@nan@": "NaN",
    "@inf@": "-Infinity",
    "@deep@": "[" * 100_000 + "]" * 100_000,
    "@nested@": '{"a":' * 150 + "1" + "}" * 150,
    "@half@": '"\\ud83d"',
    "@escape@": '"\\x41"',
    "@zero@": "01",
}


COMPLETIONS = [("/v1/chat/completions", "ChatRequest"), ("/v1/completions", "CompletionRequest")] * 4 + [
    ("/tokenize", "TokenizeRequest"),
    ("/detokenize", "DetokenizeRequest"),
]
OTHERS = [("/v1/responses", "ResponsesRequest"), ("/v1/messages", "MessagesRequest")] * 4 + [
    ("/v1/embeddings", "EmbeddingsRequest"),
    ("/v1/responses/input_tokens", "InputRequest"),
    ("/v1/messages/count_tokens", "CountRequest"),
]
"""Paths, and the bodies that they take, as often as they are to be asked."""


@dataclass(frozen=True)
class Shot:
    """``leave_after``: frames after which the client goes; None stays to the end."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    leave_after: int | None


class Fuzz:
    def __init__(self, seed: int, model: str, endpoints: list[tuple[str, str]]) -> None:
        self.endpoints = endpoints
        self.rng = random.Random(seed)
        self.model = model
        document = openapi_document()
        self.schemas = document["components"]["schemas"]
        self.paths = [path.replace("{name}", model).replace("{id}", "resp_1") for path in document["paths"]]
        self.sent: set[str] = set()
        self.strangers = (*HINTS, *REFUSED, *_NAMES)

    def shot(self) -> Shot:
        rng = self.rng
        if rng.random() < 0.06:
            return Shot(rng.choice(_METHODS), rng.choice([*self.paths, *_STRAYS]), [JSON], b"", None)
        path, name = rng.choice(self.endpoints)
        body = self.base(name)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
            self.mutate(body, self.schemas[name]["properties"])
        self.sent |= body.keys()
        if self.endpoints is COMPLETIONS:
            self.bound(body)
        raw = self.write(body)
        headers = [JSON] if rng.random() < 0.9 else [(b"content-type", rng.choice(_TYPES))]
        leave = rng.choice((0, 1, 2)) if rng.random() < 0.1 else None
        return Shot("POST", path, headers, raw, leave)

    def base(self, name: str) -> dict[str, Any]:
        """A body that is served."""
        rng = self.rng
        text = rng.choice(("one two three", "abc" * 10, "hello", "x" * 60))
        turns = [{"role": "user", "content": text}]
        bodies: dict[str, dict[str, Any]] = {
            "ChatRequest": {"messages": turns},
            "CompletionRequest": {"prompt": rng.choice((text, [text, "b"], [1, 2, 3], [[4, 5], [6]]))},
            "TokenizeRequest": rng.choice(({"messages": turns}, {"prompt": text})),
            "DetokenizeRequest": {"tokens": [1, 2, 3]},
            "ResponsesRequest": {"input": rng.choice((text, turns)), "max_output_tokens": rng.randint(1, 6)},
            "InputRequest": {"input": text},
            "MessagesRequest": {"messages": turns, "max_tokens": rng.randint(1, 6)},
            "CountRequest": {"messages": turns},
            "EmbeddingsRequest": {"input": rng.choice((text, [text, "b"], [1, 2, 3], [[4, 5], [6]]))},
        }
        body = {"model": self.model} | bodies[name]
        if name in ("ChatRequest", "CompletionRequest"):
            body["max_tokens"] = rng.randint(1, 6)
        if "stream" in self.schemas[name]["properties"]:
            body["stream"] = rng.random() < 0.5
        return body

    def mutate(self, body: dict[str, Any], properties: dict[str, Any]) -> None:
        rng = self.rng
        if rng.random() < 0.2:
            body[rng.choice(self.strangers)] = self.any_value(2)
        elif rng.random() < 0.05:
            body.pop(rng.choice(list(body)))
        else:
            name = rng.choice(list(properties))
            body[name] = self.fitting(properties[name]) if rng.random() < 0.75 else self.any_value(3)

    def bound(self, body: dict[str, Any]) -> None:
        """What is right, but long: many answers are short ones, and long ones are alone."""
        n, limit = body.get("n"), body.get("max_completion_tokens") or body.get("max_tokens")
        long = not isinstance(limit, int) or limit > 8
        if isinstance(n, int) and n > 4:
            body["max_tokens"] = body["max_completion_tokens"] = 1
        elif long and n in (None, 1):
            body["prompt"] = "alone" if "prompt" in body and isinstance(body["prompt"], list) else body.get("prompt")
            if body["prompt"] is None:
                del body["prompt"]
        elif long:
            body["n"] = 1

    def fitting(self, schema: dict[str, Any], depth: int = 3) -> Any:
        """A value of the documented type, often at its edge."""
        rng = self.rng
        if "$ref" in schema:
            return self.fitting(self.schemas[schema["$ref"].rsplit("/", 1)[1]], depth)
        if "anyOf" in schema:
            return self.fitting(rng.choice(schema["anyOf"]), depth)
        if "oneOf" in schema:
            return self.fitting(rng.choice(schema["oneOf"]), depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return rng.choice(schema["enum"])
        match schema.get("type"):
            case "integer":
                return rng.choice(_INTEGERS)
            case "number":
                return rng.choice(_NUMBERS)
            case "string":
                return rng.choice(_TEXTS)
            case "boolean":
                return rng.random() < 0.5
            case "array" if depth:
                return [self.fitting(schema["items"], depth - 1) for _ in range(rng.choice((0, 1, 2, 3)))]
            case "object" if depth and "properties" in schema:
                names = [name for name in schema["properties"] if rng.random() < 0.6]
                return {name: self.fitting(schema["properties"][name], depth - 1) for name in names}
            case "object" if depth:
                return {rng.choice(("0", "5", "96", "97", "x", "-1")): rng.choice(_NUMBERS)}
        return None

    def any_value(self, depth: int) -> Any:
        rng = self.rng
        kind = rng.random()
        if kind < 0.15:
            return rng.choice(list(_RAW))
        if depth and kind < 0.25:
            return [self.any_value(depth - 1) for _ in range(rng.randint(0, 3))]
        if depth and kind < 0.4:
            return {rng.choice((*_NAMES, "type", "text", "role")): self.any_value(depth - 1) for _ in range(2)}
        return rng.choice((None, True, False, "16", 1.5, "text", *_INTEGERS, *_NUMBERS, *_TEXTS))

    def write(self, body: dict[str, Any]) -> bytes:
        """JSON, at times with what only a hand-written document has."""
        rng = self.rng
        text = json.dumps(body)
        for mark, raw in _RAW.items():
            text = text.replace(json.dumps(mark), raw)
        if rng.random() < 0.03:
            text = text[:-1] + f',"model":{json.dumps(self.model)},"stream":false}}'
        raw_bytes = text.encode()
        damage = rng.random()
        if damage < 0.03:
            return raw_bytes[: rng.randrange(len(raw_bytes))]
        if damage < 0.05:
            place = rng.randrange(len(raw_bytes))
            return (
                raw_bytes[:place] + rng.choice((b"\xff", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf")) + raw_bytes[place:]
            )
        if damage < 0.06:
            return rng.choice((b"", b" ", b"null", b"[]", b"1", b'"x"', b"[" * 100_000, b"\xef\xbb\xbf{}", b"{}{}"))
        return raw_bytes
