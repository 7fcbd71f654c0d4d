"""Answers of a given form: grammars, over the library ``llguidance``, and what they allow a sequence to say next."""

from kvloom.engine.grammar.compiled import Grammar
from kvloom.engine.grammar.constraint import Constraint
from kvloom.engine.grammar.grammars import Grammars

__all__ = ["Constraint", "Grammar", "Grammars"]
