"""JSON schemas of many shapes, small enough that a model without sense comes to an end."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

WORD: Schema = {"type": "string", "maxLength": 8}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 99}


def _object(required: list[str] | None = None, **properties: Schema) -> Schema:
    wanted = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": wanted, "additionalProperties": False}


SCHEMAS: dict[str, Schema] = {
    "person": _object(name=WORD, age=COUNT),
    "optional": _object(["b"], a=WORD, b=COUNT, c={"type": "boolean"}),
    "all_optional": _object([], a=WORD, b=COUNT, c={"type": "null"}),
    "nested": _object(outer=_object(inner=_object(leaf=COUNT)), other=WORD),
    "array": {"type": "array", "items": COUNT, "minItems": 2, "maxItems": 4},
    "array_of_objects": {"type": "array", "items": _object(x=COUNT, y=COUNT), "minItems": 1, "maxItems": 2},
    "tuple": {"type": "array", "prefixItems": [WORD, COUNT], "items": False, "minItems": 2},
    "enum": {"enum": ["red", "green", 3, None, True]},
    "const": {"const": {"kind": "circle", "r": [1, 2]}},
    "enum_member": _object(colour={"type": "string", "enum": ["red", "green"]}),
    "any_of": {"anyOf": [_object(cat=WORD), _object(dog=COUNT), {"type": "null"}]},
    "one_of": {"oneOf": [WORD, COUNT]},
    "discriminated": {
        "anyOf": [
            _object(kind={"const": "circle"}, r=COUNT),
            _object(kind={"const": "square"}, side=COUNT),
        ]
    },
    "all_of": {"allOf": [_object([], a=COUNT, b=WORD), {"required": ["a"]}]},
    "refs": {
        "$defs": {"point": _object(x=COUNT, y=COUNT)},
        **_object(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
    },
    "recursive": {
        "$defs": {
            "tree": _object(
                ["v"], v=COUNT, children={"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/tree"}}
            )
        },
        "$ref": "#/$defs/tree",
    },
    "pattern": _object(phone={"type": "string", "pattern": "^[0-9]{3}-[0-9]{4}$"}),
    "date": _object(on={"type": "string", "format": "date"}, at={"type": "string", "format": "time"}),
    "uuid": {"type": "string", "format": "uuid"},
    "bounds": _object(
        low={"type": "integer", "minimum": -5, "maximum": 5}, high={"type": "number", "minimum": 0, "maximum": 1}
    ),
    "exclusive": {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 13},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 50},
    "lengths": _object(s={"type": "string", "minLength": 3, "maxLength": 5}),
    "nullable": _object(a={"type": ["string", "null"], "maxLength": 4}),
    "types": {"type": ["boolean", "integer", "null"], "minimum": 0, "maximum": 9},
    "map": {
        "type": "object",
        "additionalProperties": COUNT,
        "properties": {"total": COUNT},
        "required": ["total"],
        "maxProperties": 2,
    },
    "unicode": _object(größe=COUNT, 名前={"enum": ["東京", 'a"b\\c\n']}),
    "boolean": {"type": "boolean"},
}


UNBOUNDED = {"map", "recursive", "date", "bounds"}
"""Shapes with answers of any length: keys, trees, and digits of a second or of a number."""
