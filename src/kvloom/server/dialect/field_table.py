"""Every field that clients of these endpoints send, and how it is handled: the single list.

``SERVED`` fields are those of the models in ``schemas``. ``HINTS`` are accepted without effect: the answer is the
same with and without them. ``REFUSED`` fields would change the answer if they were supported: they pass only with a
value that requests the existing behaviour. A field in none of the three is ignored and named in the header
``x-kvloom-ignored``. The checks (``unserved``), ``/openapi.json`` and ``docs/http-api.md`` are generated from these
tables or compared with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """``extends``: the models of the endpoints where this field is an extension of OpenAI's API."""

    says: str
    extends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """``neutral``: values, besides null, that have no effect. ``instead``: what to use in its place."""

    neutral: tuple[object, ...] = ()
    instead: str | None = None

    def passes(self, value: Any) -> bool:
        return value is None or any(value == one and type(value) is type(one) for one in self.neutral)


def _ours(says: str) -> Served:
    return Served(says, extends=("ChatRequest", "CompletionRequest"))


SERVED: Mapping[str, Served] = {
    "model": Served("a name of the served model; may be left out"),
    "messages": Served("the conversation"),
    "prompt": Served("a string or a list of token ids, or up to 1,024 of either"),
    "max_tokens": Served("maximum tokens per answer; by default chat fills the context, completions use 16"),
    "min_tokens": _ours("no token and no stop string ends the answer before so many tokens"),
    "max_completion_tokens": Served("the same as `max_tokens`, and takes precedence over it"),
    "temperature": Served("0 is greedy, 1 the model's own distribution; up to 100"),
    "top_p": Served("sample from the most likely tokens that together reach this probability"),
    "top_k": _ours("sample from this many of the most likely tokens; 0 or -1 disables the limit"),
    "min_p": _ours("minimum probability of a token, relative to that of the most likely one"),
    "presence_penalty": Served("subtracted from the logits of tokens that already occur in the answer; -2 to 2"),
    "frequency_penalty": Served("subtracted once per occurrence of the token in the answer; -2 to 2"),
    "repetition_penalty": _ours("divides positive and multiplies negative logits of tokens in the prompt or answer"),
    "logit_bias": Served("a map from token id to a value added to its logit; -100 to 100"),
    "seed": Served("the same seed and request give the same answer"),
    "n": Served("number of answers per prompt; 1 to 128"),
    "best_of": Served("must equal `n`"),
    "stop": Served("up to 64 strings that end an answer"),
    "stop_token_ids": _ours("tokens that end an answer"),
    "include_stop_str_in_output": _ours("keep the stop string in the answer"),
    "ignore_eos": _ours("continue past the end-of-text token"),
    "skip_special_tokens": _ours("omit special tokens from the text; true by default"),
    "echo": Served(
        "begin the answer with the prompt; in chat, with the last message if its role is `assistant`",
        extends=("ChatRequest",),
    ),
    "logprobs": Served("log probabilities of the answer: a flag in chat, the number of alternatives in completions"),
    "top_logprobs": Served("number of most likely alternatives to return per token; 0 to 100"),
    "prompt_logprobs": _ours("log probabilities of the prompt's tokens, with this many alternatives; not streamed"),
    "return_token_ids": _ours("return `prompt_token_ids` and each answer's `token_ids` with the text"),
    "return_tokens_as_token_ids": _ours("write tokens in log probabilities as `token_id:123`"),
    "add_special_tokens": _ours("add the model's special tokens to the text"),
    "chat_template_kwargs": _ours("variables for the chat template"),
    "cache_salt": _ours("KV is reused only between requests with the same salt"),
    "prompt_cache_key": Served(
        "names the session that the request belongs to: what a session that comes again has stored is not evicted for "
        "requests of nobody while these have their share; see [Sessions](#sessions)",
        extends=("CompletionRequest",),
    ),
    "prompt_cache_options": Served(
        "`ttl`, `5m`, `30m`, `1h` or `12h`: the request's KV is pinned so long after its last use; `mode` `explicit`: "
        "only breakpoints are; `prewarm`: the prompt's KV is computed and kept, and there is no answer; see "
        "[Prompt caching](#prompt-caching)",
        extends=("CompletionRequest",),
    ),
    "prompt_cache_retention": Served(
        "`24h`: the request's KV is pinned so long after its last use; `in_memory`: as without",
        extends=("CompletionRequest",),
    ),
    "kvloom": _ours(
        '`{"cache": {"read": false, "write": false}}`: recompute the whole prompt and publish nothing; '
        "`priority` inside `cache`, 0 to 100, default 50: stored KV is evicted before KV of higher priority; "
        "`ttl_s` beside it: seconds for which it is worth keeping after its last use, heeded by the retention policies "
        "`ttl` and `pause`; "
        "`pin_s`: seconds after its last use for which it is evicted after everything that is not pinned, as long as "
        "pins take no more than `max_pinned_share` of the memory; see [Prewarming and pins](#prewarming-and-pins); "
        '`"kept_as": "chunk"`: the prompt is a passage that is computed alone, kept apart from texts; see '
        "[Passages computed once](#passages-computed-once); "
        '`compression` inside `cache`, `{"method": "knorm", "ratio": 0.5}`: the method removes that share of the KV of '
        "the prompt's first `compress_after` tokens (all but the last) before the others are computed; "
        '`{"method": "knorm", "budget": 50000000}`: prompt and answer are kept within so many bytes; '
        '`compress_when` beside it, `"pressure"`: only where the request would be preempted otherwise; '
        "`usage` then has `kvloom.compressed`, for every prompt that it was done to: the method, how many entries each "
        "layer and KV head keeps, bytes; "
        '`{"method": "exact"}`: nothing is removed, whatever the default; `guard` inside `cache`, '
        '`{"every": 8, "drift": 0.05}`: see [A guard](#a-guard); '
        "`lossy` inside `cache`, `true`: KV in fewer bits will do; see [KV in fewer bits](#kv-in-fewer-bits); "
        '`fusion` inside `cache`, `{"selector": "a3", "ratio": 0.15}`: documents have the KV that they have alone, '
        "repaired; see [Documents](#documents)"
    ),
    "tools": Served("functions that the model may call; see [Tools](#tools)"),
    "tool_choice": Served("`none`, `auto`, `required`, or the tool to call; `auto` unless told"),
    "parallel_tool_calls": Served("whether an answer may have several calls, where it has to call; true unless told"),
    "response_format": Served(
        "`text`, `json_object` or `json_schema`; see [The form of an answer](#the-form-of-an-answer)",
        extends=("CompletionRequest",),
    ),
    "structured_outputs": _ours("`json`, `regex`, `choice`, `grammar` or `json_object`: the form of the answer"),
    "guided_json": _ours("the same as `structured_outputs.json`"),
    "guided_regex": _ours("the same as `structured_outputs.regex`"),
    "guided_choice": _ours("the same as `structured_outputs.choice`"),
    "guided_grammar": _ours("the same as `structured_outputs.grammar`"),
    "guided_whitespace_pattern": _ours("white space that may stand in `guided_json`, as a regex"),
    "add_generation_prompt": Served(
        "end the prompt where an answer begins; true unless `continue_final_message` is", extends=("ChatRequest",)
    ),
    "continue_final_message": Served("continue the text of the last message", extends=("ChatRequest",)),
    "reasoning_effort": Served(
        "`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`: how much the model reasons, where its chat "
        "template has a switch for it; see [Reasoning](#reasoning)"
    ),
    "thinking_token_budget": Served(
        "tokens after which the model's reasoning is ended, where it is told apart; -1: no limit",
        extends=("ChatRequest",),
    ),
    "stream": Served("stream the answer as server-sent events"),
    "stream_options": Served("`include_usage`: usage in a final event; `continuous_usage_stats`: in every event"),
}

