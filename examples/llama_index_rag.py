"""A LlamaIndex query engine over kvloom, in this process: the usual one, with ``MarkPassages`` beside it.

    pip install 'kvloom[rag]'
    kvloom pull smollm2-135m-instruct
    python examples/llama_index_rag.py

Passages of a prompt are read as they were computed alone, in whatever order the index has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core import PromptTemplate, QueryBundle, Settings, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import BaseQueryEngine
from llama_index.core.schema import NodeWithScore, TextNode
from passages import MODEL, answered, embedded, marked, reused

from kvloom import LLM, SamplingParams

PROMPT = PromptTemplate("{context_str}\n\nAnswer in one sentence, with the help of the passages: {query_str}")


class KvloomLLM(CustomLLM):
    """``engine``: the kvloom LLM. ``raw`` of an answer is kvloom's output."""

    engine: Any
    max_tokens: int = 48

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.engine.max_model_len, num_output=self.max_tokens, model_name="kvloom")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        params = SamplingParams(temperature=0, max_tokens=self.max_tokens)
        output = answered(self.engine, [{"role": "user", "content": prompt}], params)
        return CompletionResponse(
            text=output.outputs[0].text.strip(), raw=output, additional_kwargs={"reused": reused(output)}
        )

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """All at once: the library's engine is driven by who asks."""
        whole = self.complete(prompt, formatted, **kwargs)
        whole.delta = whole.text
        yield whole


class KvloomEmbedding(BaseEmbedding):
    """The model's own hidden states as embeddings."""

    engine: Any

    def _get_text_embedding(self, text: str) -> list[float]:
        return embedded(self.engine, [text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return embedded(self.engine, texts)

    def _get_query_embedding(self, query: str) -> list[float]:
        return embedded(self.engine, [query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class MarkPassages(BaseNodePostprocessor):
    """What is retrieved is marked, so that the model finds it in the prompt, whatever template that is of."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=marked(each.node.get_content())), score=each.score) for each in nodes]


def query_engine_over(llm: LLM, texts: Sequence[str], together: int = 4) -> BaseQueryEngine:
    """Answers over the passages that fit a question best. All are computed now, once."""
    llm.chunks.add(list(texts))
    Settings.tokenizer = llm.get_tokenizer().encode
    index = VectorStoreIndex([TextNode(text=text) for text in texts], embed_model=KvloomEmbedding(engine=llm))
    return index.as_query_engine(
        llm=KvloomLLM(engine=llm),
        similarity_top_k=together,
        node_postprocessors=[MarkPassages()],
        text_qa_template=PROMPT,
    )


def main() -> None:
    from rag import QUESTIONS, passages_of

    with LLM(MODEL, kv_bytes="512MiB") as llm:
        engine = query_engine_over(llm, [passage.text for passage in passages_of(llm, [], 192)])
        for question in QUESTIONS:
            print(f"{question}\n  {engine.query(question)}")


if __name__ == "__main__":
    main()
