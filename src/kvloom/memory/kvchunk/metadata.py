"""What stands in the header of a kvchunk file, version 1: ``docs/kvchunk.md`` describes every field."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast, get_args

import numpy as np

from kvloom.memory.kvchunk.chunk import Identity, Kind, KvChunk, Slice, Turn
from kvloom.memory.kvchunk.container import Entry, Header
from kvloom.memory.kvchunk.numbers import Dtype
from kvloom.memory.kvchunk.refusal import ChunkRefused, Refusal

FORMAT, VERSION = "kvchunk", "1"
NO_DIGEST = "0" * 32

_DIGEST = b'"digest":"'
_NAME = re.compile(r"([kv])\.(0|[1-9][0-9]{0,5})")
_CONSTANT = {"quantizer": "none", "rope_state": "none", "base_position": "0", "layout": "heads,tokens,dim"}
_FIELDS = {
    *("format", "version", "kind", "model", "tokenizer", "namespace", "n", "lead", "tokens", "key", "rope", "slice"),
    *("same_bits", "created_by", "digests", "digest"),
    *_CONSTANT,
}


@dataclass(frozen=True, slots=True)
class Described:
    """What a header says: a chunk without its numbers. ``k``, ``v``: the tensors by layer. ``digests``: by tensor."""

    identity: Identity
    turns: tuple[Turn, ...]
    same_bits: str
    created_by: str
    digests: Mapping[str, str]
    digest: str
    k: Mapping[int, Entry]
    v: Mapping[int, Entry]

    @property
    def k_dtype(self) -> Dtype:
        return cast("Dtype", next(iter(self.k.values())).dtype)

    @property
    def v_dtype(self) -> Dtype:
        return cast("Dtype", next(iter(self.v.values())).dtype)

    @property
    def nbytes(self) -> int:
        """Of the numbers."""
        return sum(entry.nbytes for of_layers in (self.k, self.v) for entry in of_layers.values())


def token_bytes(tokens: Sequence[int]) -> bytes:
    return np.array(tokens, "<i4").tobytes()


def tokens_digest(tokens: Sequence[int]) -> str:
    """SHA-256 of the token ids, 4 bytes each, little-endian."""
    return hashlib.sha256(token_bytes(tokens)).hexdigest()


def metadata_of(chunk: KvChunk, digests: Mapping[str, str]) -> dict[str, str]:
    """With a digest of the file that is still to be filled in."""
    it = chunk.identity
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": it.kind,
        "model": it.model,
        "tokenizer": it.tokenizer,
        "namespace": it.namespace,
        "n": str(len(it.tokens)),
        "lead": str(it.lead),
        "tokens": tokens_digest(it.tokens),
        "key": it.key,
        "slice": json.dumps({"rank": it.slice.rank, "world": it.slice.world}),
        "rope": json.dumps([{"layers": list(turn.layers), "angles": list(turn.angles)} for turn in chunk.turns]),
        **_CONSTANT,
        "same_bits": chunk.same_bits,
        "created_by": chunk.created_by,
        "digests": json.dumps(dict(digests)),
        "digest": NO_DIGEST,
    }


def with_digest(header: bytes, digest: str) -> bytes:
    """A header with the digest of its file: after the only ``"digest":"``. Raises ChunkRefused when it has no place."""
    if header.count(_DIGEST) != 1:
        _malformed("it has no digest of the file, or more than one")
    at = header.index(_DIGEST) + len(_DIGEST)
    return header[:at] + digest.encode() + header[at + len(NO_DIGEST) :]


