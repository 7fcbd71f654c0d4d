"""The line protocol on both ends: what a worker obeys, and what becomes of a peer that dies or answers short."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import remote, worker
from bench.peers.base import Facts, Setup
from bench.peers.wheel_needs import needs
from bench.remote import PeerFailed, RemotePeer
from kvloom.bench.target import Answer

SETUP = Setup("m", Path("m.gguf"), Path("m"), 2, 100)
FACTS = Facts("1", "none", 10, 2)


class Fake:
    facts = FACTS

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def run(self, prompts: list[list[int]], num_new: int) -> list[Answer]:
        return [Answer([prompt[0]] * num_new, [1.0] * num_new) for prompt in prompts]


def test_a_worker_obeys() -> None:
    peer = Fake()
    assert worker.obey(peer, {"do": "reset"}) == {}
    assert peer.resets == 1
    told = worker.obey(peer, {"do": "run", "prompts": [[3, 4], [5]], "num_new": 2})
    assert [answer["tokens"] for answer in told["answers"]] == [[3, 3], [5, 5]]
    assert worker.obey(peer, {"do": "counters"}) == {}
    assert worker.obey(peer, {"do": "expect", "apart": 4, "longest": 9}) == {}
    assert worker.obey(peer, {"do": "peak"})["peak_bytes"] > 2**20
    with pytest.raises(ValueError, match="no command 'dance'"):
        worker.obey(peer, {"do": "dance"})


def test_a_peer_that_prepares_hears_what_comes() -> None:
    heard: list[tuple[int, int]] = []

    class Prepares(Fake):
        def expect(self, apart: int, longest: int) -> None:
            heard.append((apart, longest))

    worker.obey(Prepares(), {"do": "expect", "apart": 4, "longest": 9})
    assert heard == [(4, 9)]


def pretender(folder: Path, body: str) -> Path:
    """A Python that, whatever it is told to run, runs ``body`` after saying its facts."""
    script = folder / "python"
    facts = json.dumps({"version": "1", "settings": "none", "weight_bytes": 10, "kv_token_bytes": 2})
    script.write_text(f"#!{sys.executable}\nimport json, sys\nprint({facts!r}, flush=True)\n{body}")
    script.chmod(0o755)
    return script


def test_a_peer_that_answers(tmp_path: Path) -> None:
    body = """
for line in sys.stdin:
    asked = json.loads(line)
    answers = [{"tokens": [1] * asked.get("num_new", 0), "times_s": [0.5] * asked.get("num_new", 0)}]
    print(json.dumps({"answers": answers, "peak_bytes": 5}), flush=True)
"""
    peer = RemotePeer("vllm", pretender(tmp_path, body), SETUP)
    try:
        assert peer.facts == FACTS
        assert peer.run([[1]], 3) == [Answer([1, 1, 1], [0.5, 0.5, 0.5])]
        assert peer.peak_bytes() == 5
    finally:
        peer.close()


def test_a_peer_that_answers_short_has_failed(tmp_path: Path) -> None:
    body = """
for line in sys.stdin:
    print(json.dumps({"answers": [{"tokens": [1], "times_s": [0.5]}]}), flush=True)
"""
    peer = RemotePeer("vllm", pretender(tmp_path, body), SETUP)
    try:
        with pytest.raises(PeerFailed, match=r"\[1\] tokens, not 3 each"):
            peer.run([[1]], 3)
    finally:
        peer.close()


def test_a_peer_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    peer = RemotePeer("vllm", pretender(tmp_path, "sys.stdin.readline()\nsys.exit('out of patience')"), SETUP)
    with pytest.raises(PeerFailed, match="vllm ended: out of patience"):
        peer.run([[1]], 3)


def test_a_peer_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = RemotePeer("vllm", pretender(tmp_path, "sys.stdin.read()"), SETUP)
    monkeypatch.setattr(remote, "PATIENCE_S", 0.2)
    with pytest.raises(PeerFailed, match="said nothing for"):
        peer.reset()


def test_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERS_DIR", str(tmp_path))
    assert remote.interpreter("vllm") is None
    assert remote.interpreter("kvloom") == remote.interpreter("transformers") == Path(sys.executable)
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / ".installed").touch()
    assert remote.interpreter("vllm") == tmp_path / "vllm" / "bin" / "python"


def test_the_requirements_of_a_wheel(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        lines = ["Requires-Dist: torch==2.0", "Requires-Dist: torchaudio; os_name == 'posix'"]
        lines += ["Requires-Dist: pandas; extra == 'bench'".replace("'", '"'), "Requires-Dist: numpy>=2,<3"]
        archive.writestr("x-1.dist-info/METADATA", "\n".join(["Name: x", *lines, "", "text"]))
    assert needs(tmp_path / "x.whl", {"torchaudio"}) == ["torch==2.0", "numpy>=2,<3"]
