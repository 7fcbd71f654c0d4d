"""NoLiMa's rule: needle and question share no word that means something."""

from __future__ import annotations

import re

import pytest

from kvloom.eval.tasks import TASKS
from kvloom.eval.tasks.nolima import content_words, one_hop, two_hop
from offline_tasks import samples_of


def test_needle_and_question_share_no_content_word() -> None:
    for association in (*one_hop(), *two_hop()):
        shared = content_words(association.needle.replace("{name}", "")) & content_words(association.question)
        assert not shared, association
        assert association.needle.count("{name}") == 1


def test_shared_words_would_be_found() -> None:
    assert content_words("She plays the violins") & content_words("Who was playing a violin?") == {"play", "violin"}


def test_there_are_enough_facts() -> None:
    assert len({association.question for association in one_hop()}) > 80
    assert len(one_hop()) + len(two_hop()) > 400


@pytest.mark.parametrize("name", ["nolima_one_hop", "nolima_two_hop"])
def test_the_rest_of_the_text_gives_nothing_away(name: str) -> None:
    for sample in samples_of(TASKS[name], 1024, 30):
        needle, turn = sample.facts["needle"], sample.turns[0]
        hay = sample.context.partition("\n\n")[2].replace(needle, "")
        assert needle in sample.context
        assert turn.answers[0] in needle
        assert turn.answers[0] not in hay
        asked = turn.question.removeprefix("\n\nQuestion: ")
        words = {word for word in re.findall("[a-z]+", asked.lower()) if content_words(word)}
        assert words
        assert not words & set(re.findall("[a-z]+", hay.lower()))
