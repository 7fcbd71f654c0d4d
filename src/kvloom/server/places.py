"""Where a body says what the engine knows by a name of its own."""

from __future__ import annotations

from dataclasses import fields

from kvloom.engine.cache_params import CacheParams
from kvloom.policy.compression import METHODS

_OF_CACHE = {each.name for each in fields(CacheParams) if each.name.startswith(("compress", "guard", "fusion"))}
"""Others are words of the body itself too, and the engine finds nothing wrong with them."""

_OF_COMPRESSION = {"ratio", "budget", *(name for method in METHODS.values() for name in method.kinds)} - {"seed"}
"""What stands beside a method's name. A sampler has a seed too, and no method finds anything wrong with its own."""


_OF_FUSION = {"check_layer"}
"""Of a fusion's own parameters, what only the engine finds fault with."""


def place_in_body(param: str | None) -> str | None:
    """The field that is at fault.

    >>> place_in_body("budget"), place_in_body("guard"), place_in_body("prompt")
    ('kvloom.cache.compression.budget', 'kvloom.cache.guard', 'prompt')
    >>> place_in_body("check_layer")
    'kvloom.cache.fusion.check_layer'
    """
    if param in _OF_CACHE:
        return f"kvloom.cache.{param}"
    if param in _OF_FUSION:
        return f"kvloom.cache.fusion.{param}"
    return f"kvloom.cache.compression.{param}" if param in _OF_COMPRESSION else param
