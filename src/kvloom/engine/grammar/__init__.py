"""Answers of a given form: grammars, over the library ``llguidance``, and what they allow a sequence to say next.

The library is loaded when somebody asks for a form: it takes as long as much of an engine's start.
"""

from kvloom.engine.grammar.constraint import Constraint
from kvloom.engine.grammar.grammars import Grammars

__all__ = ["Constraint", "Grammars"]
