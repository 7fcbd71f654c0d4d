"""A peer in another process: runs in its own environment, exchanges lines with us, and is stopped between its turns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.base import PEERS, Facts, Setup
from kvloom.bench.target import Answer
from kvloom.model.files.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 600.0
"""A run that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A copy of this repository, and the Python of an environment that runs it."""

    root: Path
    python: Path

    @classmethod
    def at(cls, root: Path) -> Checkout:
        """One that ``make venv`` was run in. Raises FileNotFoundError."""
        python = root.resolve() / ".venv" / "bin" / "python"
        if not python.exists():
            raise FileNotFoundError(f"{python}: run `make venv` in {root} first")
        return cls(root.resolve(), python)

    @property
    def environment(self) -> dict[str, str]:
        """What its processes find: code and models of its own, for another version may store models differently."""
        if self == HERE:
            return dict(os.environ)
        path = f"{self.root}{os.pathsep}{self.root / 'src'}"
        return os.environ | {"PYTHONPATH": path, "KVLOOM_HOME": str(self.python.parents[1] / "kvloom-models")}

    def pull(self, model: str) -> None:
        """Fetch a model, as this checkout stores it. By its command: modules move from version to version."""
        command = [str(self.python.parent / "kvloom"), "pull", model]
        subprocess.run(command, cwd=self.root, env=self.environment, check=True, stdout=subprocess.DEVNULL)


HERE = Checkout(ROOT, Path(sys.executable))


class PeerFailed(Exception):
    """The peer's process ended, or stopped responding. The message includes its last output."""


def peers_directory() -> Path:
    """Where ``bench/peers.sh`` puts the environments."""
    return Path(os.environ.get("PEERS_DIR", ROOT / ".peers"))


def interpreter(name: str) -> Path | None:
    """The Python of a peer's environment; None when it is not installed. kvloom's own environment has transformers."""
    environment = PEERS[name].environment
    if environment is None:
        return Path(sys.executable)
    directory = peers_directory() / environment
    if (directory / ".installed").exists():
        return directory / "bin" / "python"
    return Path(sys.executable) if name == "transformers" else None


class RemotePeer:
    """A ``Target``. Raises PeerFailed from any call when the process has ended; stopped between calls.

    ``checkout``: whose code of ours it runs.
    """

    def __init__(self, name: str, python: Path, setup: Setup, checkout: Checkout = HERE) -> None:
        fields = {key: str(value) if isinstance(value, Path) else value for key, value in _fields(setup).items()}
        command = [str(python), "-m", "bench.worker", name, "--setup", json.dumps(fields)]
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in close)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=checkout.root,
            env=environment_of(python) if checkout == HERE else checkout.environment,
            start_new_session=True,
        )
        self.facts = Facts(**self._read())
        self._signal(signal.SIGSTOP)

    def expect(self, apart: int, longest: int) -> None:
        """What comes next: at most so many sequences apart, and how long they get."""
        self._ask({"do": "expect", "apart": apart, "longest": longest})

    def reset(self) -> None:
        self._ask({"do": "reset"})

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        reply = self._ask({"do": "run", "prompts": [list(prompt) for prompt in prompts], "num_new": num_new})
        answers = [Answer(**fields) for fields in reply["answers"]]
        if any(len(answer.tokens) != num_new or len(answer.times_s) != num_new for answer in answers):
            lengths = [len(answer.tokens) for answer in answers]
            raise PeerFailed(f"{self.name} answered with {lengths} tokens, not {num_new} each")
        return answers

    def peak_bytes(self) -> int:
        """Peak resident memory since the last call."""
        return int(self._ask({"do": "peak"})["peak_bytes"])

    def counters(self) -> dict[str, Any]:
        return self._ask({"do": "counters"})

    def close(self) -> None:
        """End the process and everything that it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None
        reply = self._read()
        self._signal(signal.SIGSTOP)
        return reply

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise self._failure("ended" if ready else f"said nothing for {PATIENCE_S:.0f} s")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _failure(self, what: str) -> PeerFailed:
        self._log.seek(0)
        words = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        self.close()
        return PeerFailed(f"{self.name} {what}: {words[-1] if words else 'without a word'}")

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def setup_of(manifest: Manifest, threads: int, kv_tokens: int) -> Setup:
    """What every engine gets of a pulled model."""
    directory = peers_directory() / "models" / manifest.name
    return Setup(manifest.name, manifest.weight_path(0), directory, threads, kv_tokens)


def dequantize(gguf: Path, directory: Path) -> None:
    """Save a GGUF file's weights in float32 as transformers does, unless that was done before."""
    if (directory / "config.json").exists():
        return
    python = interpreter("transformers") or Path(sys.executable)
    command = [str(python), "-m", "bench.peers.dequantized", str(gguf), str(directory)]
    subprocess.run(command, cwd=ROOT, env=environment_of(python), check=True, stdout=subprocess.DEVNULL)


def environment_of(python: Path) -> dict[str, str]:
    """Another environment finds this repository, and the light part of kvloom, on its path.

    Intel's OpenMP is preloaded where the environment has it: vLLM's documentation asks for that on a CPU.
    """
    if python == Path(sys.executable):
        return dict(os.environ)
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    preload = {"LD_PRELOAD": str(openmp)} if openmp.exists() else {}
    return os.environ | preload | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}


def _fields(setup: Setup) -> dict[str, Any]:
    return {field.name: getattr(setup, field.name) for field in dataclasses.fields(setup)}