HINTS: Mapping[str, str] = {
    "user": "identifies the end user",
    "metadata": "tags for stored answers, which do not exist here",
    "store": "answers are not stored",
    "service_tier": "there is only one tier",
    "safety_identifier": "identifies the end user",
    "prediction": "only affects speed",
    "request_id": "use the header `x-request-id`, which the response echoes",
    "rid": "use the header `x-request-id`, which the response echoes",
    "session_id": "prefixes are matched by their tokens",
    "keep_alive": "the model stays loaded",
    "id_slot": "there are no slots",
    "n_keep": "prompts are never truncated",
    "n_discard": "prompts are never truncated",
    "stream_interval": "every step is streamed",
    "xtc_threshold": "only applies with `xtc_probability`",
    "dynatemp_exponent": "only applies with `dynatemp_range`",
    "smoothing_curve": "only applies with `smoothing_factor`",
    "mirostat_tau": "only applies with `mirostat`",
    "mirostat_eta": "only applies with `mirostat`",
    "dry_base": "only applies with `dry_multiplier`",
    "dry_allowed_length": "only applies with `dry_multiplier`",
    "dry_penalty_last_n": "only applies with `dry_multiplier`",
    "dry_sequence_breakers": "only applies with `dry_multiplier`",
    "adaptive_decay": "only applies with `adaptive_target`",
    "stream_reasoning": "reasoning is streamed where it is told apart",
    "mm_processor_kwargs": "input is text only",
    "media_io_kwargs": "input is text only",
}

