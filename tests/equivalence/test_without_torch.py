"""torch is the language of the reference and of tests. Generating and serving do without its 190 MiB and its second."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from equivalence.test_gguf_models import WIDE
from tiny_gguf import write_gguf

GENERATE = """
from kvloom import LLM, SamplingParams
llm = LLM(model, kv_bytes="4MiB", threads=1)
prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [5, 6, 7, 8]}]
greedy = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, prompt_logprobs=1)
assert [len(answer.outputs[0].token_ids) for answer in llm.generate(prompts, greedy)] == [4, 4]
"""
SERVE = """
from kvloom.cli import backend, generating, serving
from kvloom.cli.settings import Settings
from kvloom.config import EngineConfig, CacheConfig, ServerConfig
from kvloom.server.app import create_app
engine = backend.open_engine(EngineConfig(model=model, threads=1, cache=CacheConfig(kv_bytes="4MiB")))
create_app(engine, ServerConfig())
"""
EVALUATE = """
from kvloom.cli import backend, eval_app, eval_checks, eval_reports, eval_runs
from kvloom.config import EngineConfig, CacheConfig
from kvloom.eval.fidelity import fidelity
from kvloom.eval.policy import parse_policy
subject = backend.open_subject(EngineConfig(model=model, threads=1, cache=CacheConfig(kv_bytes="4MiB")))
assert fidelity(subject, parse_policy("random:ratio=0.5"), [[5 + n % 50 for n in range(60)]]).kl.mean > 0
"""


@pytest.mark.parametrize("code", [GENERATE, SERVE, EVALUATE], ids=["generate", "serve", "evaluate"])
def test_torch_stays_out(code: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    torch.manual_seed(1)
    write_gguf(path, transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE)), "llama", "Q8_0")
    whole = f"import sys\nmodel = {str(path)!r}\n{code}\nprint('torch' in sys.modules)"
    environment = os.environ | {"KVLOOM_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False"
