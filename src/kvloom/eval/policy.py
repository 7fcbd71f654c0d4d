"""What may be done to a context's KV before a question is asked, by the words of a request: a method of compression.

The judge has no hook of its own: whatever a request can ask of the engine (``CacheParams``) it can compare, and scorers
of a user's own file too, which keep the interfaces of ``policy.compression``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kvloom.errors import DataFileError, EvalError, ParamsError
from kvloom.policy.compression import METHODS, Compression
from kvloom.policy.compression.methods import Method, made

Params = Mapping[str, int | float | str]
QueryProtocol = Literal["query-agnostic", "query-aware"]
"""Whether a policy acts on the context before the question is known (the default), or sees the question as well."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Something that can be done to a context. ``name`` and ``params`` go into every row of results.

    ``compression``: None for the exact cache, the engine as it is.
    """

    name: str = "exact"
    params: Params = field(default_factory=dict)
    compression: Compression | None = None


EXACT = Policy()
FLOOR = "keep_all"
"""The policy that drops nothing and moves everything: what it changes is the noise in all that others change."""


def parse_policy(text: str) -> Policy:
    """Read ``exact``, or ``name:param=value,...``, or ``file.py:name:param=value,...``. Raises EvalError.

    >>> parse_policy("random:ratio=0.25").params
    {'ratio': 0.25, 'seed': 0}
    """
    name, method, rest = _method(text)
    if method is None:
        if rest:
            raise EvalError(f"policy `{name}` has no parameters, got `{rest}`")
        return EXACT
    words = dict(_word(name, part) for part in filter(None, rest.split(",")))
    kinds = {"ratio": float, "budget": int} | method.kinds
    unknown = next((key for key in words if key not in kinds), None)
    if unknown is not None:
        raise EvalError(f"policy `{name}` has no parameter `{unknown}`", hint=f"its parameters: {', '.join(kinds)}")
    values: dict[str, object] = {}
    for key, value in words.items():
        try:
            values[key] = kinds[key](value)
        except ValueError:
            raise EvalError(f"policy `{name}`: cannot read `{value}` as {key}") from None
    ratio, budget = values.pop("ratio", None), values.pop("budget", None)
    assert ratio is None or isinstance(ratio, float)
    assert budget is None or isinstance(budget, int)
    try:
        return _policy(name, made(name, method, ratio, values, budget), shows_ratio=method.ratio is None)
    except ParamsError as error:
        raise EvalError(f"policy `{name}`: {error}", hint=error.hint) from None


def _policy(name: str, compression: Compression, shows_ratio: bool) -> Policy:
    removes = {"ratio": compression.ratio} if compression.budget is None else {"budget": compression.budget}
    told = {key: word for key, word in removes.items() if word is not None and shows_ratio}
    return Policy(name, {**told, **compression.params}, compression)


def _method(text: str) -> tuple[str, Method | None, str]:
    """(name, method, what follows); no method for the exact cache."""
    file, separator, after = text.partition(".py:")
    if separator:
        name, _, rest = after.partition(":")
        return name, _loaded(Path(file + ".py"), name), rest
    name, _, rest = text.partition(":")
    if name != EXACT.name and name not in METHODS:
        hint = f"one of {', '.join((EXACT.name, *METHODS))}; or path/to/file.py:name"
        raise EvalError(f"unknown policy `{name}`", hint=hint)
    return name, METHODS.get(name), rest


def _word(name: str, part: str) -> tuple[str, str]:
    key, separator, value = part.partition("=")
    if not separator:
        raise EvalError(f"policy `{name}`: `{part}` is not of the form parameter=value")
    return key, value


def _loaded(path: Path, name: str) -> Method:
    """A scorer out of a file: the class in it whose ``name`` is that."""
    if not path.is_file():
        raise DataFileError("there is no such file", path=path)
    module_name = f"kvloom_policy_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules[module_name] = module  # dataclasses look their module up, and so does ``identity``
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DataFileError(f"cannot be run: {type(error).__name__}: {error}", path=path) from error
    finally:
        sys.path[:] = before
    scorers = {value.name: value for value in vars(module).values() if _is_scorer(value, module_name)}
    if name not in scorers:
        hint = f"it has {', '.join(scorers) or 'none'}: a class with `name`, `needs` and `scores`"
        raise DataFileError(f"has no scorer `{name}`", path=path, hint=hint)
    return Method(scorers[name])


def _is_scorer(value: object, module: str) -> bool:
    return (
        isinstance(value, type)
        and value.__module__ == module
        and all(hasattr(value, each) for each in ("name", "needs", "scores"))
    )
