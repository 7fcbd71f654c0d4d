"""What edits of ``context_management`` do to a conversation: pure functions over its turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvloom.server.dialect.anthropic.management import ClearThinking, ClearToolUses, ContextEdit
from kvloom.server.dialect.anthropic.schemas import Block, ThinkingBlock, ToolResultBlock, ToolUseBlock, Turn
from kvloom.server.dialect.fields import Json

PLACEHOLDER = "[This result was cleared.]"
"""In place of the result of a tool."""


class Cleared(NamedTuple):
    """The conversation after an edit, and how much it has cleared: tool uses, or turns with thinking."""

    turns: list[Turn]
    much: int


def cleared(edit: ContextEdit, turns: Sequence[Turn], input_tokens: int) -> Cleared:
    """``input_tokens``: of the whole prompt before this edit."""
    if isinstance(edit, ClearToolUses):
        return _tool_uses(edit, turns, input_tokens)
    return _thinking(edit, turns)


def told(edit: ContextEdit, count: int, tokens: int) -> Json:
    """What the reply says of an edit that cleared so much."""
    what = "cleared_tool_uses" if isinstance(edit, ClearToolUses) else "cleared_thinking_turns"
    return {"type": edit.type, what: count, "cleared_input_tokens": tokens}


def _tool_uses(edit: ClearToolUses, turns: Sequence[Turn], input_tokens: int) -> Cleared:
    uses = [block for turn in turns for block in _blocks(turn) if isinstance(block, ToolUseBlock)]
    if not edit.triggered(input_tokens, len(uses)):
        return Cleared(list(turns), 0)
    results = {block.tool_use_id for turn in turns for block in _blocks(turn) if isinstance(block, ToolResultBlock)}
    old = uses[: max(0, len(uses) - edit.kept)]
    gone = {use.id: use.name for use in old if use.id in results and use.name not in (edit.exclude_tools or ())}

    def clear(block: Block) -> Block:
        if isinstance(block, ToolResultBlock) and block.tool_use_id in gone:
            return block.model_copy(update={"content": PLACEHOLDER})
        if isinstance(block, ToolUseBlock) and block.id in gone and edit.clears_input_of(block.name):
            return block.model_copy(update={"input": {}})
        return block

    return Cleared([_with(turn, clear) for turn in turns], len(gone))


def _thinking(edit: ClearThinking, turns: Sequence[Turn]) -> Cleared:
    thinking = [n for n, turn in enumerate(turns) if any(isinstance(block, ThinkingBlock) for block in _blocks(turn))]
    gone = set() if edit.kept is None else set(thinking[: -edit.kept])
    after = [
        _with(turn, lambda block: None if isinstance(block, ThinkingBlock) else block) if n in gone else turn
        for n, turn in enumerate(turns)
    ]
    return Cleared(after, len(gone))


def _blocks(turn: Turn) -> Sequence[Block]:
    return () if isinstance(turn.content, str) else turn.content


def _with(turn: Turn, change: Callable[[Block], Block | None]) -> Turn:
    """The turn with changed blocks; those that become None go."""
    if isinstance(turn.content, str):
        return turn
    changed = [found for block in turn.content if (found := change(block)) is not None]
    return turn.model_copy(update={"content": changed})
