"""A method as clients and operators ask for it: in text, by the fields of an object, or not at all by ``exact``.

In text, on command lines and in files, it is ``name:parameter=value,...``; ratio and budget are parameters like others.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvloom.errors import ParamsError
from kvloom.policy.compression.compression import Compression
from kvloom.policy.compression.methods import METHODS, Method, compression_of, made

EXACT = "exact"
"""Who asks for this wants the cache as it is, whatever the default."""


def asked_for(
    name: str, /, ratio: float | None = None, budget: int | None = None, **params: object
) -> Compression | None:
    """A method by its name; None for ``exact``. Raises ParamsError, ``param`` being what is at fault.

    >>> asked_for("exact") is None
    True
    """
    if name != EXACT:
        _known(name, METHODS)
        return compression_of(name, ratio, budget, **params)
    given = {"ratio": ratio, "budget": budget}
    excess = [*(key for key, value in given.items() if value is not None), *params]
    if excess:
        raise ParamsError(f"`{EXACT}` has no parameter `{excess[0]}`", param=excess[0])
    return None


def parse_compression(text: str, methods: Mapping[str, Method] = METHODS) -> Compression | None:
    """Read ``exact``, which is None, or ``name:parameter=value,...``, where a file is named by its path.

    Raises ParamsError, and DataFileError when a file cannot be read.

    >>> parse_compression("knorm:ratio=0.5,allocator=adakv,floor=0.1") == compression_of(
    ...     "knorm", 0.5, allocator="adakv", floor=0.1
    ... )
    True
    """
    name, _, rest = text.partition(":")
    if name == EXACT and name not in methods:
        if rest:
            raise ParamsError(f"`{EXACT}` has no parameters, got `{rest}`")
        return None
    method = _known(name, methods)
    values: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        key, value = _word(name, method, part)
        if key in values:
            raise ParamsError(f"method `{name}`: {key} is there twice", param=key)
        values[key] = value
    ratio, budget = values.pop("ratio", None), values.pop("budget", None)
    assert ratio is None or isinstance(ratio, float)
    assert budget is None or isinstance(budget, int)
    return made(name, method, ratio, values, budget)


def text_of(compression: Compression | None) -> str:
    """What ``parse_compression`` reads.

    >>> text_of(compression_of("sink_recent", 0.5))
    'sink_recent:ratio=0.5,sinks=4'
    """
    if compression is None:
        return EXACT
    method = METHODS.get(compression.name)
    removes = {} if method is not None and method.ratio is not None else compression.removes
    shown = {key: f"{value:g}" if key == "ratio" else value for key, value in removes.items()}
    words = ",".join(f"{key}={value}" for key, value in {**shown, **compression.params}.items() if value != "")
    return f"{compression.name}:{words}" if words else compression.name


def _known(name: str, methods: Mapping[str, Method]) -> Method:
    method = methods.get(name)
    if method is None:
        raise ParamsError(f"unknown method `{name}`", hint=f"one of {', '.join((EXACT, *methods))}", param="method")
    return method


def _word(name: str, method: Method, part: str) -> tuple[str, object]:
    """A parameter and its value. Its type is that of its default."""
    key, separator, value = part.partition("=")
    if not separator:
        raise ParamsError(f"method `{name}`: `{part}` is not of the form parameter=value", param=key)
    kinds = {"ratio": float, "budget": int} | method.kinds
    if key not in kinds:
        hint = f"its parameters: {', '.join(kinds)}"
        raise ParamsError(f"method `{name}` has no parameter `{key}`", hint=hint, param=key)
    try:
        return key, kinds[key](value)
    except ValueError:
        raise ParamsError(f"method `{name}`: cannot read `{value}` as {key}", param=key) from None
