"""GuideLLM, the command: a run at one rate, its figures read back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from trying import MODEL, TOKENIZER, URL, run

REQUESTS = 16


def load() -> str:
    report = Path("report.json").absolute()
    command = [str(Path(sys.executable).parent / "guidellm"), "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={URL},model={MODEL}", "--profile", "kind=concurrent,streams=4"]
    command += ["--constraint", f"kind=max_requests,count={REQUESTS}", "--output", f"kind=json,path={report}"]
    command += ["--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"]
    command += ["--data", "kind=synthetic_text,prompt_tokens=128,output_tokens=32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.stderr or done.stdout)[-400:]
    (found,) = json.loads(report.read_text())["benchmarks"]
    totals = found["metrics"]["request_totals"]
    assert totals["successful"] == REQUESTS, totals
    rate = found["metrics"]["output_tokens_per_second"]["successful"]["mean"]
    return f"{totals['successful']} requests, {rate:.0f} tokens per second"


run(globals())
