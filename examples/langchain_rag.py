"""A LangChain chain over kvloom, in this process: the chain is the usual one but for ``marked_passages``.

    pip install 'kvloom[rag]'
    kvloom pull smollm2-135m-instruct
    python examples/langchain_rag.py

Documents of a prompt are read as they were computed alone, in whatever order the retriever has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from passages import MODEL, answered, embedded, marked, reused

from kvloom import LLM, RequestOutput, SamplingParams

ROLES = {"system": "system", "human": "user", "ai": "assistant"}
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer the question in one sentence, with the help of the passages."),
        ("human", "{context}\n\nQuestion: {question}"),
    ]
)


def marked_passages(documents: Sequence[Document]) -> str:
    """In the place of a chain's ``format_docs``."""
    return "\n\n".join(marked(document.page_content) for document in documents)


class KvloomChat(BaseChatModel):
    """``llm``: the engine. An answer's ``response_metadata`` has kvloom's metrics."""

    llm: Any
    max_tokens: int = 48
    temperature: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "kvloom"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turns = [{"role": ROLES[message.type], "content": str(message.content)} for message in messages]
        params = SamplingParams(temperature=self.temperature, max_tokens=self.max_tokens, stop=stop)
        return ChatResult(generations=[ChatGeneration(message=_message(answered(self.llm, turns, params)))])


class KvloomEmbeddings(Embeddings):
    """The model's own hidden states as embeddings."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return embedded(self._llm, texts)

    def embed_query(self, text: str) -> list[float]:
        return embedded(self._llm, [text])[0]


def chain_over(llm: LLM, texts: Sequence[str], together: int = 4) -> Runnable[str, AIMessage]:
    """From a question to an answer over the passages that fit it best. All are computed now, once."""
    llm.chunks.add(list(texts))
    store = InMemoryVectorStore.from_texts(list(texts), KvloomEmbeddings(llm))
    retriever = store.as_retriever(search_kwargs={"k": together})
    return {"context": retriever | marked_passages, "question": RunnablePassthrough()} | PROMPT | KvloomChat(llm=llm)


def _message(output: RequestOutput) -> AIMessage:
    (answer,), metrics = output.outputs, output.metrics
    found = metrics.cached_tokens + (metrics.fused.found if metrics.fused is not None else 0)
    prompt, said = len(output.prompt_token_ids), len(answer.token_ids)
    return AIMessage(
        content=answer.text.strip(),
        response_metadata={"finish_reason": answer.finish_reason, "reused": reused(output), "fused": metrics.fused},
        usage_metadata={
            "input_tokens": prompt,
            "output_tokens": said,
            "total_tokens": prompt + said,
            "input_token_details": {"cache_read": found},
        },
    )


def main() -> None:
    from rag import QUESTIONS, passages_of

    with LLM(MODEL, kv_bytes="512MiB") as llm:
        chain = chain_over(llm, [passage.text for passage in passages_of(llm, [], 192)])
        for question in QUESTIONS:
            answer = chain.invoke(question)
            print(f"{question}\n  {answer.content}\n  {answer.response_metadata['reused']}")


if __name__ == "__main__":
    main()
