"""Formats, capacities and budgets that follow from a model."""

from __future__ import annotations

import pytest

from kvloom.config import CacheConfig, KvDtype, parse_bytes
from kvloom.engine.layout import KvLayout
from kvloom.errors import ConfigError
from kvloom.model.kv_map import KvMap, LayerKv


def layout(
    kv_bytes: int | str = "auto", windows: tuple[int | None, ...] = (None,) * 30, kv_dtype: KvDtype = "int16"
) -> KvLayout:
    layers = tuple(LayerKv(n, 3, 64, 64, 0.125, window) for n, window in enumerate(windows))
    return KvLayout(KvMap(layers), CacheConfig(kv_bytes=kv_bytes, kv_dtype=kv_dtype), step_tokens=512)


@pytest.mark.parametrize(("kv_dtype", "token_bytes"), [("float16", 23_040), ("int16", 23_400), ("int8", 12_240)])
def test_what_a_token_of_smollm2_takes(kv_dtype: KvDtype, token_bytes: int) -> None:
    (fmt,) = layout(kv_dtype=kv_dtype).formats
    assert fmt.token_bytes == token_bytes


def test_groups_full_first_then_wide_to_narrow() -> None:
    kv = layout(windows=(512, None, 64, 512))
    assert [fmt.name for fmt in kv.formats] == ["full", "window512", "window64"]
    assert kv.formats[1].layers == (0, 3)
    assert [(plan.group, plan.slot) for plan in kv.layers] == [(1, 0), (0, 0), (2, 0), (1, 1)]


def test_shared_kv_writes_once_and_reads_the_owner() -> None:
    layers = tuple(LayerKv(n - n % 2, 1, 16, 16, 0.25) for n in range(4))
    kv = KvLayout(KvMap(layers), CacheConfig(), 512)
    assert kv.formats[0].layers == (0, 2)
    assert [plan.owns for plan in kv.layers] == [True, False, True, False]
    assert [(plan.group, plan.slot) for plan in kv.layers] == [(0, 0), (0, 0), (0, 1), (0, 1)]


def test_capacity_is_what_the_budget_holds_and_not_a_token_more() -> None:
    kv = layout()
    for budget in (5_000_000, 60_000_000, 150_000_000):
        tokens = kv.capacity_tokens(budget, 8192)
        assert kv.bytes_for(tokens) <= budget
        assert tokens == 8192 or kv.bytes_for(tokens + 1) > budget


def test_windows_bound_what_a_long_context_needs() -> None:
    windowed, full = layout(windows=(512,) * 30), layout()
    assert windowed.bytes_for(100_000) < full.bytes_for(2048)


def test_budgets() -> None:
    assert layout("100MiB").budget_bytes(8192) == 100 * 2**20
    assert layout().budget_bytes(8192) <= 8 * layout().bytes_for(8192)
    with pytest.raises(ConfigError, match="one token needs"):
        layout("100KiB").budget_bytes(8192)


@pytest.mark.parametrize(("text", "size"), [("2GiB", 2**31), ("1.5 MB", 1_500_000), (77, 77), ("64kib", 65_536)])
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GiB", "0", "1XB", 0, -5])
def test_bad_sizes_are_refused(text: str | int) -> None:
    with pytest.raises(ConfigError):
        parse_bytes(text)
