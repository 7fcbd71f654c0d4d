"""Prompts in a chat: the header is compressed with the context, the rest follows the question, lengths include both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kvloom.errors import EvalError, RunMismatch
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.estimate import pending
from kvloom.eval.frame import Frame, frame_of
from kvloom.eval.policy import EXACT
from kvloom.eval.prompt import prompts_of
from kvloom.eval.records import Row, RunStore, read_rows
from kvloom.eval.run import Work, run, settings_of
from kvloom.eval.subject import Subject
from kvloom.eval.task import Sample, Turn
from kvloom.model.text.chat import render_chat
from kvloom.model.text.messages import normal_messages
from tiny import CharTokenizer
from toy_tasks import ToyNeedle, tiny_subject

TEMPLATES = {
    "chatml": "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}<|assistant|>",
    "trims": "{{ 'S: be kind ' }}{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}",
    "thinks": "{{ messages[0]['content'] }}{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}",
}


class ChatTokenizer(CharTokenizer):
    """Characters, and a template rendered as models' own are."""

    has_chat_template = True
    template = TEMPLATES["chatml"]

    def chat_prompt(
        self, messages: list[dict], add_generation_prompt: bool = True, chat_template_kwargs: Any = None
    ) -> str:
        return render_chat(self.template, normal_messages(messages, self.template), chat_template_kwargs or {})


def chatting(template: str = TEMPLATES["chatml"]) -> Subject:
    tokenizer = ChatTokenizer()
    tokenizer.template = template
    return dataclasses.replace(tiny_subject(), tokenizer=tokenizer)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_framed_prompt_is_the_one_that_the_template_writes(template: str) -> None:
    """The oracle is the template itself, over context and question as one message."""
    subject = chatting(template)
    frame = frame_of(subject)
    assert frame is not None
    turns = tuple(Turn(question=f"\n\nQuestion: {n}?\n", answers=("x",), max_new_tokens=1) for n in range(2))
    sample = Sample(task="t", index=0, length=300, context="A long text.", turns=turns, answer_prefix="It is", facts={})
    whole = [
        subject.tokenizer.chat_prompt(  # type: ignore[attr-defined]
            [{"role": "user", "content": f"A long text.\n\nQuestion: {n}?"}], chat_template_kwargs={}
        )
        for n in range(2)
    ]
    prompts = prompts_of(ToyNeedle(), sample, subject, frame)
    assert [subject.tokenizer.decode(prompt.ids) for prompt in prompts] == [f"{text}It is" for text in whole]
    assert prompts[0].context_ids == prompts[1].context_ids
    assert subject.tokenizer.decode(prompts[0].context_ids) == f"{frame.header}A long text."
    go_on = prompts_of(ToyNeedle(), dataclasses.replace(sample, chat=False), subject, frame)
    assert subject.tokenizer.decode(go_on[0].ids) == "A long text.\n\nQuestion: 0?\nIt is"


def test_instruct_models_chat_unless_told_not_to_and_others_cannot() -> None:
    assert frame_of(chatting()) == frame_of(chatting(), True) == Frame("<|user|>\n", "<|end|>\n<|assistant|>")
    assert frame_of(chatting(), False) is None
    assert frame_of(tiny_subject()) is None
    with pytest.raises(EvalError, match="`tiny` has no chat template"):
        frame_of(tiny_subject(), True)
    for template in ("nothing of it", "{{ messages[0]['content'] }} and {{ messages[0]['content'] }}"):
        with pytest.raises(EvalError, match="does not render messages"):
            frame_of(chatting(template))


def go(place: Path, subject: Subject, frame: Frame | None) -> list[Row]:
    work = Work(tasks=(ToyNeedle(),), lengths=(120,), count=3, seed=1, frame=frame)
    assert pending(work, subject).prompts == 3
    with RunStore(place, settings_of(subject, EXACT, seed=1, in_flight=2, frame=frame)) as store:
        run(work, subject, EngineAnswers(subject, 2, EXACT), store)
    return read_rows(place)


def test_a_chat_takes_its_place_from_the_length_and_is_a_protocol_of_its_own(tmp_path: Path) -> None:
    subject = chatting(TEMPLATES["trims"])
    plain, chat = go(tmp_path / "plain", subject, None), go(tmp_path / "chat", subject, frame_of(subject))
    assert [row.length for row in plain] == [row.length for row in chat] == [120] * 3
    assert max(row.prompt_tokens for row in chat) <= 117  # three are for the answer
    assert plain[0].settings.asked != chat[0].settings.asked
    with pytest.raises(RunMismatch, match="chat '' -> "):
        go(tmp_path / "plain", subject, frame_of(subject))
