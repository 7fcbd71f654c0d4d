"""Every exception that kvloom raises deliberately.

    KvloomError
    ├── RequestError(ValueError)        the caller asked for something impossible
    │   ├── PromptTooLong               prompt against the context or the KV budget
    │   └── ParamsError                 a sampling parameter is out of its range
    ├── TraceError(ValueError)          a file of recorded requests cannot be read
    ├── ConfigError(ValueError)         a setting is out of range or contradicts another
    ├── ModelError                      a model cannot be used
    │   ├── ModelNotFound               no such name, path or id
    │   ├── ModelFileError              truncated, corrupt or unreadable weights
    │   ├── UnsupportedModel            an architecture or tensor type that we do not run
    │   └── PullError                   fetching failed: network, disk, checksum
    ├── DataFileError(ValueError)       a data file is missing, or malformed at a line
    ├── EvalError(ValueError)           an evaluation cannot run as asked
    │   └── RunMismatch                 stored rows were made with other settings
    ├── SpanError(ValueError)           a span is empty, negative or out of order
    ├── NumericsError                   a model computed NaN or infinity where a number is needed
    └── InternalError                   an invariant broke: please report it

A message states what was asked and what is possible; ``hint`` says what to do next and is shown on its own line.
"""

from __future__ import annotations

from pathlib import Path


class KvloomError(Exception):
    """Base class. ``hint`` is an optional line of advice."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class RequestError(KvloomError, ValueError):
    """The request can never be served as asked. ``param`` names the field at fault, when there is one."""

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class PromptTooLong(RequestError):
    """The prompt exceeds the model's context or what the KV budget can hold."""


def context_overflow(limit: int, detail: str) -> str:
    """The message of a PromptTooLong. Clients match on its words: LiteLLM and others on the first sentence, LangChain
    on "prompt is too long", which is what Anthropic's API says.
    """
    return f"This model's maximum context length is {limit} tokens. However, the prompt is too long: {detail}"


class ParamsError(RequestError):
    """A sampling parameter is out of range."""


class TraceError(KvloomError, ValueError):
    """A file of recorded requests is not in the expected format; the message names the line."""


class ConfigError(KvloomError, ValueError):
    """A setting is out of range or contradicts another."""


class ModelError(KvloomError):
    """A model cannot be used."""


class ModelNotFound(ModelError):
    """No model of that name, path or id."""


class ModelFileError(ModelError):
    """Weights or tokenizer files are truncated, corrupt or unreadable."""


class UnsupportedModel(ModelError):
    """The architecture or a tensor type is not one that kvloom runs."""


class PullError(ModelError):
    """Fetching a model failed; nothing half-written is left behind."""


class DataFileError(KvloomError, ValueError):
    """A file that the user names is missing or malformed. The message begins with ``path`` and, if known, ``line``."""

    def __init__(self, message: str, *, path: Path, line: int | None = None, hint: str | None = None) -> None:
        where = f"`{path}`" if line is None else f"`{path}`, line {line}"
        super().__init__(f"{where}: {message}", hint=hint)
        self.path, self.line = path, line


class EvalError(KvloomError, ValueError):
    """An evaluation cannot run as asked."""


class RunMismatch(EvalError):
    """Stored rows were made with other settings; they are never mixed."""


class SpanError(KvloomError, ValueError):
    """A span is empty, negative or out of order."""


class NumericsError(KvloomError):
    """A model computed NaN or infinity where a number is needed: its weights are damaged, or it overflows."""


class SessionRefused(KvloomError):
    """A saved session is damaged, or of another model, other formats or another version: nothing of it is used."""


class InternalError(KvloomError):
    """An invariant broke. This is a bug in kvloom."""
