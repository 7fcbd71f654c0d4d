"""AIPerf, the command: a streamed run at four requests at once, its figures read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from trying import MODEL, TOKENIZER, URL, run

REQUESTS = 16


def load() -> str:
    out = Path("out").absolute()
    command = [str(Path(sys.executable).parent / "aiperf"), "profile", "--model", MODEL, "--url", URL, "--streaming"]
    command += ["--endpoint-type", "chat", "--tokenizer", TOKENIZER, "--concurrency", "4", "--ui", "none"]
    command += ["--request-count", str(REQUESTS), "--synthetic-input-tokens-mean", "128"]
    command += ["--output-tokens-mean", "32", "--output-artifact-dir", str(out)]
    # Told to be offline, it takes the tokenizer's directory for a name on the hub.
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.stderr or done.stdout)[-400:]
    (report,) = out.rglob("profile_export_aiperf.json")
    found = json.loads(report.read_text())
    assert found["request_count"]["avg"] == REQUESTS, found["request_count"]
    return f"{REQUESTS} requests, {found['output_token_throughput']['avg']:.0f} tokens per second"


run(globals())
