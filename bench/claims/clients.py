"""clients: programs that know nothing of kvloom, unmodified, against ``kvloom serve``: client x feature, what works."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.clients.attempt import Tried, try_all
from bench.clients.table import CLIENTS, QUICK
from bench.harness import Check, Outcome, at_least


def measure(quick: bool) -> Outcome:
    """Full: all clients, each in an environment of its own, which is made at need. Quick: the two official ones."""
    clients = [client for client in CLIENTS if client.name in QUICK] if quick else CLIENTS
    return outcome(try_all(clients), quick)


def outcome(tried: Iterable[Tried], quick: bool) -> Outcome:
    """Of a client that was not run nothing counts as working."""
    found = list(tried)
    works, all_cells = sum(each.works for each in found), sum(len(each.client.features) for each in found)
    details = {"quick": quick, "clients": {each.client.name: _detail(each) for each in found}}
    checks = tuple(_check(each) for each in found)
    return Outcome("clients", works, all_cells, "client x feature, what works", 0 < works == all_cells, details, checks)


def _check(tried: Tried) -> Check:
    failed = ", ".join(feature for feature, cell in tried.cells.items() if not cell.ok)
    remark = f"not run: {tried.not_run}" if tried.not_run else failed
    return at_least(tried.client.name, tried.works, len(tried.client.features), "features", remark)


def _detail(tried: Tried) -> dict[str, Any]:
    told: dict[str, Any] = {"packages": list(tried.client.packages)}
    if tried.not_run:
        return told | {"not_run": tried.not_run, "features": list(tried.client.features)}
    return told | {"cells": {name: {"ok": cell.ok, "detail": cell.detail} for name, cell in tried.cells.items()}}
