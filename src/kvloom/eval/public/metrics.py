"""Metrics of the public benchmarks, as the authors' code computes them; each names its source.

A metric takes (output, answers, facts) and returns a score from 0 to 1. With several answers the best score counts, as
in all of the benchmarks.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from kvloom.errors import EvalError
from kvloom.eval.public.base import Metric
from kvloom.eval.tasks.scoring import normalized

Facts = Mapping[str, Any]

_CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃"
    "》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_UUID = re.compile(r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b")
_OPTIONS = "ABCD"
_LAST_OPTION = re.compile(r"\b[A-D]\b(?!.*\b[A-D]\b)")
_LAST_BUG_OPTION = re.compile(r"\b[A-J]\b(?!.*\b[A-J]\b)")


def best_of(one: Callable[[str, str], float]) -> Metric:
    """Extend a metric for one answer to several: the best score counts."""
    return lambda output, answers, facts: max(one(output, answer) for answer in answers)


def first_line(metric: Metric) -> Metric:
    """Apply a metric to the first non-empty line only. Source: LongBench (trec, triviaqa, samsum, lsht)."""
    return lambda output, answers, facts: metric(output.lstrip("\n").split("\n")[0], answers, facts)


def contained(output: str, answers: Sequence[str], facts: Facts) -> float:
    """Whether the output contains an answer. Source: NoLiMa."""
    return float(any(answer in output for answer in answers))


def qa_f1(output: str, answers: Sequence[str], facts: Facts) -> float:
    """Word F1 after SQuAD's normalization; 0 without a common word. Source: LongBench qa_f1_score, InfiniteBench."""
    return max(_overlap(normalized(output).split(), normalized(answer).split()) for answer in answers)


def characters_f1(output: str, answers: Sequence[str], facts: Facts) -> float:
    """F1 over characters. Source: InfiniteBench, qa_f1_score_zh."""
    return max(_overlap(list(_plain_chinese(output)), list(_plain_chinese(answer))) for answer in answers)


def chinese_f1(output: str, answers: Sequence[str], facts: Facts) -> float:
    """F1 over words as segmented by jieba. Source: LongBench, qa_f1_zh_score."""
    return max(_overlap(_chinese_words(output), _chinese_words(answer)) for answer in answers)


def share_of_numbers(output: str, answer: str) -> float:
    """Fraction of the numbers in the output that equal the answer. Source: LongBench, count and retrieval scores."""
    wanted = re.findall(r"\d+", answer)[0]
    found = re.findall(r"\d+", output)
    return found.count(wanted) / len(found) if found else 0.0


def first_number(output: str, answer: str) -> float:
    """Whether the first number is the answer. Source: InfiniteBench passkey; 100-LongBench acc_score."""
    found = re.search(r"\d+", output)
    return float(found is not None and found[0] == answer)


def first_value(output: str, answer: str) -> float:
    """Whether the first whole or decimal number equals the answer. Source: InfiniteBench, math_find."""
    found = re.search(r"\d+\.\d+|\d+", output)
    return float(found is not None and float(found[0]) == float(answer))


def right_prefix(output: str, answer: str) -> float:
    """Fraction of a list of numbers that is correct up to the first error. Source: InfiniteBench, math_calc."""
    wanted, found = ([int(number) for number in re.findall(r"\d+", text)] for text in (answer, output))
    right = next((n for n, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), None)
    return (min(len(wanted), len(found)) if right is None else right) / len(wanted)


def last_word_number(output: str, answer: str) -> float:
    """Whether the last word is the number. Source: InfiniteBench, code_run."""
    words = _spaced(output, "\n.`'\":").split()
    return float(bool(words) and re.fullmatch(r"[-+]?\d+", words[-1]) is not None and int(words[-1]) == int(answer))


def word_among(output: str, answer: str) -> float:
    """Whether the answer is a word of the output. Source: InfiniteBench, kv_retrieval."""
    return float(answer in _spaced(output, "\n:\"'.,?!{}").split())


def name_among(output: str, answers: Sequence[str], facts: Facts) -> float:
    """Whether the first answer is a word of the output, ignoring case. Source: InfiniteBench, longdialogue."""
    return float(answers[0] in _spaced(output, "\n:\"'.,?!{}").upper().split())


def chosen_option(output: str, answers: Sequence[str], facts: Facts) -> float:
    """Whether the output chooses the right option, found by the authors' rules in this order.

    The last option letter on the first line that has one; the option's text; what follows a phrase such as "answer is";
    the first word that is an option letter. ``answers``: text and letter of the right option. Source: InfiniteBench,
    longbook_choice_eng.
    """
    said = output.strip()
    letter = _LAST_OPTION.search(said)
    if letter and letter[0] in answers:
        return 1.0
    if not said or said[0] in _OPTIONS:
        return float(said[:1] in answers)
    if said in answers:
        return 1.0
    text = re.sub(" +", " ", _spaced(said, "\n\"'.,?!{}"))
    for phrase in ("answer is:", "answer:", "answer is", "option is"):
        if phrase in text:
            return _begins(text.partition(phrase)[2], answers)
    word = next((word for word in text.split() if word in _OPTIONS), None)
    return float(word in answers)


def chosen_bug(output: str, answers: Sequence[str], facts: Facts) -> float:
    """Whether the output chooses the right option, found by the authors' rules in this order.

    The last option letter on the first line that has one; the beginning of the output; what follows a phrase such as
    "answer is:". ``answers``: text (a function's name) and letter of the right option. Source: InfiniteBench,
    code_debug.
    """
    said = output.strip()
    letter = _LAST_BUG_OPTION.search(said)
    if letter and letter[0] == answers[1]:
        return 1.0
    text = re.sub(" +", " ", re.sub("[Oo]ption", " ", _spaced(said, "\n`'\"-*")))
    if text.startswith(tuple(answers)):
        return 1.0
    for phrase in ("answer is:", "is:", "answer:"):
        if phrase in text:
            return _begins(text.partition(phrase)[2], answers)
    return 0.0


