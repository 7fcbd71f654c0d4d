"""What kvpress keeps of contexts, in its own environment: ``python -m bench.peers.kvpress_kept JOB OUT``.

JOB is JSON: ``gguf``, the weights; ``contexts``, token ids; ``ratios``; ``presses``, expressions in kvpress's
classes, ``eager`` those that want attention as a matrix; ``seed`` of random sketches. OUT is a npz with, for every
``press/ratio/context``, a mask (layers, KV heads, tokens) of what stays.

All presses but KVzip's look at one forward of a context: what one removes of a layer is put back before the next looks,
and no later layer depends on it. What is kept are the rows that a press's own ``compress`` returns or does not mask.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import kvpress
import numpy as np
import torch
from kvpress.presses import kvzip_press, leverage_press

from bench.peers.dequantized import model_from_gguf
from bench.torch_maths import settle_torch_maths

Masks = dict[str, Any]


class Tokenizer:
    """Of a model without a chat template, to which no words are said beside the context."""

    chat_template = None

    def encode(self, text: str, **options: Any) -> torch.Tensor:
        return torch.zeros((1, 0), dtype=torch.long)


def main() -> int:
    job_file, out = map(Path, sys.argv[1:])
    job = json.loads(job_file.read_text())
    settle_torch_maths()
    model = model_from_gguf(Path(job["gguf"]))
    presses = {
        f"{expression}/{ratio}": made(expression, ratio) for expression in job["presses"] for ratio in job["ratios"]
    }
    found: Masks = {"version": np.array(importlib.metadata.version("kvpress"))}
    for number, ids in enumerate(job["contexts"]):
        ids_1T = torch.tensor([ids])
        for attention in ("sdpa", "eager"):
            model.set_attn_implementation(attention)
            wanted = {
                name: press
                for name, press in presses.items()
                if not isinstance(press, kvpress.KVzipPress)
                and (name.split("/")[0] in job["eager"]) == (attention == "eager")
            }
            with watched(model, wanted, job["seed"]) as masks, torch.inference_mode():
                model.model(input_ids=ids_1T, past_key_values=new_cache(model))
            found |= {f"{name}/{number}": np.stack(of_layers) for name, of_layers in masks.items()}
        model.set_attn_implementation("sdpa")
        for name, press in presses.items():
            if isinstance(press, kvpress.KVzipPress):
                found[f"{name}/{number}"] = repeated(model, press, ids_1T)
        print(f"kvpress: {number + 1} of {len(job['contexts'])} contexts", file=sys.stderr, flush=True)
    np.savez_compressed(out, **found)
    return 0


def made(expression: str, ratio: float) -> Any:
    """A press, of an expression of ours such as ``AdaKVPress(KnormPress(ratio))``."""
    return eval(expression, {**vars(kvpress), "ratio": ratio})


def new_cache(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


@contextmanager
def watched(model: Any, presses: Mapping[str, Any], seed: int) -> Iterator[dict[str, list[Any]]]:
    """By press, what it keeps of the layers, in their order."""
    masks: dict[str, list[Any]] = {name: [] for name in presses}

    def hook(module: Any, _: Any, kwargs: dict[str, Any], output: Any) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        for name, press in presses.items():
            with patch.object(leverage_press.torch, "randn", drawn(seed, module.layer_idx)):
                masks[name].append(kept(press, module, layer, output[1], kwargs))

    hooks = []
    for each in model.model.layers:
        each.self_attn.rotary_emb = model.model.rotary_emb
        hooks.append(each.self_attn.register_forward_hook(hook, with_kwargs=True))
    try:
        yield masks
    finally:
        for each in hooks:
            each.remove()


def kept(press: Any, module: Any, layer: Any, attentions: Any, kwargs: dict[str, Any]) -> Any:
    """(KV heads, tokens) of what ``compress`` leaves of a layer."""
    keys_HSD, values_HSD = layer.keys, layer.values
    module.masked_key_indices = None
    left_HSD, _ = press.compress(
        module, kwargs["hidden_states"], keys_HSD.clone(), values_HSD.clone(), attentions, kwargs
    )
    if module.masked_key_indices is not None:
        return unmasked(module, keys_HSD.shape[1:3])
    mask_HS = np.zeros(keys_HSD.shape[1:3], np.bool_)
    for head, (all_SD, left_SD) in enumerate(zip(keys_HSD[0].numpy(), left_HSD[0].numpy(), strict=True)):
        places = {key.tobytes(): place for place, key in enumerate(all_SD)}
        mask_HS[head, [places[key.tobytes()] for key in left_SD]] = True
    return mask_HS


def unmasked(module: Any, shape: tuple[int, int]) -> Any:
    mask_HS = np.ones(shape, np.bool_)
    _, heads, places = (each.numpy() for each in module.masked_key_indices)
    mask_HS[heads, places] = False
    module.masked_key_indices = None
    return mask_HS


def repeated(model: Any, press: Any, ids_1T: torch.Tensor) -> Any:
    """(layers, KV heads, tokens) of what KVzip keeps."""
    with (
        patch.object(kvzip_press.AutoTokenizer, "from_pretrained", lambda *_: Tokenizer()),
        torch.inference_mode(),
        press(model),
    ):
        model.model(input_ids=ids_1T, past_key_values=new_cache(model))
    shape = model.config.num_key_value_heads, ids_1T.shape[1]
    return np.stack([unmasked(each.self_attn, shape) for each in model.model.layers])


def drawn(seed: int, layer: int) -> Callable[..., torch.Tensor]:
    """In place of ``torch.randn``: the numbers that kvloom draws for its sketch of a layer's keys."""

    def randn(batch: int, heads: int, dim: int, sketch: int, **options: Any) -> torch.Tensor:
        numbers_HDN = np.random.default_rng((seed, layer)).normal(size=(heads, dim, sketch))
        return torch.from_numpy(numbers_HDN)[None].to(torch.float32)

    return randn


if __name__ == "__main__":
    sys.exit(main())
