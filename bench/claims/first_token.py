"""first-token: from the start of ``kvloom run`` to the first token on its output; and what importing kvloom costs."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from bench.harness import Outcome, at_most, note, worst_of
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
FIRST_TOKEN_S, IMPORT_S = 5.0, 0.3
_IMPORT = "import time; started = time.perf_counter(); import kvloom; print(time.perf_counter() - started)"
_RUN = "from kvloom.cli import main; main()"


def first_token_s(model: str) -> float:
    """Seconds from process start to the first byte of the answer."""
    command = [sys.executable, "-c", _RUN, "run", model, "What is a KV cache?", "--max-tokens", "4"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - started
        process.stdout.read()
    if not first or process.returncode:
        raise RuntimeError(f"`kvloom run` gave no answer, exit status {process.returncode}")
    return seconds


def import_s() -> float:
    """Seconds of ``import kvloom`` in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def measure(quick: bool) -> Outcome:
    """Full: 7 starts. Quick: 3. The first, with cold files, is not counted."""
    pull(MODEL)
    count = 3 if quick else 7
    starts = [first_token_s(MODEL) for _ in range(count + 1)]
    imports = [import_s() for _ in range(count + 1)][1:]
    note("starts: " + ", ".join(f"{seconds:.2f} s" for seconds in starts))
    checks = [
        at_most("first token", median(starts[1:]), FIRST_TOKEN_S, "s", _spread(starts[1:])),
        at_most("import kvloom", median(imports), IMPORT_S, "s", _spread(imports)),
    ]
    return worst_of("first-token", checks, {"quick": quick, "first_start_s": round(starts[0], 2)})


def _spread(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s in {len(seconds)} starts"