def _begins(text: str, answers: Sequence[str]) -> float:
    """Whether a text begins with an answer after its first character, which is usually a space."""
    return float(text[1:].startswith(tuple(answers)))


def stated_option(output: str, answer: str) -> float:
    """Whether "The correct answer is" is followed by the right letter. Source: LongBench v2, extract_answer."""
    text = output.replace("*", "")
    found = re.search(r"The correct answer is \(([A-D])\)", text) or re.search(r"The correct answer is ([A-D])", text)
    return float(found is not None and found[1] == answer)


def last_uuid(output: str, answer: str) -> float:
    """Whether the last UUID is the answer. Source: 100-LongBench, kv_retrieval_score."""
    found = _UUID.findall(output)
    return float(bool(found) and found[-1] == answer)


def code_similarity(output: str, answer: str) -> float:
    """Similarity of the first line of code. Source: LongBench, code_sim_score (fuzzywuzzy's ratio)."""
    lines = output.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return round(100 * difflib.SequenceMatcher(None, line, answer).ratio()) / 100


def classification(output: str, answers: Sequence[str], facts: Facts) -> float:
    """1 / (number of classes named) if the right one is among them, else 0. Source: LongBench, classification_score."""
    return max(_classified(output, answer, facts["all_classes"]) for answer in answers)


def _classified(output: str, answer: str, classes: Sequence[str]) -> float:
    named = [each for each in classes if each in output]
    for each in named:  # removes while iterating, as in the authors' code
        if each in answer and each != answer:
            named.remove(each)
    return 1.0 / len(named) if answer in named else 0.0


def rouge_l(output: str, answer: str) -> float:
    """ROUGE-L F1. Source: LongBench, rouge_score (package rouge)."""
    return _rouge(output, answer)["f"]


def rouge_l_recall(output: str, answer: str) -> float:
    """ROUGE-L recall. Source: LooGLE, get_rouge_score (package rouge)."""
    return _rouge(output, answer)["r"]


def rouge_l_chinese(output: str, answer: str) -> float:
    """ROUGE-L F1 over words as segmented by jieba. Source: LongBench, rouge_zh_score."""
    jieba = _needed("jieba")
    return rouge_l(" ".join(jieba.cut(output, cut_all=False)), " ".join(jieba.cut(answer, cut_all=False)))


def rouge_l_sum(output: str, answer: str) -> float:
    """ROUGE-Lsum F1. Source: InfiniteBench, longbook_sum (package rouge-score)."""
    scorer = _needed("rouge_score.rouge_scorer").RougeScorer(["rougeLsum"])
    return float(scorer.score(answer, output)["rougeLsum"].fmeasure)


def partial_cloze(output: str, answers: Sequence[str], facts: Facts) -> float:
    """Fraction of the masked names of which at least one word was found. Source: LooGLE, get_partial_match."""
    wanted: Mapping[str, str] = facts["names"]
    try:
        found = ast.literal_eval(output.strip())
        assert isinstance(found, dict)
    except (ValueError, SyntaxError, AssertionError, MemoryError, RecursionError):
        return 0.0
    return sum(bool(set(wanted[key].split()) & set(str(found.get(key, "")).split())) for key in wanted) / len(wanted)


def oolong_answer(output: str, answers: Sequence[str], facts: Facts) -> float:
    """Exact match; 0.75 ** error for numbers; dates match by day. Source: Oolong, synth_process_response."""
    said, wanted = _oolong_parsed(output), answers[0]
    if said == wanted:
        return 1.0
    if said in ("more common", "less common", "same frequency"):
        return float(said in wanted)
    kind = facts.get("answer_type")
    if kind == "ANSWER_TYPE.NUMERIC" and all(re.fullmatch(r"\s*[-+]?\d+\s*", text) for text in (said, wanted)):
        return float(0.75 ** abs(int(wanted) - int(said)))
    if kind == "ANSWER_TYPE.DATE":
        try:
            return float(_needed("dateutil.parser").parse(said) == datetime.fromisoformat(wanted))
        except (ValueError, OverflowError):
            return 0.0
    return 0.0


def _oolong_parsed(output: str) -> str:
    if ":" not in output:
        return output if len(output) < 20 else (output.split() or [""])[-1]
    said = output.split(":")[-1].strip().translate(str.maketrans("", "", "*[]"))
    if len(said) >= 20:
        return next((phrase for phrase in ("more common", "less common", "same frequency") if phrase in said), said)
    return said


def _overlap(found: Sequence[str], wanted: Sequence[str]) -> float:
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def _plain_chinese(text: str) -> str:
    dropped = set(string.punctuation + _CHINESE_PUNCTUATION)
    return "".join("".join(each for each in text.lower() if each not in dropped).split())


def _chinese_words(text: str) -> list[str]:
    return [plain for word in _needed("jieba").cut(text, cut_all=False) if (plain := _plain_chinese(word))]


def _spaced(text: str, marks: str) -> str:
    return text.translate(str.maketrans(marks, " " * len(marks)))


def _rouge(output: str, answer: str) -> dict[str, float]:
    rouge = _needed("rouge").Rouge()
    try:
        scores: dict[str, float] = rouge.get_scores([output], [answer])[0]["rouge-l"]
    except (ValueError, RecursionError):  # the output has nothing but full stops; 0 as in the authors' code
        return {"f": 0.0, "r": 0.0, "p": 0.0}
    return scores


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0].replace("_", "-")
        raise EvalError(f"this metric needs the package `{package}`", hint="pip install 'kvloom[eval]'") from None
