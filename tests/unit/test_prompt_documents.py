"""Documents in prompts: the same tokens wherever they stand, whatever a template does around them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import PromptTooLong, RequestError
from kvloom.model.text.documents import MOST_DOCUMENTS, Documents, Encoded, Placeholders
from kvloom.model.text.tokenizer import Tokenizer
from trained_tokenizer import trained_tokenizer

PLAIN = "{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
TRIMMING = "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}"
LISTS = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}|{% endfor %}"
EITHER = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content if p.type == 'text' %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"
)
TEMPLATES = [PLAIN, TRIMMING, LISTS, EITHER]
FOX, JUMPS = "The quick brown fox", "jumps over it.\n"

texts = st.text(st.sampled_from("The quick brown fox, 123 jumps\n é<>{}[]-0"), min_size=1, max_size=40)


def document(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "document", "text": text, **more}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def encoded(turns: list[dict[str, Any]], template: str) -> tuple[Encoded, str, Tokenizer]:
    """Tokens and spans; the prompt as people read it."""
    tokenizer = trained_tokenizer(chat_template=template)
    documents = Documents.of(turns, Placeholders.new())
    prompt = tokenizer.chat_prompt(documents.hidden(turns))
    documents.check(prompt)
    return documents.encoded(prompt, tokenizer.encode, False, None), documents.shown(prompt), tokenizer


@pytest.mark.parametrize("template", TEMPLATES)
@given(said=st.lists(st.tuples(st.booleans(), texts), min_size=1, max_size=6))
def test_every_document_has_the_tokens_that_it_has_alone(template: str, said: list[tuple[bool, str]]) -> None:
    turns = [user(*(document(each) if marked else text(each) for marked, each in said))]
    found, shown, tokenizer = encoded(turns, template)
    marked = [each for is_document, each in said if is_document]
    assert [found.ids[start:stop] for start, stop in found.documents] == [tokenizer.encode(it, False) for it in marked]
    assert list(found.documents) == sorted(found.documents)
    assert tokenizer.decode(found.ids, skip_special_tokens=False) == shown


@pytest.mark.parametrize("template", [PLAIN, LISTS, EITHER])
def test_the_prompt_is_that_of_the_same_texts(template: str) -> None:
    """Where a template leaves texts as they are."""
    parts = [text("Read."), document(FOX, title="A fox"), document(JUMPS), text("Who jumps?")]
    plain = [text("Read."), text(f"A fox\n{FOX}"), text(JUMPS), text("Who jumps?")]
    _, shown, tokenizer = encoded([{"role": "system", "content": "Be brief."}, user(*parts)], template)
    assert shown == tokenizer.chat_prompt([{"role": "system", "content": "Be brief."}, user(*plain)])


def test_a_template_trims_what_is_around_documents_and_not_documents() -> None:
    _, shown, _ = encoded([user(text(" Read."), document(" fox "))], TRIMMING)
    assert shown == "<user> Read.\n fox \n"


def test_title_and_context_stand_before_the_text() -> None:
    _, shown, _ = encoded([user(document(FOX, title="T", context="C"), document(JUMPS, title=None))], LISTS)
    assert shown == f"T\nC\n{FOX}{JUMPS}|"


def test_without_documents_the_tokens_are_those_of_the_text() -> None:
    found, shown, tokenizer = encoded([user(text(FOX), text(JUMPS))], PLAIN)
    assert found == Encoded(tokenizer.encode(shown, False))


def test_nobody_can_write_a_placeholder() -> None:
    """Two prompts have no placeholder in common, and what looks like one is text."""
    one, other = Placeholders.new(), Placeholders.new()
    assert one.of(0) != other.of(0)
    documents = Documents.of([user(text(other.of(0)), document(FOX))], one)
    (turn,) = documents.hidden([user(text(other.of(0)), document(FOX))])
    assert documents.shown("".join(part["text"] for part in turn["content"])) == other.of(0) + FOX


def test_more_than_ten_documents_are_told_apart() -> None:
    found, shown, tokenizer = encoded([user(*(document(f"fox {n}") for n in range(25)))], LISTS)
    assert shown == "".join(f"fox {n}" for n in range(25)) + "|"
    assert [tokenizer.decode(found.ids[a:b]) for a, b in found.documents] == [f"fox {n}" for n in range(25)]


def test_special_tokens_stand_before_all() -> None:
    tokenizer = trained_tokenizer(chat_template=LISTS)
    documents = Documents.of([user(document(FOX))], Placeholders.new())
    calls = []

    def encode(said: str, special: bool | None = True, max_tokens: int | None = None) -> list[int]:
        calls.append((said, special))
        return tokenizer.encode(said, special, max_tokens)

    documents.encoded(documents.placeholders.of(0) + "?", encode, True, None)
    assert calls == [("", True), (FOX, False), ("?", False)]


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        ({"role": "assistant", "content": [document(FOX)]}, "role 'assistant'"),
        ({"role": "tool", "content": [document(FOX)]}, "role 'tool'"),
        (user({"type": "document"}), "has no `text`"),
        (user(document(FOX, title=3)), "`title` of a document"),
        (user(document("")), "document 0 is empty"),
        (user(*[document(FOX)] * (MOST_DOCUMENTS + 1)), f"at most {MOST_DOCUMENTS}"),
    ],
)
def test_documents_that_cannot_be(turn: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        encoded([turn], LISTS)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
        "{{ messages[0].content }}{{ messages[0].content }}",
        "{{ messages[0].content[:20] }}",
    ],
)
def test_a_template_that_does_not_show_a_document_once(template: str) -> None:
    with pytest.raises(RequestError, match="does not show every document once"):
        encoded([{"role": "system", "content": [text("x"), document(FOX)]}, user(text("?"))], template)


def test_a_prompt_that_is_too_long() -> None:
    documents = Documents.of([user(document("fox " * 30), document("fox " * 30))], Placeholders.new())
    prompt = documents.placeholders.of(0) + documents.placeholders.of(1)
    tokenizer = trained_tokenizer()
    whole = documents.encoded(prompt, tokenizer.encode, False, None)
    assert documents.encoded(prompt, tokenizer.encode, False, len(whole.ids)) == whole
    with pytest.raises(PromptTooLong, match="documents included"):
        documents.encoded(prompt, tokenizer.encode, False, len(whole.ids) - 1)
