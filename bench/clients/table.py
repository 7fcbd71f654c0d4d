"""Which clients are tried, in which versions, and what is tried with each: what it supports of ``FEATURES``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"

FEATURES = {
    "chat": "an answer to a message",
    "stream": "the same, streamed",
    "turns": "a conversation of several turns",
    "tools": "a tool call where one is required, with arguments that fit its schema",
    "named_tool": "a call of the tool that is named",
    "tool_stream": "a tool call, streamed",
    "tool_result": "a call, its result, and an answer to it",
    "agent": "the client's own loop of model and tools, to its end",
    "schema": "an answer held to a JSON schema, as the client's own object",
    "json_object": "any JSON object",
    "completions": "text completions",
    "embeddings": "embeddings",
    "responses": "the Responses API",
    "messages": "Anthropic's Messages API",
    "logprobs": "log probabilities of tokens",
    "cached_usage": "how many tokens of the prompt were cached",
    "overflow": "a prompt that is too long, as the client's own error for it",
    "n": "several answers",
    "stop": "stop strings",
    "models": "the list of models",
    "count_tokens": "tokens of a prompt, counted by the server",
    "load": "a run of a load generator without a failed request",
    "evaluation": "a task of an evaluation harness",
}
"""By name: what works when it works."""


@dataclass(frozen=True, slots=True)
class Client:
    """``packages``: of PyPI, or of npm where the script is JavaScript. ``setting``: what its user has to say besides
    where the server is. ``seconds``: how long the script may take.
    """

    name: str
    script: str
    packages: tuple[str, ...]
    setting: str = ""
    seconds: float = 300.0

    @property
    def path(self) -> Path:
        return SCRIPTS / self.script

    @property
    def is_javascript(self) -> bool:
        return self.path.suffix == ".mjs"

    @property
    def features(self) -> tuple[str, ...]:
        """What the script tries: it has a function for each, by its name."""
        found = re.findall(r"^(?:async )?(?:def|function) (\w+)\(", self.path.read_text(encoding="utf-8"), re.MULTILINE)
        return tuple(name for name in found if name in FEATURES)


CLIENTS = (
    Client("openai", "try_openai.py", ("openai==3.57.0", "pydantic==2.14.4")),
    Client("anthropic", "try_anthropic.py", ("anthropic==2.14.0",)),
    Client(
        "langchain",
        "try_langchain.py",
        ("langchain==1.5.2", "langchain-openai==1.7.4", "langchain-anthropic==1.7.10"),
        "`OpenAIEmbeddings(check_embedding_ctx_length=False)`: otherwise it sends tokens of OpenAI's own tokenizers",
    ),
    Client(
        "llama-index",
        "try_llama_index.py",
        (
            "llama-index-core==0.14.25",
            "llama-index-llms-openai-like==0.8.1",
            "llama-index-embeddings-openai-like==0.4.0",
        ),
        "`OpenAILike(is_chat_model=True, is_function_calling_model=True)`",
    ),
    Client("litellm", "try_litellm.py", ("litellm==1.110.2",), "`openai/NAME` or `hosted_vllm/NAME`, `anthropic/NAME`"),
    Client("pydantic-ai", "try_pydantic_ai.py", ("pydantic-ai-slim[openai,anthropic]==2.68.0",)),
    Client("instructor", "try_instructor.py", ("instructor==1.17.0",)),
    Client("openai-agents", "try_openai_agents.py", ("openai-agents==0.24.0",)),
    Client("openai-js", "try_openai_js.mjs", ("openai@6.49.0", "zod@4.6.7")),
    Client("anthropic-js", "try_anthropic_js.mjs", ("@anthropic-ai/sdk@1.14.0",)),
    Client(
        "ai-sdk",
        "try_ai_sdk.mjs",
        ("ai@6.0.326", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7"),
        "`createOpenAICompatible({supportsStructuredOutputs: true})`",
    ),
    Client("smolagents", "try_smolagents.py", ("smolagents[openai]==1.26.0",)),
    Client(
        "dspy",
        "try_dspy.py",
        ("dspy==3.4.1", "numpy==2.4.6"),
        "`response_format` of `dspy.LM`: it asks models that it does not know for no schema",
    ),
    Client("llm", "try_llm.py", ("llm==0.36",), "`supports_schema: true` and `supports_tools: true` of the model"),
    Client("aider", "try_aider.py", ("aider-chat==0.86.2",), seconds=600),
    Client("inspect-ai", "try_inspect_ai.py", ("inspect-ai==0.3.285", "openai==3.57.0")),
    Client("lm-eval", "try_lm_eval.py", ("lm-eval[api]==0.4.13", "transformers==5.23.0"), seconds=600),
    Client("guidellm", "try_guidellm.py", ("guidellm==0.8.1",), seconds=600),
    Client("aiperf", "try_aiperf.py", ("aiperf==0.13.0",), seconds=600),
)
"""Those used most first."""

QUICK = ("openai", "anthropic")
