"""lm-evaluation-harness: its models for servers like OpenAI's, on tasks that are made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from trying import MODEL, TOKENIZER, V1, run

ROWS = [
    {"question": "The capital of France is", "choices": [" Paris", " Rome", " a fish"], "answer": 0},
    {"question": "The capital of Italy is", "choices": [" Paris", " Rome", " a fish"], "answer": 1},
    {"question": "Two and two are", "choices": [" Paris", " four", " a fish"], "answer": 1},
]
DATA = Path("rows.jsonl").absolute()
DATA.write_text("\n".join(map(json.dumps, ROWS)))
COMMON: dict[str, Any] = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(DATA)}},
    "test_split": "test",
    "doc_to_text": "{{question}}",
}
CHOOSING = COMMON | {
    "task": "choosing",
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
WRITING = COMMON | {
    "task": "writing",
    "output_type": "generate_until",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"max_gen_toks": 16, "until": ["\n\n"]},
    "metric_list": [{"metric": "exact_match"}],
}


def _evaluated(kind: str, path: str, task: dict[str, Any], **more: Any) -> dict[str, Any]:
    arguments = {"model": MODEL, "base_url": f"{V1}/{path}", "tokenizer": TOKENIZER, "max_retries": 1, **more}
    found = simple_evaluate(model=kind, model_args=arguments, tasks=[task], bootstrap_iters=0)
    assert len(found["samples"][task["task"]]) == len(ROWS)
    results: dict[str, Any] = found["results"][task["task"]]
    return results


def chat() -> str:
    more = {"tokenizer_backend": None}
    arguments = {"model": MODEL, "base_url": f"{V1}/chat/completions", "max_retries": 1, **more}
    found = simple_evaluate(
        model="local-chat-completions", model_args=arguments, tasks=[WRITING], apply_chat_template=True
    )
    samples = found["samples"]["writing"]
    assert all(sample["resps"][0][0].strip() for sample in samples)
    return f"{len(samples)} answers"


def completions() -> str:
    found = _evaluated("local-completions", "completions", WRITING)
    return f"exact match {found['exact_match,none']:.2f}"


def evaluation() -> str:
    found = _evaluated("local-completions", "completions", CHOOSING)
    assert found["acc,none"] > 0.5, f"accuracy {found['acc,none']}"
    return f"accuracy {found['acc,none']:.2f}, by log probabilities of the prompt"


run(globals())
