"""Turn the vocabulary inside a GGUF into a tokenizer.json, so that start-up only reads one file.

Two kinds exist: byte-level BPE ("gpt2"; the file lists the merges and names its pre-tokenizer) and SentencePiece BPE
("llama"; merges follow from the scores: the pair whose piece scores highest is joined first).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvloom.errors import ModelFileError, UnsupportedModel
from kvloom.model.files.generation_config import gguf_recommended
from kvloom.model.files.turn_ends import is_marker, turn_ends
from kvloom.model.text.rules import TextRules

_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
_SPACE = "▁"
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Bpe:
    """A byte-level pre-tokenizer. ``split`` None: GPT-2's own pattern. ``add_bos``: if the file does not say."""

    split: str | None = None
    digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_PRE: dict[str, _Bpe] = {
    "default": _Bpe(),
    "gpt-2": _Bpe(),
    "smollm": _Bpe(digits=True),
    "llama-bpe": _Bpe(_LLAMA3_SPLIT, ignore_merges=True, add_bos=True),
    "llama3": _Bpe(_LLAMA3_SPLIT, ignore_merges=True, add_bos=True),
    "llama-v3": _Bpe(_LLAMA3_SPLIT, ignore_merges=True, add_bos=True),
    "qwen2": _Bpe(_QWEN2_SPLIT, nfc=True),
    "deepseek-r1-qwen": _Bpe(_QWEN2_SPLIT, nfc=True),
    "tekken": _Bpe(_TEKKEN_SPLIT, ignore_merges=True, add_bos=True),
}
"""By ``tokenizer.ggml.pre``."""

_NAMED = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # the format's own spelling
    "pad_token": "padding",
    "mask_token": "mask",
}
_ENDS = ("eos", "eot", "eom")
_TEMPLATE_MARKER = re.compile(r"<\|[^|<>\s]+\|>")


def gguf_tokenizer_json(metadata: Mapping[str, Any], origin: str) -> str:
    """The text of a tokenizer.json. Raises ModelFileError and UnsupportedModel."""
    vocab = _Vocab.read(metadata, origin)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        parts = _byte_level(vocab, metadata, origin)
    elif kind == "llama":
        parts = _sentence_piece(vocab, metadata, origin)
    else:
        raise UnsupportedModel(
            f"`{origin}` has tokenizer `{kind}`; kvloom reads gpt2 (byte-level BPE) and llama (SentencePiece)"
        )
    common = {"version": "1.0", "truncation": None, "padding": None}
    return json.dumps(common | parts | {"post_processor": _post_processor(vocab, metadata, parts)}, ensure_ascii=False)


def gguf_text_rules(metadata: Mapping[str, Any], origin: str) -> TextRules:
    """Which tokens end a text, which one starts it, and the chat template."""
    vocab = _Vocab.read(metadata, origin)
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    return TextRules(
        eos_token_ids=tuple(sorted(vocab.ends)),
        bos_token_id=None if bos is None else int(bos),
        special_tokens=_special_tokens(metadata, vocab.tokens, origin),
        chat_template=metadata.get("tokenizer.chat_template"),
        sampling=gguf_recommended(metadata, f"`{origin}`"),
        twins=_twins(vocab, metadata.get("tokenizer.ggml.model") == "llama"),
    )


def _special_tokens(metadata: Mapping[str, Any], tokens: Sequence[str], origin: str) -> dict[str, str]:
    found = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _NAMED.items()}
    return {name: _text(tokens, int(token), origin) for name, token in found.items() if token is not None}


def _text(tokens: Sequence[str], token: int, origin: str) -> str:
    if not 0 <= token < len(tokens):
        raise ModelFileError(f"`{origin}` names token {token}; its vocabulary has {len(tokens)}")
    return tokens[token]


def _twins(vocab: _Vocab, sentence_piece: bool) -> tuple[tuple[int, int], ...]:
    """Ids that a tokenizer.json cannot represent because a later one has the same text, each with that one."""
    rename = _spelled_out(vocab) if sentence_piece else {}
    spellings = [rename.get(text, text) for text in vocab.tokens]
    named = {spelling: index for index, spelling in enumerate(spellings)}
    return tuple((index, named[text]) for index, text in enumerate(spellings) if named[text] != index)


