"""Least frequently used first, with dynamic aging: every use of every block is worth the same.

Source: Arlitt et al., Evaluating Content Management Techniques for Web Proxy Caches, 2000 (LFU-DA).
"""

from __future__ import annotations

from kvloom.policy.retention.aging import Aging


def least_frequently_used() -> Aging:
    return Aging(lambda block: 1.0)
