"""``kvloom inspect``: what a model is and what its KV costs, without loading its weights."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from kvloom.cli import backend
from kvloom.cli.say import bytes_text
from kvloom.cli.settings import Settings
from kvloom.config import EngineConfig
from kvloom.engine.layout import KvLayout
from kvloom.model.decoder import kv_map_of

if TYPE_CHECKING:
    from kvloom.model.files.manifest import Manifest

Facts = dict[str, Any]

_ENDLESS = 2**40
_SHAPE = ("width", "num_layers", "heads", "kv_heads", "head_dim", "ffn_width", "vocab_size", "context_length")


def inspect_model(name: str, settings: Settings, as_json: bool) -> None:
    """Print the facts: a table for people, or one JSON object."""
    facts = facts_of(backend.resolve(name), settings.engine(name))
    print(json.dumps(facts, indent=2) if as_json else "\n".join(table(facts)))


def facts_of(manifest: Manifest, config: EngineConfig) -> Facts:
    """Everything that ``--json`` prints. Sizes are plain numbers of bytes; an endless context is null."""
    spec = manifest.spec
    layout = KvLayout(kv_map_of(spec), config.cache, config.scheduler.step_tokens)
    budget = layout.budget_bytes(spec.context_length)
    longest = layout.capacity_tokens(budget, _ENDLESS)
    full_context = layout.bytes_for(spec.context_length)
    return {
        "name": manifest.name,
        "source": manifest.source,
        "family": manifest.family,
        "weights_id": manifest.weights_id,
        "size_bytes": manifest.size_bytes,
        "config": {field: getattr(spec, field) for field in _SHAPE},
        "kv_dtype": config.cache.kv_dtype,
        "kv_token_bytes": sum(each.token_bytes for each in layout.formats),
        "layer_groups": _groups(layout),
        "full_context_bytes": full_context,
        "budget": {
            "bytes": budget,
            "longest_context": None if longest == _ENDLESS else longest,
            "full_contexts": budget // full_context,
        },
        "tensors": _tensors(manifest),
    }


def table(facts: Facts) -> list[str]:
    """The facts for people."""
    config, budget = facts["config"], facts["budget"]
    longest = "any length" if budget["longest_context"] is None else f"{budget['longest_context']:,} tokens"
    return [
        f"model      {facts['name']} ({facts['family']}, {bytes_text(facts['size_bytes'])})",
        f"source     {facts['source']}",
        f"weights    {facts['weights_id']}",
        f"shape      {config['num_layers']} layers of width {config['width']}, {config['heads']} query heads, "
        f"{config['kv_heads']} KV heads of {config['head_dim']}; {config['vocab_size']:,} tokens known",
        f"context    {config['context_length']:,} tokens, {bytes_text(facts['full_context_bytes'])} of KV when full",
        f"KV         {facts['kv_token_bytes']:,.0f} bytes per token in {facts['kv_dtype']}",
        *map(_group_line, facts["layer_groups"]),
        f"budget     {bytes_text(budget['bytes'])} holds one context of {longest}, "
        f"or {budget['full_contexts']:,} full ones",
        "tensors    "
        + ", ".join(f"{each['count']} {kind} ({bytes_text(each['bytes'])})" for kind, each in facts["tensors"].items()),
    ]


def _group_line(group: Facts) -> str:
    keep = "all positions" if group["window"] is None else f"the last {group['window']:,} positions"
    return (
        f"  {group['name'] + ' ':<9}{len(group['layers'])} layers keep {keep}: "
        f"{group['token_bytes']:,.0f} bytes per token, "
        f"pages of {bytes_text(group['page_bytes'])}"
    )


def _groups(layout: KvLayout) -> list[Facts]:
    return [
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
        for group, each in zip(layout.kv_map.groups, layout.formats, strict=True)
    ]


def _tensors(manifest: Manifest) -> dict[str, dict[str, int]]:
    """By number format, the heaviest first."""
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"count": 0, "bytes": 0})
    for entry in manifest.tensors.values():
        kinds[entry.kind]["count"] += 1
        kinds[entry.kind]["bytes"] += entry.nbytes
    return dict(sorted(kinds.items(), key=lambda item: -item[1]["bytes"]))
