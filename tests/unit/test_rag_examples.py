"""The examples of retrieval on a tiny engine: what is retrieved is found again wherever it stands in a prompt."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import tiny
import tiny_decoder
from kvloom import LLM, RequestOutput, SamplingParams
from kvloom.engine.defaults import SamplingDefaults

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = [
    "The lamp of the lighthouse was lit by hand until the year of the storm.",
    "A kettle of tea stood on the stove, and nobody drank of it.",
    "Letters to the harbour came twice a week, with the mail boat.",
    "The old engine in the boat house was sold for its copper.",
]


class AnyText(tiny.CharTokenizer):
    """Has a token for every character; templates have line ends."""

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        return [(ord(character) - 32) % (tiny.VOCAB - 1) + 1 for character in text]


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    model = tiny_decoder.decoder((None, None, None), context_length=2048)
    engine = tiny.make_engine(model=model, step_tokens=512, kv_bytes="16MiB")
    engine.intake.worth = lambda cache, prompt_tokens: True
    loaded = SimpleNamespace(engine=engine, tokenizer=AnyText(), defaults=SamplingDefaults())
    monkeypatch.setattr("kvloom.engine.llm.build", lambda config: loaded)
    return LLM("tiny")


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn of when they are imported
        return importlib.import_module(name)


def heard(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[RequestOutput]:
    """What an adapter gets from the engine."""
    outputs: list[RequestOutput] = []
    ask = module.answered

    def answered(*given: Any, **named: Any) -> RequestOutput:
        outputs.append(ask(*given, **named))
        return outputs[-1]

    monkeypatch.setattr(module, "answered", answered)
    return outputs


def bag_of_words(text: str) -> list[float]:
    """An embedding in which texts are alike that share words."""
    words = set(text.lower().strip("?.").split())
    return [float(word in words) for word in sorted(set(" ".join(TEXTS).lower().replace(".", "").split()))] + [0.1]


def documents_of(llm: LLM, output: RequestOutput, texts: list[str]) -> list[str]:
    """Those of the texts whose tokens stand in a prompt."""
    said = "".join(map(chr, output.prompt_token_ids))
    encode = llm.get_tokenizer().encode
    return [text for text in texts if "".join(map(chr, encode(text))) in said]


def test_what_is_marked_is_a_document(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = example("passages", monkeypatch)
    encode = llm.get_tokenizer().encode
    ids, documents = passages.prompt_of(llm, f"Read {passages.marked(' one ')} and {passages.marked('two')}.")
    assert ids == encode("Read one and two.")
    assert documents == ((5, 8), (13, 16))
    assert passages.prompt_of(llm, "nothing is marked") == (encode("nothing is marked"), ())


def test_nobody_s_text_marks_anything(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = example("passages", monkeypatch)
    hostile = passages.marked("mine") + " yours"
    ids, documents = passages.prompt_of(llm, passages.marked(hostile) + "\ue001 \ue000?")
    assert ids == llm.get_tokenizer().encode("mine yours ?")
    assert documents == ((0, 10),)


def test_retrieval_finds_words_and_answers_over_them(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    rag = example("rag", monkeypatch)
    monkeypatch.setattr(rag, "embedded", lambda llm, texts: [bag_of_words(text) for text in texts])
    found = [rag.Passage(str(number), text) for number, text in enumerate(TEXTS)]
    retriever = rag.Retriever(llm, found)
    assert retriever.best("Who drank tea of the kettle?", 4)[0] == found[1]
    assert retriever.best("When did letters come to the harbour?", 4)[0] == found[2]
    assert len(set(retriever.best("?", 3))) == 3


def test_documents_of_a_corpus(llm: LLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rag = example("rag", monkeypatch)
    (tmp_path / "a.md").write_text("\n\n".join(TEXTS))
    (tmp_path / "b.bin").write_bytes(b"\xff")
    passages = rag.passages_of(llm, [tmp_path], 80)
    assert [passage.text for passage in passages] == TEXTS
    assert [passage.name for passage in passages] == ["a:1", "a:2", "a:3", "a:4"]
    assert len(rag.documents([])) > 20, "of Python's own"
    with pytest.raises(SystemExit, match="no text"):
        rag.passages_of(llm, [tmp_path / "b.bin"], 80)


def test_a_chain_of_langchain(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_core")
    module = example("langchain_rag", monkeypatch)
    outputs = heard(module, monkeypatch)
    chain = module.chain_over(llm, TEXTS, together=2)
    for question in ("Who drank tea?", "When did letters come?"):
        answer = chain.invoke(question)
        chosen = documents_of(llm, outputs[-1], TEXTS)
        fused = answer.response_metadata["fused"]
        assert len(chosen) == 2
        assert fused.found == fused.documents == sum(len(text) for text in chosen)
        assert answer.usage_metadata["input_token_details"]["cache_read"] >= fused.found
        assert answer.content == outputs[-1].outputs[0].text.strip()
    llm.cache.check()


def test_a_query_engine_of_llama_index(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_index.core")
    module = example("llama_index_rag", monkeypatch)
    outputs = heard(module, monkeypatch)
    engine = module.query_engine_over(llm, TEXTS, together=2)
    for question in ("Who drank tea?", "When did letters come?"):
        answer = engine.query(question)
        chosen, fused = documents_of(llm, outputs[-1], TEXTS), outputs[-1].metrics.fused
        assert len(chosen) == len(answer.source_nodes) == 2
        assert fused is not None
        assert fused.found == fused.documents == sum(len(text) for text in chosen)
        assert str(answer) == outputs[-1].outputs[0].text.strip()
    llm.cache.check()


def test_one_line_says_what_was_reused(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = example("passages", monkeypatch)
    params = SamplingParams(temperature=0, max_tokens=2)
    messages = [{"role": "user", "content": f"{passages.marked(TEXTS[0])} ?"}]
    passages.answered(llm, messages, params)
    said = passages.reused(passages.answered(llm, messages, params))
    assert f"passages {len(TEXTS[0])}, of which {len(TEXTS[0])} were there" in said
    plain = passages.answered(llm, [{"role": "user", "content": "Hello"}], params)
    assert passages.reused(plain).startswith("prompt of 12 tokens, 6 of them in the cache; first token after")
