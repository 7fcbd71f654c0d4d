"""The retention policy that a setting names, for a model."""

from __future__ import annotations

from kvloom.config import RetentionName
from kvloom.model.base import Model
from kvloom.policy.cost import PrefillCost, estimated
from kvloom.policy.retention import POLICIES, Given
from kvloom.policy.retention.base import Retention


def make_retention(name: RetentionName, model: Model, cost: PrefillCost | None = None) -> Retention:
    """``cost``: what was measured, if anything."""
    return POLICIES[name](Given(cost or shape_cost(model)))


def shape_cost(model: Model) -> PrefillCost:
    """An estimate for where nothing was measured. A layer with a window costs the same at every position."""
    full = sum(kv.k_dim + kv.v_dim for kv in model.kv_map.layers if kv.window is None)
    return estimated(model.layer_parameters, model.query_heads * full // 2)
