"""``kvloom inspect``: what a model is and what its KV costs, without loading its weights."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from kvloom.cli import backend
from kvloom.cli.kv_fit import KvFit, bytes_text
from kvloom.config import parse_bytes

if TYPE_CHECKING:
    from kvloom.model.manifest import Manifest

Facts = dict[str, Any]


def inspect_model(name: str, budget: str, kv_dtype: str, as_json: bool) -> None:
    """Print the facts: a table for people, or one JSON object."""
    facts = facts_of(backend.resolve(name), parse_bytes(budget), kv_dtype)
    print(json.dumps(facts, indent=2) if as_json else "\n".join(table(facts)))


def facts_of(manifest: Manifest, budget_bytes: int, kv_dtype: str) -> Facts:
    """Everything that ``--json`` prints. Bytes are plain numbers."""
    from kvloom.model.decoder import kv_map_of

    spec = manifest.spec
    fit = KvFit.of(kv_map_of(spec), kv_dtype)
    context_bytes = fit.context_bytes(spec.context_length)
    shape = (
        "width",
        "num_layers",
        "heads",
        "kv_heads",
        "head_dim",
        "ffn_width",
        "vocab_size",
        "context_length",
    )
    return {
        "name": manifest.name,
        "source": manifest.source,
        "family": manifest.family,
        "weights_id": manifest.weights_id,
        "size_bytes": manifest.size_bytes,
        "config": {field: getattr(spec, field) for field in shape},
        "kv_dtype": kv_dtype,
        "layer_groups": [
            {
                "name": group.name,
                "layers": list(group.layers),
                "window": group.window,
                "kv_heads": group.heads,
                "k_dim": group.k_dim,
                "v_dim": group.v_dim,
                "token_bytes": each.token_bytes,
                "page_bytes": each.page_bytes,
            }
            for group, each in zip(fit.groups, fit.formats, strict=True)
        ],
        "kv_token_bytes": fit.token_bytes,
        "full_context_bytes": context_bytes,
        "budget": {
            "bytes": budget_bytes,
            "longest_context": fit.longest_context(budget_bytes),
            "full_contexts": budget_bytes // context_bytes,
        },
        "tensors": _tensors(manifest),
    }


def table(facts: Facts) -> list[str]:
    """The facts for people."""
    config, budget = facts["config"], facts["budget"]
    longest = "endless" if budget["longest_context"] is None else f"{budget['longest_context']:,} tokens"
    lines = [
        f"model      {facts['name']} ({facts['family']}, {bytes_text(facts['size_bytes'])})",
        f"source     {facts['source']}",
        f"weights    {facts['weights_id']}",
        f"shape      {config['num_layers']} layers, width {config['width']}, {config['heads']} query heads, "
        f"{config['kv_heads']} KV heads of {config['head_dim']}, {config['vocab_size']:,} tokens",
        f"context    {config['context_length']:,} tokens, {bytes_text(facts['full_context_bytes'])} when full",
        f"KV         {facts['kv_token_bytes']:,} bytes per token in {facts['kv_dtype']}",
    ]
    for group in facts["layer_groups"]:
        window = "all positions" if group["window"] is None else f"the last {group['window']:,} positions"
        lines.append(
            f"  {group['name']:<8} {len(group['layers'])} layers keep {window}: "
            f"{group['token_bytes']:,.0f} bytes per token, {bytes_text(group['page_bytes'])} per page"
        )
    lines.append(
        f"budget     {bytes_text(budget['bytes'])} holds one context of {longest}, "
        f"or {budget['full_contexts']:,} full contexts"
    )
    for kind, each in facts["tensors"].items():
        lines.append(f"  {kind:<8} {each['count']} tensors, {bytes_text(each['bytes'])}")
    return lines


def _tensors(manifest: Manifest) -> dict[str, dict[str, int]]:
    """By number format, the heaviest first."""
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"count": 0, "bytes": 0})
    for entry in manifest.tensors.values():
        kinds[entry.kind]["count"] += 1
        kinds[entry.kind]["bytes"] += entry.nbytes
    return dict(sorted(kinds.items(), key=lambda item: -item[1]["bytes"]))