def described(header: Header, tokens: tuple[int, ...]) -> Described:
    """``tokens``: what the tensor of this name has. Raises ChunkRefused."""
    said = header.metadata
    check_version(said)
    if said.keys() != _FIELDS:
        _malformed(f"fields {sorted(said.keys() ^ _FIELDS)} are missing, or not known to version {VERSION}")
    if any(said[name] != value for name, value in _CONSTANT.items()):
        _malformed(f"version {VERSION} has {_CONSTANT}")
    if said["kind"] not in get_args(Kind):
        raise ChunkRefused(Refusal.KIND, f"KV of the kind `{said['kind']}` is not known here")
    identity = Identity(
        model=said["model"],
        tokenizer=said["tokenizer"],
        namespace=said["namespace"],
        tokens=tokens,
        lead=_number(said["lead"]),
        kind="isolated",
        slice=_slice(said["slice"]),
    )
    if len(tokens) != _number(said["n"]) or tokens_digest(tokens) != said["tokens"] or identity.key != said["key"]:
        _malformed("its tokens are not those that it names")
    if not 0 <= identity.lead <= len(tokens) or not tokens:
        _malformed(f"{len(tokens)} tokens, {identity.lead} of them before the passage")
    k, v = _tensors(header, len(tokens))
    return Described(
        identity=identity,
        turns=_turns(said["rope"], k),
        same_bits=said["same_bits"],
        created_by=said["created_by"],
        digests=_digests(said["digests"], header),
        digest=said["digest"],
        k=k,
        v=v,
    )


def check_version(said: Mapping[str, str]) -> None:
    """Raises ChunkRefused for any other safetensors file: MALFORMED; and for another version: VERSION."""
    if said.get("format") != FORMAT:
        _malformed("it is not one of a kvchunk file")
    if said.get("version") != VERSION:
        raise ChunkRefused(Refusal.VERSION, f"version {said.get('version')}: this is version {VERSION}")


def _tensors(header: Header, n: int) -> tuple[dict[int, Entry], dict[int, Entry]]:
    found: dict[str, dict[int, Entry]] = {"k": {}, "v": {}}
    for name, entry in header.tensors.items():
        if name == "tokens":
            continue
        match = _NAME.fullmatch(name)
        if match is None or len(entry.shape) != 3 or entry.shape[1] != n or 0 in entry.shape or entry.dtype == "I32":
            _malformed(f"`{name}` is no tensor of {n} keys or values")
        found[match[1]][int(match[2])] = entry
    k, v = found["k"], found["v"]
    if not k or k.keys() != v.keys() or any(k[layer].shape[0] != v[layer].shape[0] for layer in k):
        _malformed("every layer has keys and values, of as many heads")
    for of_layers in (k, v):
        if len({entry.dtype for entry in of_layers.values()}) != 1:
            _malformed("keys have one format, and so have values")
    return k, v


def _turns(text: str, k: Mapping[int, Entry]) -> tuple[Turn, ...]:
    turns = []
    for each in _json(text, list):
        if not isinstance(each, dict) or each.keys() != {"layers", "angles"}:
            _malformed("rope is a list of layers and their angles")
        layers, angles = each["layers"], each["angles"]
        if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
            _malformed("rope has layers that are no numbers")
        if not isinstance(angles, list) or not all(type(angle) in (int, float) for angle in angles):
            _malformed("rope has angles that are no numbers")
        turns.append(Turn(tuple(layers), tuple(map(float, angles))))
    if sorted(layer for turn in turns for layer in turn.layers) != sorted(k):
        _malformed("rope names every layer once")
    if any(2 * len(turn.angles) > k[layer].shape[2] for turn in turns for layer in turn.layers):
        _malformed("rope has more angles than keys have pairs")
    return tuple(turns)


def _digests(text: str, header: Header) -> dict[str, str]:
    digests = _json(text, dict)
    if digests.keys() != header.tensors.keys() or not all(isinstance(value, str) for value in digests.values()):
        _malformed("every tensor has a digest")
    return dict(digests)


def _slice(text: str) -> Slice:
    said = _json(text, dict)
    rank, world = said.get("rank"), said.get("world")
    if said.keys() != {"rank", "world"} or type(rank) is not int or type(world) is not int or not 0 <= rank < world:
        _malformed(f"{said} is no slice")
    return Slice(rank, world)


def _json(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        _malformed("a field has no valid JSON")
    if not isinstance(value, kind):
        _malformed(f"a field is no {kind.__name__}")
    return value


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
        _malformed(f"`{text[:20]}` is no number")
    return int(text)


def _malformed(why: str) -> NoReturn:
    raise ChunkRefused(Refusal.MALFORMED, f"the header cannot be used: {why}")
