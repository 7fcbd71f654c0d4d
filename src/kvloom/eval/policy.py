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
from kvloom.policy.compression import METHODS, Compression, asked
from kvloom.policy.compression.methods import Method

Params = Mapping[str, int | float | str]
QueryProtocol = Literal["query-agnostic", "query-aware"]
"""Whether a policy acts on the context before the question is known (the default), or sees the question as well."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Something that can be done to a context. ``name`` and ``params`` go into every row of results.

    ``compression``: None for the exact cache, the engine as it is.
    """

    name: str = asked.EXACT
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
    methods, words = _methods(text)
    name = words.partition(":")[0]
    try:
        compression = asked.parse_compression(words, methods)
    except ParamsError as error:
        unknown = name not in (asked.EXACT, *methods)
        hint = f"{error.hint}; or path/to/file.py:name" if unknown else error.hint
        raise EvalError(f"policy `{text}`: {error}", hint=hint) from None
    if compression is None:
        return EXACT
    removes = {} if methods[name].ratio is not None else compression.removes
    return Policy(name, {**removes, **compression.params}, compression)


def _methods(text: str) -> tuple[Mapping[str, Method], str]:
    """By name, and what is said of them: those that kvloom has, or the one out of a file."""
    file, separator, words = text.partition(".py:")
    if not separator:
        return METHODS, text
    name = words.partition(":")[0]
    return {name: _loaded(Path(file + ".py"), name)}, words


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
