"""Fetch a model by its Hugging Face id: ``org/name`` for safetensors, ``org/name/file.gguf`` for one GGUF.

A GGUF that is split over several files is named by its first part.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvloom.errors import PullError
from kvloom.model.files.disk import need_room
from kvloom.model.files.growth import watched
from kvloom.model.files.progress import Progress
from kvloom.model.files.split_names import SplitName

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_PATTERNS = ["*.safetensors", "*.json", "tokenizer.model", "merges.txt", "vocab.txt", "*.jinja"]
_SLACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class HubName:
    """``gguf``: the one file wanted, None for the whole safetensors model."""

    repo: str
    gguf: str | None = None

    @staticmethod
    def parse(name: str) -> HubName | None:
        """None when ``name`` cannot be a hub id."""
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            return None
        if len(parts) == 2:
            return HubName(name)
        return HubName("/".join(parts[:2]), "/".join(parts[2:])) if name.endswith(".gguf") and len(parts) > 2 else None


def fetch_hub(name: HubName, staging: Path, progress: Progress) -> Path:
    """Download into ``staging``; return the model's directory, or its GGUF file.

    Raises PullError: no network, no such model, no permission, disk full, a part missing or named instead of the first.
    """
    parts = _parts(name)
    import huggingface_hub  # slow to import

    target = staging / "files"
    target.mkdir()
    try:
        info = huggingface_hub.model_info(name.repo, files_metadata=True)
        sizes = _sizes(name, parts, info.siblings or [])
        need_room(staging, sum(sizes.values()) + _SLACK_BYTES)
        progress.start(f"pulling {name.repo}", sum(sizes.values()))
        try:
            with watched(target, progress, sum(sizes.values())):
                huggingface_hub.snapshot_download(
                    name.repo,
                    revision=info.sha,
                    allow_patterns=list(sizes),
                    local_dir=target,
                    tqdm_class=_quiet(),
                )
        finally:
            progress.finish()
    except PullError:
        raise
    except Exception as error:  # the hub client raises its own errors, httpx's and the system's
        raise _explain(name, error) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target if name.gguf is None else target / name.gguf


def _sizes(name: HubName, parts: list[str], files: Sequence[RepoSibling]) -> dict[str, int]:
    """Bytes of the files to fetch. Raises PullError when the model, or a part of it, is not among them."""
    sizes = {
        file.rfilename: file.size or 0
        for file in files
        if (file.rfilename in parts if parts else _is_of_model(file.rfilename))
    }
    if not any(file.endswith((".safetensors", ".gguf")) for file in sizes):
        raise PullError(
            f"`{name.repo}` holds no {name.gguf or 'safetensors weights'}",
            hint="see its page for the file names",
        )
    missing = [part for part in parts if part not in sizes]
    if missing:
        raise PullError(f"`{name.repo}` is missing {len(missing)} of {len(parts)} parts: {', '.join(missing[:5])}")
    return sizes


def _parts(name: HubName) -> list[str]:
    """The GGUF files to fetch: all parts of one that is split. None at all for a safetensors model."""
    split = None if name.gguf is None else SplitName.parse(name.gguf)
    if split is None:
        return [] if name.gguf is None else [name.gguf]
    if split.number != 1:
        raise PullError(
            f"`{name.repo}/{name.gguf}` is part {split.number} of {split.count}",
            hint=f"name the first part: {name.repo}/{split.first}",
        )
    return split.parts


def _is_of_model(file: str) -> bool:
    return "/" not in file and any(fnmatch(file, pattern) for pattern in _PATTERNS)


def _quiet() -> Any:
    """The hub's progress bar class, switched off: ours watches the directory."""
    bar: Any = import_module("huggingface_hub.utils").tqdm

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        bar.__init__(self, *args, **{**kwargs, "disable": True})

    return type("QuietBar", (bar,), {"__init__": start})


def _explain(name: HubName, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:
        return error  # the store reports a full disk
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return PullError(f"`{name.repo}` needs permission", hint="accept its terms on its page, then `hf auth login`")
    if kind in (
        "RepositoryNotFoundError",
        "EntryNotFoundError",
        "RemoteEntryNotFoundError",
        "HFValidationError",
    ):
        return PullError(
            f"the hub has no model `{name.repo}`, or it is private",
            hint="check the spelling; `hf auth login`",
        )
    if kind in (
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
        "ConnectionError",
        "OfflineModeIsEnabled",
        "ProxyError",
    ):
        return PullError(
            f"cannot fetch `{name.repo}`: the hub does not answer", hint="check the network, then pull again"
        )
    return PullError(f"cannot fetch `{name.repo}`: {error}")