MESSAGE_HINTS: Mapping[str, str] = {
    "annotations": "added by the API to answers, which clients send back",
}

MESSAGE_REFUSED: Mapping[str, str | None] = {
    "function_call": "use `tool_calls`",
    "audio": None,
    "prefix": "use `continue_final_message`",
}

_TEMPLATE = "set template variables with `chat_template_kwargs`"
_LIMIT = "use `max_tokens`"
_SCORES = "use `logprobs`; in chat, together with `top_logprobs`"
_GRAMMAR = Refused(instead="use `structured_outputs`")
_PENALTY = Refused((1, 1.0), "use `repetition_penalty`")
_SAMPLER = Refused(instead="the samplers are `temperature`, `top_k`, `top_p` and `min_p`")


def _sampler(*off: object) -> Refused:
    return Refused(off, _SAMPLER.instead)


REFUSED: Mapping[str, Refused] = {
    # tools, other media, other endpoints' fields
    "tools": Refused(([],), "`/v1/chat/completions` takes `tools`"),
    "tool_choice": Refused(("none", "auto"), "`/v1/chat/completions` takes `tools`"),
    "functions": Refused(([],), "use `tools`"),
    "function_call": Refused(("none", "auto"), "use `tool_choice`"),
    "modalities": Refused((["text"],)),
    "audio": Refused(),
    "web_search_options": Refused(),
    "moderation": Refused(),
    "documents": Refused(([],), "send them as parts of type `document` in a message"),
    "messages": Refused(instead="this endpoint takes a `prompt`; `/v1/chat/completions` takes `messages`"),
    "prompt": Refused(instead="this endpoint takes `messages`; `/v1/completions` takes a `prompt`"),
    "prompt_embeds": Refused(),
    "input": Refused(),
    "inputs": Refused(),
    "input_ids": Refused(instead="send token ids as `prompt` to `/v1/completions`"),
    "system": Refused(("",), "send a message with the role `system`"),
    "suffix": Refused(("",)),
    "lora_path": Refused(),
    "adapter_id": Refused(),
    # forms of the answer
    "format": Refused(("", "text"), "use `response_format`"),
    "guided_decoding_backend": Refused(("auto", "guidance"), "there is one backend"),
    "grammar": Refused(("",), _GRAMMAR.instead),
    "grammar_string": Refused(("",), _GRAMMAR.instead),
    "json_schema": _GRAMMAR,
    "regex": _GRAMMAR,
    "ebnf": _GRAMMAR,
    "structural_tag": _GRAMMAR,
    "verbosity": Refused(("medium",), "state it in the prompt"),
    "return_full_text": Refused((False,), "use `echo`"),
    "detokenize": Refused((True,)),
    "spaces_between_special_tokens": Refused((True,)),
    "return_hidden_states": Refused((False,)),
    "return_routed_experts": Refused((False,)),
    "return_prompt_text": Refused((False,), "use `/tokenize` and `/detokenize`"),
    # the chat template
    "add_generation_prompt": Refused((True,), "`/v1/chat/completions` takes it"),
    "continue_final_message": Refused((False,), "`/v1/chat/completions` takes it"),
    "chat_template": Refused(),
    "template": Refused(("",)),
    "raw": Refused((False,), "use `/v1/completions`"),
    # reasoning
    "reasoning": Refused(instead=_TEMPLATE),
    "reasoning_effort": Refused(instead="`/v1/chat/completions` takes it"),
    "reasoning_format": Refused(("auto", "deepseek"), "`--reasoning-parser` is the server's setting"),
    "reasoning_budget": Refused((-1,), "use `thinking_token_budget`"),
    "thinking_budget_tokens": Refused((-1,), "use `thinking_token_budget`"),
    "thinking_token_budget": Refused((-1,), "`/v1/chat/completions` takes it"),
    "include_reasoning": Refused((True,)),
    "separate_reasoning": Refused((True,), "`--reasoning-parser` is the server's setting"),
    "enable_thinking": Refused(instead=_TEMPLATE),
    "thinking": Refused(instead=_TEMPLATE),
    "think": Refused(instead=_TEMPLATE),
    # length and stops
    "n_predict": Refused((-1,), _LIMIT),
    "num_predict": Refused((-1,), _LIMIT),
    "max_new_tokens": Refused(instead=_LIMIT),
    "max_length": Refused(instead=_LIMIT),
    "min_new_tokens": Refused((0,), "use `min_tokens`"),
    "num_ctx": Refused(instead="the context length is set when the server starts"),
    "n_indent": Refused((0,)),
    "t_max_predict_ms": Refused((0, -1), _LIMIT),
    "length_penalty": Refused((1, 1.0), "there is no beam search"),
    "early_stopping": Refused((False,), "there is no beam search"),
    "use_beam_search": Refused((False,)),
    "num_beams": Refused((1,), "there is no beam search"),
    "stop_regex": Refused(([], ""), "use `stop`"),
    "no_stop_trim": Refused((False,), "use `include_stop_str_in_output`"),
    "custom_stop": Refused(([],), "use `stop`"),
    "truncate": Refused(),
    "truncate_prompt_tokens": Refused(),
    "truncation_side": Refused(),
    "repetition_detection": Refused(),
    # samplers
    "options": Refused(({},), "put its fields into the body itself"),
    "sampling_params": Refused(({},), "put its fields into the body itself"),
    "parameters": Refused(({},), "put its fields into the body itself"),
    "extra_body": Refused(({},), "put its fields into the body itself"),
    "vllm_xargs": Refused(({},)),
    "custom_params": Refused(({},)),
    "do_sample": Refused((True,), "`temperature: 0` is greedy"),
    "best_of": Refused((1,), "use `n`"),
    "repeat_penalty": _PENALTY,
    "rep_pen": _PENALTY,
    "encoder_repetition_penalty": Refused((1, 1.0)),
    "repeat_last_n": Refused((-1,), "`repetition_penalty` applies to the whole text"),
    "no_repeat_ngram_size": Refused((0,)),
    "penalty_alpha": Refused((0, 0.0)),
    "penalize_nl": Refused((False,)),
    "typical": _sampler(1, 1.0),
    "typical_p": _sampler(1, 1.0),
    "typ_p": _sampler(1, 1.0),
    "tfs": _sampler(1, 1.0),
    "tfs_z": _sampler(1, 1.0),
    "top_a": _sampler(0, 0.0),
    "top_n_sigma": _sampler(-1, -1.0, 0, 0.0),
    "epsilon_cutoff": _sampler(0, 0.0),
    "eta_cutoff": _sampler(0, 0.0),
    "xtc_probability": _sampler(0, 0.0),
    "dynatemp_range": _sampler(0, 0.0),
    "dynamic_temperature": _sampler(False),
    "smoothing_factor": _sampler(0, 0.0),
    "mirostat": _sampler(0),
    "mirostat_mode": _sampler(0),
    "dry_multiplier": _sampler(0, 0.0),
    "adaptive_target": _sampler(-1, -1.0),
    "samplers": _SAMPLER,
    "sampler_priority": _SAMPLER,
    "sampling_seed": Refused(instead="use `seed`"),
    "guidance_scale": Refused((1, 1.0)),
    "negative_prompt": Refused(("",)),
    "min_keep": Refused((0, 1)),
    "watermark": Refused((False,)),
    "watermarking": Refused((False,)),
    "allowed_token_ids": Refused(),
    "bad_words": Refused(([],)),
    "logits_processors": Refused(([],)),
    "custom_logit_processor": Refused(),
    "ban_eos_token": Refused((False,), "use `ignore_eos`"),
    "custom_token_bans": Refused(("",), "use `logit_bias`"),
    # scores
    "top_logprobs": Refused((0,), "use `logprobs` with a number"),
    "logprob_token_ids": Refused(instead=_SCORES),
    "n_probs": Refused((0,), _SCORES),
    "top_n_tokens": Refused((0,), _SCORES),
    "return_logprob": Refused((False,), _SCORES),
    "post_sampling_probs": Refused((False,), _SCORES),
    "details": Refused((False,), _SCORES),
    "decoder_input_details": Refused((False,), "use `prompt_logprobs`"),
    "max_completion_tokens": Refused(instead=_LIMIT),
    "return_tokens": Refused((False,), "use `return_token_ids`"),
    # scheduling and caching
    "cache_prompt": Refused((True,), 'use `"kvloom": {"cache": {"read": false}}`'),
    "priority": Refused((0,)),
    "speculative": Refused((False,)),
    "kv_transfer_params": Refused(({},)),
    "ec_transfer_params": Refused(({},)),
}
