"""The engine's side of the tiers: what goes there, what is fetched back, and whether that pays.

pool (arena)  -- idle ------>  WriteBehind  -->  disk, remote
              -- evicted --->  KeepVictims  -->  warm
              -- held ------>  Offload  -->  the fastest that has room
              <-- Load ------  what ``choose`` says is loaded faster than computed
"""

from kvloom.engine.tiers.load import Arrival, Load, Wanted
from kvloom.engine.tiers.make import make_tiers
from kvloom.engine.tiers.offload import Offload
from kvloom.engine.tiers.tiers import Level, Tiers

__all__ = ["Arrival", "Level", "Load", "Offload", "Tiers", "Wanted", "make_tiers"]
