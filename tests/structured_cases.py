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
    "matrix": {
        "type": "array",
        "minItems": 2,
        "maxItems": 2,
        "items": {"type": "array", "items": COUNT, "minItems": 1, "maxItems": 3},
    },
    "linked_list": {
        "$defs": {"node": _object(v=COUNT, next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]})},
        "$ref": "#/$defs/node",
    },
    "refs_in_refs": {
        "$defs": {
            "unit": {"enum": ["m", "s"]},
            "size": _object(n=COUNT, unit={"$ref": "#/$defs/unit"}),
            "row": {"type": "array", "prefixItems": [{"$ref": "#/$defs/size"}], "items": False, "minItems": 1},
        },
        **_object(rows={"type": "array", "items": {"$ref": "#/$defs/row"}, "minItems": 1, "maxItems": 2}),
    },
    "ipv4": _object(ip={"type": "string", "format": "ipv4"}),
    "const_member": _object(version={"const": 2}, kind={"const": "v"}, none={"const": None}),
    "pattern_bounds": {"type": "array", "items": {"type": "string", "pattern": "^(a|b){1,3}$"}, "maxItems": 3},
    "fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.25},
    "map_of_objects": {
        "type": "object",
        "additionalProperties": _object(n=COUNT),
        "maxProperties": 1,
    },
    "any_of_arrays": {
        "anyOf": [
            {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
            {"type": "array", "items": COUNT, "minItems": 3, "maxItems": 3},
        ]
    },
}


UNBOUNDED = {"map", "recursive", "date", "bounds", "linked_list", "fraction", "map_of_objects"}
"""Shapes with answers of any length: keys, trees, and digits of a second or of a number."""
