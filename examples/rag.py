"""Retrieval, from end to end: passages are computed once, and questions are answered over those that fit them best.

    pip install 'kvloom[rag]'
    kvloom pull smollm2-135m-instruct
    python examples/rag.py                               a part of Python's language reference, which Python brings
    python examples/rag.py --cache-dir KV FILE|DIR...    texts of your own; their KV stays in KV for the next time

Passages are ranked twice: by BM25, and by the cosine of embeddings in a vector index, with the model's own hidden
states as embeddings. Both ranks are added up reciprocally.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
from passages import MODEL, answered, embedded, marked, reused
from usearch.index import Index

from kvloom import LLM, SamplingParams, TierConfig
from kvloom.engine.chunks import split

QUESTIONS = (
    "What does the assert statement do?",
    "What happens when a break statement is executed?",
    "How does a global statement change an assignment?",
)
TOPIC_CHARACTERS = 2500
"""Of the topics that are taken, at most: of 79, two thirds."""

SYSTEM = "Answer the question in one sentence, with the help of the passages."


@dataclass(frozen=True, slots=True)
class Passage:
    """``name``: where it is from."""

    name: str
    text: str


class Retriever:
    """Finds passages for a question."""

    def __init__(self, llm: LLM, passages: Sequence[Passage]) -> None:
        self._llm, self._passages = llm, passages
        self._words = bm25s.BM25()
        self._words.index([_words(passage.text) for passage in passages], show_progress=False)
        vectors = np.array(embedded(llm, [passage.text for passage in passages]), np.float32)
        self._vectors = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
        self._vectors.add(np.arange(len(passages)), vectors)

    def best(self, question: str, count: int) -> list[Passage]:
        """The best first. Reciprocal rank fusion (Cormack et al., SIGIR 2009), with their constant."""
        words, nothing = _words(question), np.zeros(len(self._passages))
        by_words = np.argsort(-self._words.get_scores(words) if words else nothing, kind="stable").tolist()
        (vector,) = embedded(self._llm, [question])
        by_meaning = self._vectors.search(np.array(vector, np.float32), len(self._passages)).keys.tolist()
        scores = np.zeros(len(self._passages))
        for ranked in (by_words, by_meaning):
            scores[ranked] += 1 / (60 + 1 + np.arange(len(ranked)))
        return [self._passages[n] for n in np.argsort(-scores, kind="stable")[:count].tolist()]


def main() -> None:
    asked = arguments()
    tiers = None if asked.cache_dir is None else TierConfig(cache_dir=asked.cache_dir)
    with LLM(MODEL, kv_bytes="512MiB", tiers=tiers) as llm:
        passages = passages_of(llm, asked.texts, asked.passage_tokens)
        began_s = time.perf_counter()
        added = llm.chunks.add([passage.text for passage in passages])
        tokens, computed = sum(each.tokens for each in added), sum(each.computed for each in added)
        print(f"{len(passages)} passages of {tokens} tokens, {computed} of which were computed, ", end="")
        print(f"in {time.perf_counter() - began_s:.1f} s")
        retriever = Retriever(llm, passages)
        for question in asked.question or QUESTIONS:
            chosen = retriever.best(question, asked.together)
            context = "\n\n".join(marked(passage.text) for passage in chosen)
            messages = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f"{context}\n\nQuestion: {question}"},
            ]
            output = answered(llm, messages, SamplingParams(temperature=0, max_tokens=48))
            print(f"\n{question}\n  {' '.join(output.outputs[0].text.split())}")
            print(f"  from {', '.join(passage.name for passage in chosen)}\n  {reused(output)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, metavar="FILE|DIR", help="Markdown or plain text")
    parser.add_argument("--question", action="append", help="may be repeated")
    parser.add_argument("--passage-tokens", type=int, default=192, help="at most")
    parser.add_argument("--together", type=int, default=6, help="passages of a prompt")
    parser.add_argument("--cache-dir", help="keeps KV between runs")
    return parser.parse_args()


def passages_of(llm: LLM, paths: Sequence[Path], passage_tokens: int) -> list[Passage]:
    def count(text: str) -> int:
        return len(llm.get_tokenizer().encode(text, add_special_tokens=False))

    found = [
        Passage(f"{name}:{number}", text)
        for name, document in documents(paths)
        for number, text in enumerate(split(document, passage_tokens, count), start=1)
    ]
    if not found:
        raise SystemExit("error: there is no text in these files")
    return found


def documents(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """(name, text); without paths, the short topics of Python's language reference."""
    if not paths:
        from pydoc_data.topics import topics

        return [(name, text) for name, text in sorted(topics.items()) if len(text) <= TOPIC_CHARACTERS]
    nested = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths]
    files = [file for each in nested for file in each if file.suffix in (".md", ".txt", ".rst")]
    return [(file.stem, file.read_text(encoding="utf-8")) for file in files]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


if __name__ == "__main__":
    main()
