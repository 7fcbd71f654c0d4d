"""LlamaIndex: its model and embeddings for servers like OpenAI's, its agents, and retrieval over them."""

# Annotations as they are: LlamaIndex makes schemas of tools from them, and does not resolve text.
from typing import Any, Literal

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from openai import BadRequestError
from pydantic import BaseModel
from trying import KEY, MODEL, QUESTION, TOO_LONG, V1, is_city, is_vector, is_weather, raises, run, words
from trying import get_weather as weather


def _model(**more: Any) -> OpenAILike:
    asked = {"is_chat_model": True, "is_function_calling_model": True, "max_tokens": 512, "temperature": 0.0}
    return OpenAILike(model=MODEL, api_base=V1, api_key=KEY, context_window=8192, max_retries=0, **(asked | more))


CHAT = _model()
EMBEDDING = OpenAILikeEmbedding(model_name=MODEL, api_base=V1, api_key=KEY)
ASK = [ChatMessage(role=MessageRole.USER, content=QUESTION)]


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]
    people: int


def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Tell the weather in a city."""
    return weather(city)


TOOL = FunctionTool.from_defaults(get_weather)


def chat() -> str:
    return words(CHAT.chat(ASK).message.content)


def stream() -> str:
    return words("".join(piece.delta or "" for piece in CHAT.stream_chat(ASK)))


def turns() -> str:
    return words(CHAT.chat([*ASK, CHAT.chat(ASK).message, *ASK]).message.content)


def tools() -> str:
    said = CHAT.chat_with_tools([TOOL], user_msg=QUESTION, tool_required=True)
    return is_weather(CHAT.get_tool_calls_from_response(said)[0].tool_kwargs)


def named_tool() -> str:
    said = CHAT.chat_with_tools([TOOL], user_msg=QUESTION, tool_choice="get_weather")
    return is_weather(CHAT.get_tool_calls_from_response(said)[0].tool_kwargs)


def tool_stream() -> str:
    *_, last = CHAT.stream_chat_with_tools([TOOL], user_msg=QUESTION, tool_required=True)
    return is_weather(CHAT.get_tool_calls_from_response(last)[0].tool_kwargs)


def tool_result() -> str:
    said = CHAT.chat_with_tools([TOOL], user_msg=QUESTION, tool_choice="get_weather")
    call = CHAT.get_tool_calls_from_response(said)[0]
    result = ChatMessage(role=MessageRole.TOOL, content="sunny", additional_kwargs={"tool_call_id": call.tool_id})
    return words(CHAT.chat([*ASK, said.message, result]).message.content)


async def agent() -> str:
    made = FunctionAgent(tools=[TOOL], llm=CHAT, initial_tool_choice="get_weather")
    found = await made.run(user_msg=QUESTION, max_iterations=8)
    assert found.tool_calls, "no tool was called"
    return words(found.response.content)


def schema() -> str:
    ask = PromptTemplate(QUESTION)
    by_tool = CHAT.structured_predict(City, ask, llm_kwargs={"tool_choice": "required"})
    by_form = _model(should_use_structured_outputs=True).structured_predict(City, ask)
    return f"{is_city(by_tool)}; {is_city(by_form)}"


def json_object() -> str:
    said = CHAT.chat(ASK, response_format={"type": "json_object"}).message.content
    assert said.lstrip().startswith("{")
    return words(said)


def completions() -> str:
    return words(_model(is_chat_model=False).complete("Paris is").text)


def embeddings() -> str:
    return is_vector(EMBEDDING.get_text_embedding_batch(["one", "two"])[1])


def overflow() -> str:
    ask = [ChatMessage(role=MessageRole.USER, content=TOO_LONG)]
    return raises(BadRequestError, lambda: CHAT.chat(ask), "maximum context length is")


def stop() -> str:
    said = CHAT.chat([ChatMessage(role=MessageRole.USER, content="Count: 1, 2, 3")], stop=["2"]).message.content
    assert "2" not in said
    return "ended by it"


def retrieval() -> str:
    index = VectorStoreIndex.from_documents([Document(text="Rome has 3 hills.")], embed_model=EMBEDDING)
    return words(str(index.as_query_engine(llm=CHAT, similarity_top_k=1).query(QUESTION)))


run(globals())