@dataclass(frozen=True, slots=True)
class _Vocab:
    """``types``: corrected token types. ``ends``: the tokens that end a text or a turn."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]
    ends: frozenset[int]

    @staticmethod
    def read(metadata: Mapping[str, Any], origin: str) -> _Vocab:
        tokens = metadata.get("tokenizer.ggml.tokens")
        if not tokens:
            raise ModelFileError(f"`{origin}` has no vocabulary (tokenizer.ggml.tokens)")
        types = [int(kind) for kind in metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))]
        if len(types) != len(tokens):
            raise ModelFileError(f"`{origin}` has {len(tokens)} tokens but {len(types)} token types")
        ids = {text: index for index, text in enumerate(tokens)}
        template = metadata.get("tokenizer.chat_template")
        special = _special_tokens(metadata, tokens, origin)
        named = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in _ENDS]
        ends = {int(token) for token in named if token is not None}
        ends |= {ids[text] for text in turn_ends(template, special, ids)}
        controls = {ids[text] for text in special.values()} | ends
        _mend_types(types, tokens, ids, controls, template)
        return _Vocab(tokens, types, ids, frozenset(ends))

    def text(self, token: int, origin: str) -> str:
        return _text(self.tokens, token, origin)

    def added(self, normalized: bool, rename: Mapping[str, str]) -> list[dict[str, Any]]:
        """Control tokens are special; user-defined ones are matched as whole pieces of text."""
        return [
            {
                "id": index,
                "content": rename.get(text, text),
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": kind == _USER and normalized,
                "special": kind != _USER,
            }
            for index, (text, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in (_CONTROL, _USER, _UNKNOWN)
        ]


def _mend_types(
    types: list[int], tokens: Sequence[str], ids: Mapping[str, int], controls: Iterable[int], template: str | None
) -> None:
    """Some files mark control tokens as normal text: they would be split in prompts and shown in answers."""
    for token in controls:
        if token < len(tokens) and types[token] in (_NORMAL, _USER) and is_marker(tokens[token]):
            types[token] = _CONTROL
    for marker in ids.keys() & set(_TEMPLATE_MARKER.findall(template or "")):
        if types[ids[marker]] == _NORMAL:
            types[ids[marker]] = _USER


def _byte_level(vocab: _Vocab, metadata: Mapping[str, Any], origin: str) -> dict[str, Any]:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _PRE:
        raise UnsupportedModel(
            f"`{origin}` has pre-tokenizer `{pre}`, which kvloom does not know",
            hint=f"it knows {', '.join(_PRE)}",
        )
    rules = _PRE[pre]
    merges = [merge.split(" ", 1) for merge in metadata.get("tokenizer.ggml.merges", [])]
    steps: list[dict[str, Any]] = []
    if rules.digits:
        steps.append({"type": "Digits", "individual_digits": True})
    if rules.split is not None:
        steps.append({"type": "Split", "pattern": {"Regex": rules.split}, "behavior": "Isolated", "invert": False})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps.append(byte_level | {"use_regex": rules.split is None})
    return {
        "added_tokens": vocab.added(normalized=False, rename={}),
        "normalizer": {"type": "NFC"} if rules.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": byte_level | {"use_regex": True},
        "model": _bpe_model(vocab.ids, merges, ignore_merges=rules.ignore_merges),
    }


def _sentence_piece(vocab: _Vocab, metadata: Mapping[str, Any], origin: str) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(vocab.tokens):
        raise ModelFileError(f"`{origin}` has {len(vocab.tokens)} tokens but no score for each")
    rename = _spelled_out(vocab)
    ids = {rename.get(text, text): index for index, text in enumerate(vocab.tokens)}
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        # With a prepended space, the library would also prepend one to the pieces to look for.
        "added_tokens": vocab.added(normalized=not prefix, rename=rename),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}],
        },
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe_model(
            ids,
            _merges_by_score(vocab, scores.tolist()),
            unk_token=None if unknown is None else vocab.text(int(unknown), origin),
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _spelled_out(vocab: _Vocab) -> dict[str, str]:
    """GGUF writes runs of spaces among the user-defined tokens as spaces; pieces spell a space as ▁."""
    return {t: t.replace(" ", _SPACE) for t, kind in zip(vocab.tokens, vocab.types, strict=True) if kind == _USER}


def _merges_by_score(vocab: _Vocab, scores: list[float]) -> list[list[str]]:
    """Every split of every piece into two pieces, best-scored piece first."""
    pieces = {text: index for index, text in enumerate(vocab.tokens) if vocab.types[index] == _NORMAL}

    lengths = sorted({len(text) for text in pieces})

    def splits(text: str) -> Iterator[tuple[str, str]]:
        for cut in lengths:  # not all cuts: one piece of 200,000 letters would take seconds
            if cut >= len(text):
                break
            if text[:cut] in pieces and text[cut:] in pieces:
                yield text[:cut], text[cut:]

    ranked = sorted(pieces.items(), key=lambda item: -scores[item[1]])
    return [
        [left, right]
        for text, _ in ranked
        for left, right in sorted(splits(text), key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
    ]


def _bpe_model(ids: Mapping[str, int], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    defaults = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return defaults | options | {"vocab": dict(ids), "merges": merges}


def _post_processor(vocab: _Vocab, metadata: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Add the start and end tokens to a text, if the file says so."""
    sentence_piece = parts["model"]["byte_fallback"]
    begins = sentence_piece or _PRE[metadata.get("tokenizer.ggml.pre", "default")].add_bos
    wanted = {
        "bos": metadata.get("tokenizer.ggml.add_bos_token", begins),
        "eos": metadata.get("tokenizer.ggml.add_eos_token", False),
    }
    ids = {key: metadata.get(f"tokenizer.ggml.{key}_token_id") for key, on in wanted.items() if on}
    used = {key: vocab.text(int(token), "tokenizer") for key, token in ids.items() if token is not None}
    if not used:
        return None
    around = {key: [{"SpecialToken": {"id": text, "type_id": 0}}] for key, text in used.items()}
    single = [*around.get("bos", []), {"Sequence": {"id": "A", "type_id": 0}}, *around.get("eos", [])]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text: {"id": text, "ids": [vocab.ids[text]], "tokens": [text]} for text in used.values()},
    }
