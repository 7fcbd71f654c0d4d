"""``kvloom chunks ls | show | verify | gc``: what lies in a directory of kvchunk files. No model is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from kvloom.cli.profile_progress import profile_bar
from kvloom.cli.say import bytes_text, say, show
from kvloom.config import parse_bytes
from kvloom.errors import ConfigError
from kvloom.memory.kvchunk import SUFFIX, ChunkRefused, Described, Library, describe_file, verify_file
from kvloom.memory.kvchunk.library import Shelved

Facts = dict[str, Any]


def list_chunks(directory: Path, as_json: bool) -> None:
    """Print a line for each file, or one JSON object."""
    files = [_facts_of(each) for each in _library(directory).files()]
    if as_json:
        total = sum(each["bytes"] for each in files)
        print(json.dumps({"directory": str(directory), "bytes": total, "chunks": files}, indent=2))
        return
    for each in files:
        what = (
            f"refused: {each['refusal']}"
            if each.get("refusal")
            else f"{each['n']:>6} tokens  model {each['model'][:12]}"
        )
        print(f"{each['key'][:16]}  {bytes_text(each['bytes']):>9}  {_time(each['used'])}  {what}")
    say(f"{len(files):,} chunks, {bytes_text(sum(each['bytes'] for each in files))}")


def show_chunk(path: Path, as_json: bool) -> None:
    """Print what a header says; of its tokens the number."""
    facts = _described(_checked(path))
    show(facts, "\n".join(_table(facts)), as_json)


def verify_chunks(paths: Sequence[Path], as_json: bool) -> bool:
    """Returns whether everything was whole."""
    files, refused = files_of(paths), dict[str, str]()
    with profile_bar() as bar:
        task = bar.add_task("chunks", total=len(files))
        for path in files:
            try:
                verify_file(path)
            except ChunkRefused as why:
                say(f"{path}: {why.refusal}: {why}")
                refused[str(path)] = why.refusal.value
            bar.advance(task)
    whole = len(files) - len(refused)
    show({"whole": whole, "refused": refused}, f"whole chunks: {whole:,}; others: {len(refused):,}", as_json)
    return not refused


def shrink_chunks(directory: Path, max_bytes: str, as_json: bool) -> None:
    library = _library(directory)
    removed = library.shrink(parse_bytes(max_bytes))
    left = library.files()
    kept_bytes = sum(each.bytes for each in left)
    text = f"chunks removed: {len(removed):,}; kept: {len(left):,}, {bytes_text(kept_bytes)} in all"
    facts = {"removed": len(removed), "kept": len(left), "bytes": kept_bytes}
    show({"directory": str(directory)} | facts, text, as_json)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Files, and all kvchunk files in directories. Raises ConfigError when there is none."""
    found = [file for path in paths for file in (sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path])]
    if not found:
        raise ConfigError(
            "there are no kvchunk files", hint=f"they are named KEY{SUFFIX}; `kvloom chunks export` writes them"
        )
    return found


def _library(directory: Path) -> Library:
    if not directory.is_dir():
        raise ConfigError(f"`{directory}` is not a directory", hint="`kvloom chunks export --into DIR` makes one")
    return Library(directory)


def _checked(path: Path) -> Described:
    try:
        return describe_file(path)
    except ChunkRefused as why:
        raise ConfigError(
            f"`{path}` cannot be used: {why}", hint="`kvloom chunks export` writes kvchunk files"
        ) from why


def _facts_of(shelved: Shelved) -> Facts:
    """Of a file, whatever it has."""
    key = shelved.path.name.removesuffix(SUFFIX)
    known: Facts = {"key": key, "bytes": shelved.bytes, "used": shelved.used, "refusal": None}
    try:
        return known | _described(describe_file(shelved.path))
    except ChunkRefused as why:
        return known | {"refusal": why.refusal.value}


def _described(said: Described) -> Facts:
    """Everything that ``--json`` prints of a header."""
    it, shapes = said.identity, [entry.shape for entry in said.k.values()]
    return {
        "key": it.key,
        "kind": it.kind,
        "model": it.model,
        "tokenizer": it.tokenizer,
        "namespace": it.namespace,
        "n": len(it.tokens),
        "lead": it.lead,
        "layers": len(said.k),
        "heads": max(shape[0] for shape in shapes),
        "dim": max(shape[2] for shape in shapes),
        "slice": {"rank": it.slice.rank, "world": it.slice.world},
        "k_dtype": said.k_dtype,
        "v_dtype": said.v_dtype,
        "kv_bytes": said.nbytes,
        "same_bits": said.same_bits,
        "created_by": said.created_by,
    }


def _table(facts: Facts) -> list[str]:
    """The facts for people."""
    rank, world = facts["slice"]["rank"], facts["slice"]["world"]
    heads = f"{facts['heads']} KV heads" if world == 1 else f"{facts['heads']} KV heads, part {rank} of {world}"
    return [
        f"key        {facts['key']}",
        f"kind       {facts['kind']}, {facts['n']:,} tokens, {facts['lead']} of them before the passage",
        f"model      {facts['model']}",
        f"tokenizer  {facts['tokenizer']}",
        f"namespace  {facts['namespace'] or 'none'}",
        f"KV         {facts['layers']} layers, {heads} of {facts['dim']}, keys {facts['k_dtype']} without RoPE, "
        f"values {facts['v_dtype']}, {bytes_text(facts['kv_bytes'])}",
        f"exact in   {facts['same_bits'] or 'no page format'}",
        f"made by    {facts['created_by']}",
    ]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
