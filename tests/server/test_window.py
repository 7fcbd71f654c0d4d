"""What the window is told, and by whom it may be asked; and the files of its page."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from dict_tier import DictTier
from kvloom.engine.engine import Engine
from kvloom.policy.actions import Drop
from kvloom.server.admin.recent import Recent
from kvloom.server.app import create_app
from kvloom.server.edge.caller import Caller
from kvloom.server.edge.keys import Key, Keyring
from kvloom.server.window.files import FOLDER, TYPES, page_files
from kvloom.server.window.glances import Glances
from kvloom.server.window.view import short_name

from .conftest import Engines
from .echo_engine import EchoEngine

ROOT = Path(__file__).parents[2]
KEYS = Keyring((Key("alice", "alices-key"), Key("bob", "bobs-key"), Key("ops", "ops-key", "admin")))
PROMPT = " ".join("abcdefgh"[n % 8] for n in range(40))
TEXT = {"model": "mock", "prompt": PROMPT, "max_tokens": 3}
KNORM = {"cache": {"compression": {"method": "knorm", "ratio": 0.5}}}


def talk(app: FastAPI, key: str | None = None) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom", headers=headers)


async def window(http: httpx2.AsyncClient, after: int = 0) -> dict[str, Any]:
    reply = await http.get("/window", params={"after": after})
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    for context in told["contexts"]:
        ends = [0, *(stretch[1] for stretch in context["stretches"])]
        assert [stretch[0] for stretch in context["stretches"]] == ends[:-1], "adjacent, from the first position on"
        assert ends[-1] == context["tokens"]
    return told


def states(context: dict[str, Any]) -> list[tuple[str, str]]:
    return [(state, origin) for _, _, state, origin in context["stretches"]]


# -- the page ----------------------------------------------------------------------------------------------------------


async def test_the_page_is_served_with_its_types_to_anybody(engine: EchoEngine) -> None:
    async with talk(create_app(engine, keyring=KEYS)) as http:
        for name, file in page_files().items():
            reply = await http.get("/ui" if name == "index.html" else f"/ui/{name}")
            assert reply.status_code == 200
            assert reply.content == file.data
            assert reply.headers["content-type"] == TYPES[Path(name).suffix]
            assert reply.headers["x-content-type-options"] == "nosniff"
            policy = reply.headers["content-security-policy"].split("; ")
            assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(
                policy
            )
            assert not any("unsafe" in each or "*" in each for each in policy)
            again = await http.get(reply.url, headers={"If-None-Match": reply.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/nothing.js", "/ui/../window", "/ui/%2e%2e/window", "/ui/a/b", "/ui//style.css"]
)
async def test_nothing_else_is_behind_it(engine: EchoEngine, path: str) -> None:
    async with talk(create_app(engine, keyring=KEYS)) as http:
        sent = http.build_request("GET", "/")
        sent.url = httpx2.URL(f"http://kvloom{path}")
        reply = await http.send(sent)
        assert reply.status_code in (401, 404)
        assert b"contexts" not in reply.content


def test_the_files_are_small_and_need_nobody_else() -> None:
    found = page_files()
    assert sum(len(file.data) for file in found.values()) < 150_000
    for name, file in found.items():
        text = file.data.decode()
        links = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", text)) - {"http://www.w3.org/2000/svg"}
        assert not links, f"{name}: {links}"
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
            "new Function",
            "document.write",
            "@import",
        ):
            assert word not in text, f"{name}: {word}"
    page = found["index.html"].data.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page), "nothing inline"
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) <= {f"ui/{name}" for name in found}


def test_every_module_that_is_imported_is_there() -> None:
    found = page_files()
    for name, file in found.items():
        for target in re.findall(r'from "\./([^"]+)"', file.data.decode()):
            assert target in found, f"{name} imports {target}"


def test_the_files_are_part_of_the_package() -> None:
    """A wheel has all files of the package that git does not ignore."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]["packages"]
    assert any(FOLDER.is_relative_to(ROOT / package) for package in packages)
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line]
    for file in FOLDER.iterdir():
        parts = file.relative_to(ROOT).parts
        assert not any(part == rule or Path(part).match(rule) for part in parts for rule in ignored), file


