"""The window in a real Chromium, over the real engine on a tiny model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.browser import Browser, NoBrowser, opened
from bench.window_checks import CHECKS, Stage
from dict_tier import DictTier
from kvloom.config import ServerConfig
from kvloom.engine.engine import Engine
from kvloom.policy.actions import Drop
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Key, Keyring
from kvloom.server.run import bind, make_server, url_of

from .echo_engine import EchoEngine

TEXT = " ".join(f"w{n % 61}" for n in range(120))
LENGTH = 400


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with opened() as session:
            yield session
    except NoBrowser as missing:
        pytest.skip(str(missing))


@contextmanager
def served(engine: EchoEngine, keyring: Keyring | None = None) -> Iterator[str]:
    config = ServerConfig(port=0)
    with bind(config) as bound:
        server = make_server(create_app(engine, config, keyring), config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        bound.listen()
        thread.start()
        try:
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def stage(browser: Browser) -> Iterator[Stage]:
    engine = EchoEngine(max_model_len=LENGTH, vocab_size=256, pace_s=0.01, tiers=[DictTier()])

    def drop(inner: Engine) -> None:
        assert inner.tiers.flush(10)
        for page in inner.ledger.droppable():
            inner.ledger.apply(Drop(page))

    with served(engine) as url:
        yield Stage(browser, url, TEXT, evict=lambda: asyncio.run(engine.ask(drop)), long=200)
    engine.close()


@pytest.mark.parametrize("name", CHECKS)
def test_what_a_person_sees(stage: Stage, name: str) -> None:
    CHECKS[name](stage)


def test_an_answer_with_markup_is_shown_as_it_is(stage: Stage) -> None:
    """This model repeats what it is told."""
    page = stage.open()
    markup = "<b>bold</b><img/src=x/onerror=document.title='owned'>"
    page.write("#length", "6")
    page.write("#question", markup)
    page.click("#send")
    page.until("document.querySelector('.account') !== null")
    assert markup in page.ask("document.querySelector('.lane-text').textContent")
    assert page.ask("document.querySelectorAll('#turns img, #turns .lane-text b').length") == 0
    assert page.ask("document.title") != "owned"


def test_markup_put_in_as_such_would_be_refused(stage: Stage) -> None:
    """What the page's headers forbid, should a script of the page ever try."""
    page = stage.open()
    tried = (
        "(() => { try { document.body.innerHTML = '<b></b>'; return 'done'; } catch (error) { return error.name; } })()"
    )
    assert page.ask(tried) == "TypeError"
    page.complaints()


def test_the_page_asks_for_a_key_and_forgets_it(browser: Browser) -> None:
    engine = EchoEngine()
    with served(engine, Keyring((Key("alice", "alices-key"),))) as url:
        browser.driver.get(f"{url}/ui")
        browser.until("document.getElementById('key-dialog').open")
        for key, wrong in (("bobs-key", True), ("alices-key", False)):
            browser.write("#key-input", key)
            browser.press("\ue007")
            if wrong:
                browser.until("!document.getElementById('key-wrong').hidden")
        browser.until("document.querySelector('#figures b') !== null")
        assert browser.ask("document.getElementById('status').dataset.is") == "idle"
        stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, document.body.innerText])"
        assert "alices-key" not in browser.ask(stored)
        browser.driver.refresh()
        browser.until("document.getElementById('key-dialog').open")
        browser.complaints()
    engine.close()
