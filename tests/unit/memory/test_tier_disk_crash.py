"""A process that dies while it uses the tier on disk leaves whole pages, and nothing that a start does not tidy up."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tier_crash

PROGRAM = [sys.executable, tier_crash.__file__]


def killed(directory: Path, seed: int, after_s: float) -> list[int]:
    """Which pages the program said it had written when it was killed, some time after the first."""
    with subprocess.Popen([*PROGRAM, "loop", str(directory), str(seed)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first = program.stdout.readline()
        time.sleep(after_s)
        program.kill()
        return [int(line) for line in (first, *program.stdout) if line.endswith("\n")]


def test_killed_at_any_moment_all_that_was_written_is_there(tmp_path: Path) -> None:
    rng = random.Random(0)
    for seed in range(1, 7):
        written = killed(tmp_path, seed, rng.uniform(0.0, 0.06))
        found = tier_crash.examine(tmp_path)
        last = written[-3:]
        assert set(last) <= found, "of what was written, the least recently used may have been dropped, nothing else"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_killed_at_every_system_call(tmp_path: Path) -> None:
    done = subprocess.run([*PROGRAM, "steps", str(tmp_path / "cache")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80
