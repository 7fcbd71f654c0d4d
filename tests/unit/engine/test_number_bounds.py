"""Bounds of numbers: a schema is refused where the library would allow what is excluded, and nowhere else."""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import Any

import jsonschema
import pytest

from kvloom.engine.grammar import Grammars
from kvloom.engine.grammar.number_bounds import not_held_to, with_whole_counts
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError
from trained_tokenizer import trained_tokenizer

BOUNDS = (-2.5, -2, -0.5, 0, 0.5, 1, 2, 2.25)
TEXTS = (
    "-3",
    "-2.5",
    "-2.2",
    "-2",
    "-1",
    "-0.5",
    "-0.2",
    "-0",
    "0",
    "0.0",
    "0.2",
    "0.5",
    "1",
    "1.5",
    "2",
    "2.1",
    "2.25",
)


@cache
def grammars() -> Grammars:
    return Grammars(trained_tokenizer(), 320, count=1)


def allows(schema: dict[str, Any], text: str) -> bool:
    constraint = grammars().of(StructuredOutputsParams(json=schema)).constraint([0])
    for token in trained_tokenizer().encode(text, add_special_tokens=False):
        if not constraint.allowed()[token]:
            return False
        constraint.take(token)
    return constraint.over or bool(constraint.allowed()[0])


@pytest.mark.parametrize("lower", ["minimum", "exclusiveMinimum"])
@pytest.mark.parametrize("upper", ["maximum", "exclusiveMaximum"])
def test_what_is_accepted_is_held_to(lower: str, upper: str) -> None:
    for low, high in itertools.combinations(BOUNDS, 2):
        schema = {"type": "number", lower: low, upper: high}
        if not_held_to(schema) is not None:
            continue
        judge = jsonschema.Draft202012Validator(schema)
        wrong = [text for text in TEXTS if allows(schema, text) and not judge.is_valid(json.loads(text))]
        assert not wrong, schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 2, "exclusiveMaximum": 2.5},
        {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0},
        {"type": "object", "properties": {"p": {"type": "array", "items": {"exclusiveMinimum": 0, "maximum": 0.1}}}},
        {"allOf": [{"exclusiveMinimum": 0}, {"type": "number", "maximum": 0.5}]},
    ],
)
def test_what_cannot_be_held_to_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="are not supported"):
        grammars().of(StructuredOutputsParams(json=schema))
    assert grammars().of(StructuredOutputsParams(json=schema, lenient=True))


@pytest.mark.parametrize(
    "schema",
    [
        {"exclusiveMinimum": 0, "maximum": 1},
        {"minimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 0.1, "maximum": 0.5},
        {"exclusiveMinimum": 0, "minimum": 0.2, "maximum": 0.5},
        {"exclusiveMinimum": True, "maximum": 0.5},
        {"properties": {"exclusiveMinimum": {"maximum": 0.5}, "maximum": {"exclusiveMinimum": 0}}},
        {"const": {"exclusiveMinimum": 0, "maximum": 0.5}},
        {"allOf": 5, "exclusiveMinimum": 0},
    ],
)
def test_nothing_else_is(schema: dict[str, Any]) -> None:
    assert not_held_to(schema) is None


def test_counts_with_a_fraction_of_nothing_are_counts() -> None:
    schema = {"type": "array", "items": {"type": "string", "maxLength": 2.0}, "minItems": 1.0, "maxItems": 2.0}
    assert allows(schema, '["ab","c"]')
    assert not allows(schema, '["abc"]')
    assert not allows(schema, "[]")
    data = {"const": {"maxItems": 2.0}, "properties": {"maxItems": {"maxItems": 2.0}, "const": {"minItems": 2.0}}}
    told = json.dumps(with_whole_counts(data))
    assert told == (
        '{"const": {"maxItems": 2.0}, "properties": {"maxItems": {"maxItems": 2}, "const": {"minItems": 2}}}'
    )
    with pytest.raises(ParamsError, match="minItems"):
        grammars().of(StructuredOutputsParams(json={"type": "array", "minItems": 1.5}))


def test_a_member_may_have_the_name_of_a_keyword() -> None:
    half = {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}
    assert not_held_to({"properties": {"default": half}}) is not None
    assert not_held_to({"default": half}) is None
