"""From a model and settings to an engine: the one place where its parts are put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from kvloom.config import EngineConfig, default_threads
from kvloom.engine.commit import Commit
from kvloom.engine.engine import AttendFactory, Engine
from kvloom.engine.fusible import Worth
from kvloom.engine.intake import Intake, Tokenizer
from kvloom.engine.kv import Results
from kvloom.engine.layout import KvLayout
from kvloom.engine.planner import Planner
from kvloom.engine.retention import shape_cost
from kvloom.engine.scheduler import Scheduler
from kvloom.engine.scheduler.account import Account
from kvloom.engine.scheduler.admit import Admit
from kvloom.engine.scheduler.bands import Bands
from kvloom.engine.scheduler.chunk import ChunkRunning
from kvloom.engine.scheduler.compress import Compress
from kvloom.engine.scheduler.fetch import Fetch
from kvloom.engine.scheduler.finding import Compressing, Finding
from kvloom.engine.scheduler.fuse import Fuse
from kvloom.engine.scheduler.load_ahead import LoadAhead
from kvloom.engine.scheduler.loads import Loads
from kvloom.engine.scheduler.preempt import Preempt
from kvloom.engine.scheduler.prefill_budget import PrefillBudget
from kvloom.engine.scheduler.reserve import Reserve
from kvloom.engine.scheduler.squeeze import Squeeze
from kvloom.engine.stall import Stall
from kvloom.engine.stats import StepWatch
from kvloom.engine.step import Forward
from kvloom.engine.tiers import make_tiers
from kvloom.engine.tiers.background import Background, InThreads
from kvloom.memory.arena import Arena
from kvloom.memory.backing import Backing, Mapped
from kvloom.memory.format import PageFormat
from kvloom.memory.index import Index
from kvloom.memory.ledger import Ledger
from kvloom.memory.tier.base import Tier
from kvloom.model.base import Model
from kvloom.policy.cost import PrefillCost
from kvloom.policy.cost_estimate import CostEstimate
from kvloom.policy.retention.base import Retention
from kvloom.policy.retention.chunk_share import ChunkShare
from kvloom.policy.retention.session_share import SessionShare
from kvloom.policy.tier_cost import TierCost

TierFactory = Callable[[Sequence[PageFormat]], Sequence[Tier]]
"""Makes tiers for pages of these formats, one for each layer group: the fastest first."""


def no_tiers(formats: Sequence[PageFormat]) -> Sequence[Tier]:
    return ()


_THREADS = InThreads()


def make_engine(
    model: Model,
    tokenizer: Tokenizer,
    config: EngineConfig,
    attend_factory: AttendFactory,
    retention: Retention,
    clock: Callable[[], float] = time.monotonic,
    cost: PrefillCost | None = None,
    tier_factory: TierFactory = no_tiers,
    tier_costs: Mapping[str, TierCost] = MappingProxyType({}),
    back: Callable[[int], Backing] = Mapped,
    background: Background = _THREADS,
    lead: tuple[int, ...] = (),
) -> Engine:
    """An engine over one KV arena. ``retention``: which cached pages go first. ``cost``: of prefill, if it has been
    measured; ``tier_costs``: of reading a page from a tier, by name, likewise. ``back``: makes the arena's memory.
    ``background``: who does the tiers' work meanwhile. ``lead``: what documents are computed behind
    when they are computed alone. Raises ConfigError.
    """
    scheduling = config.scheduler
    layout = KvLayout(model.kv_map, config.cache, scheduling.step_tokens)
    context_limit = min(model.context_length, config.max_model_len or model.context_length)
    arena = Arena(layout.budget_bytes(context_limit), layout.slab_bytes, back)
    others_bytes = int((1 - config.cache.session_share) * arena.budget_bytes)
    texts = SessionShare(retention, others_bytes)
    shared = ChunkShare(texts, int(config.cache.chunk_share * arena.budget_bytes))
    ledger = _ledger(layout, arena, int(config.cache.max_pinned_share * arena.budget_bytes), shared, clock)
    max_len = layout.capacity_tokens(ledger.arena.budget_bytes, context_limit)
    prefill_cost = CostEstimate(cost, shape_cost(model))
    worth = Worth(prefill_cost, len(model.kv_map.layers), scheduling.step_tokens)
    limits = context_limit, max_len
    intake = Intake(model, tokenizer, layout, ledger, config.seed, *limits, clock, worth=worth, lead=len(lead))
    results = Results(ledger)
    ledger.events.listeners.append(results)
    prefill_budget = PrefillBudget(scheduling.max_decode_slowdown, scheduling.max_token_latency_s, prefill_cost)
    reserve, stall, account = Reserve(ledger, layout, results, lead), Stall(), Account(clock)
    tiers = make_tiers(tier_factory(layout.formats), ledger, layout.formats, clock, stall.tell, tier_costs, background)
    bands = Bands(ledger, layout, tiers, prefill_cost, model.width)
    loads = Loads(tiers, prefill_cost)
    admit = Admit(ledger, reserve, scheduling.max_seqs, intake.turns, results, loads, account, bands)
    threads = config.threads or default_threads()
    preempt = Preempt(ledger, Squeeze(threads))
    compress = Compress(ledger, preempt, clock, threads, results)
    fetch = Fetch(tiers, prefill_cost, account, clock)
    planner = Planner.of(model, layout)
    compressing = Compressing(model, tokenizer.token_text, results, clock, threads)
    finding = Finding(ledger, layout, loads, lead, compressing)
    fuse = Fuse(model, planner, preempt, finding, prefill_cost, account, scheduling.step_tokens, threads)
    stages = fetch, bands, compress, fuse, ChunkRunning(prefill_budget), preempt, admit, LoadAhead(finding)
    scheduler = Scheduler(stages, scheduling.step_tokens)
    watch = StepWatch(clock)
    return Engine(
        model=model,
        tokenizer=tokenizer,
        config=config,
        attend_factory=attend_factory,
        layout=layout,
        planner=planner,
        lead=lead,
        context_limit=context_limit,
        max_len=max_len,
        ledger=ledger,
        results=results,
        intake=intake,
        scheduler=scheduler,
        preempt=preempt,
        bands=bands,
        prefill_budget=prefill_budget,
        forward=Forward(model, attend_factory(ledger.arena)),
        commit=Commit(scheduler.queues, intake, scheduling.max_seqs, watch),
        watch=watch,
        clock=clock,
        prefill_cost=prefill_cost,
        tiers=tiers,
        account=account,
        stall=stall,
    )


def _ledger(layout: KvLayout, arena: Arena, pin_bytes: int, retention: Retention, clock: Callable[[], float]) -> Ledger:
    ghosts = sum(arena.budget_bytes // fmt.page_bytes for fmt in layout.formats)
    index = Index(len(layout.formats), max_ghosts=max(256, 2 * ghosts))
    return Ledger(arena, index, retention, clock, pin_bytes)