# -- contexts and answers ----------------------------------------------------------------------------------------------


async def test_a_context_that_is_over_is_followed(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    await http.post("/v1/completions", json=TEXT)
    (context,) = (await window(http))["contexts"]
    assert (context["status"], context["prompt_tokens"], context["tokens"]) == ("over", 41, 44)
    assert states(context) == [("hot", "")]
    await engine.reset_cache()
    await asyncio.sleep(0.5)
    (context,) = (await window(http))["contexts"]
    assert states(context) == [("missing", "reset")]


async def test_an_answer_says_what_was_reused_and_why_the_rest_was_not(http: httpx2.AsyncClient) -> None:
    for _ in range(2):
        await http.post("/v1/completions", json=TEXT)
    first, second = (await window(http))["answers"]
    assert first["missed_by_reason"] == {"new": 41}
    assert first["reused"] == []
    assert second["reused_by_tier"] == {"ram": 40}
    assert second["missed"] == [[40, 41, "last-token"]]
    assert second["saved_s"] > 0
    assert 0 < second["ttft_s"] <= second["total_s"]
    assert (await window(http, after=first["number"]))["answers"][0]["number"] == second["number"]


async def test_a_running_generation(new_engine: Engines) -> None:
    engine = new_engine(pace_s=0.05)
    async with talk(create_app(engine)) as http:
        asking = asyncio.create_task(http.post("/v1/completions", json=TEXT | {"max_tokens": 20}))
        told = await until(http, lambda told: told["running"] == 1 and told["contexts"])
        (context,) = told["contexts"]
        assert context["status"] == "running"
        assert context["held_bytes"] > 0
        assert states(context)[-1] == ("computing", "")
        assert told["answers"] == []
        await asking


async def until(http: httpx2.AsyncClient, found: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not found(told := await window(http)):
            await asyncio.sleep(0.02)
        return told


async def test_a_compressed_context_and_what_its_heads_keep(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/v1/completions", json=TEXT | {"kvloom": KNORM})
    usage = reply.json()["usage"]["kvloom"]["compressed"][0]
    told = await window(http)
    (context,) = told["contexts"]
    compressed = context["compressed"]
    assert states(context)[0] == ("compressed", "")
    assert states(context)[-1] == ("missing", "compressed")
    assert (compressed["method"], compressed["tokens"]) == ("knorm", 40)
    assert [[layer, kept] for layer, _, kept in compressed["layers"]] == [
        [each["layer"], each["entries"]] for each in usage["kept"]
    ]
    assert all(had == 40 for _, had, _ in compressed["layers"])
    assert compressed["bytes"] < compressed["exact_bytes"]
    assert [use["by_head"] for use in told["memory"]["formats"]] == [False, True]


async def test_what_lies_in_a_tier(new_engine: Engines) -> None:
    engine = new_engine(tiers=[DictTier()])
    async with talk(create_app(engine)) as http:
        await http.post("/v1/completions", json=TEXT)
        await engine.ask(drop_all)
        told = await window(http)
        assert states(told["contexts"][0]) == [("tier", "disk"), ("missing", "evicted")], "tiers have whole pages"
        (tier,) = told["tiers"]
        assert (tier["name"], tier["pages"]) == ("disk", tier["written_pages"])
        await http.post("/v1/completions", json=TEXT)
        assert (await window(http))["answers"][-1]["reused_by_tier"]["disk"] > 0


def drop_all(engine: Engine) -> None:
    assert engine.tiers.flush(10)
    for page in engine.ledger.droppable():
        engine.ledger.apply(Drop(page))


async def test_memory_adds_up(http: httpx2.AsyncClient) -> None:
    await http.post("/v1/completions", json=TEXT)
    told = await window(http)
    memory = told["memory"]
    assert sum(use["cached_bytes"] for use in memory["formats"]) == memory["cached_bytes"] > 0
    assert len(memory["slabs"]) == memory["num_slabs"] == 64
    used = [slab for slab in memory["slabs"] if slab is not None]
    assert [(slab[0], slab[2]) for slab in used] == [(0, 0)]
    assert 0 < used[0][1] < 1
    public = (await http.get("/cache")).json()["cache"]
    assert {name: public[name] for name in ("used_bytes", "budget_bytes")} == {
        name: memory[name] for name in ("used_bytes", "budget_bytes")
    }


# -- who may see what --------------------------------------------------------------------------------------------------


async def test_a_key_is_needed(engine: EchoEngine) -> None:
    app = create_app(engine, keyring=KEYS)
    async with talk(app) as nobody, talk(app, "alices-key") as alice:
        for path in ("/window", "/window/about"):
            assert (await nobody.get(path)).status_code == 401
            assert (await alice.get(path)).status_code == 200


async def test_a_tenant_sees_no_context_of_another(engine: EchoEngine) -> None:
    app = create_app(engine, keyring=KEYS)
    async with talk(app, "alices-key") as alice, talk(app, "bobs-key") as bob, talk(app, "ops-key") as ops:
        await alice.post("/v1/completions", json=TEXT)
        assert (await window(bob))["contexts"] == (await window(bob))["answers"] == []
        await bob.post("/v1/completions", json=TEXT)
        for client, owners in ((alice, [None]), (bob, [None]), (ops, ["bob", "alice"])):
            await asyncio.sleep(0.5)  # what was told before is told again for a moment
            told = await window(client)
            assert [each["owner"] for each in told["contexts"]] == owners
            assert [each["owner"] for each in reversed(told["answers"])] == owners
        (answer,) = (await window(bob))["answers"]
        assert answer["missed_by_reason"] == {"new": 41}, "not that alice has stored the same"


async def test_without_keys_all_is_everybodys(http: httpx2.AsyncClient) -> None:
    await http.post("/v1/completions", json=TEXT)
    assert (await http.get("/window/about")).json()["admin"] is True
    assert len((await window(http))["contexts"]) == 1


def test_a_name_that_is_shown_is_no_id() -> None:
    """Whoever knows the id of a stored response can read it."""
    assert short_name("resp_" + "0123456789abcdef" * 2 + "-0") == "resp_0123456789-0"
    assert short_name("x" * 100) == "x" * 40


async def test_ids_are_not_told(http: httpx2.AsyncClient) -> None:
    told = (await http.post("/v1/responses", json={"model": "mock", "input": "a b c", "max_output_tokens": 2})).json()
    reply = await http.get("/window")
    assert told["id"][:12] in reply.text
    assert told["id"] not in reply.text


# -- what it costs -----------------------------------------------------------------------------------------------------


async def test_many_viewers_cost_the_engine_one_question(engine: EchoEngine) -> None:
    asked: list[int] = []
    told = engine.overview

    async def counted(request_ids: Any) -> Any:
        asked.append(len(request_ids))
        return await told(request_ids)

    engine.overview = counted  # type: ignore[method-assign]
    glances, caller = Glances(engine, Recent()), Caller("", "admin")
    await asyncio.gather(*(glances.of(caller) for _ in range(50)))
    assert len(asked) == 1


async def test_tenants_are_asked_for_one_after_another(engine: EchoEngine) -> None:
    times = iter(range(10_000))
    glances = Glances(engine, Recent(), clock=lambda: float(next(times)))
    found = [await glances.of(Caller("", "user", owner=f"tenant-{n}")) for n in range(80)]
    assert all(later.at_s > earlier.at_s for earlier, later in pairwise(found))
    assert len(glances._of) == 64, "no more is kept, however many come"


@pytest.mark.parametrize("after", ["-1", "x", "1e3", "9" * 16, "²"])
async def test_a_number_that_is_none(http: httpx2.AsyncClient, after: str) -> None:
    reply = await http.get("/window", params={"after": after})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


async def test_an_engine_that_has_stopped(http: httpx2.AsyncClient, engine: EchoEngine) -> None:
    engine.close()
    assert (await http.get("/window")).status_code == 503
