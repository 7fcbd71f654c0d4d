"""What a person sees in the window, in a real browser: the tests check it on a tiny model, the claim on a real one.

Every check opens the page anew and makes the traffic that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

from bench.browser import DESKTOP, PHONE, Browser, Theme

MARKUP = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
NARROW = (320, 640)
_READABLE = 4.5
"""The contrast that WCAG 2 asks of text."""

_ESCAPE, _TAB, _DOWN, _UP, _ENTER = "\ue00c", "\ue004", "\ue015", "\ue013", "\ue007"
_CONTROLS = "button, input, select, textarea"
_KNORM = {"method": "knorm", "ratio": 0.5}


@dataclass(frozen=True, slots=True)
class Stage:
    """A server with a model and a tier. ``text``: long enough to be worth compressing. ``evict``: makes what is idle
    leave RAM. ``long``: tokens of an answer that takes a second or more.
    """

    browser: Browser
    url: str
    text: str
    evict: Callable[[], None]
    long: int

    def open(self, size: tuple[int, int] = DESKTOP, theme: Theme | None = None) -> Browser:
        self.browser.open(f"{self.url}/ui", size, theme)
        return self.browser

    def ask(self, question: str, **cache: Any) -> dict[str, Any]:
        """As any client would."""
        messages = [{"role": "system", "content": self.text}, {"role": "user", "content": question}]
        body = {"messages": messages, "max_tokens": 4, "temperature": 0, "kvloom": {"cache": cache}}
        sent = Request(
            f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(sent) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def chat(self, question: str, mode: str = "exact", tokens: int = 4, wait: bool = True) -> None:
        """Through the page, which is open."""
        page = self.browser
        page.until("document.getElementById('method').options.length > 0")
        page.click(f"input[name=mode][value={mode}]")
        page.driver.execute_script(
            "document.getElementById('document').value = arguments[0];"
            "document.getElementById('document').dispatchEvent(new Event('input'));"
            "document.getElementById('method').value = 'knorm';"
            "document.getElementById('method').dispatchEvent(new Event('change'));",
            self.text,
        )
        page.write("#length", str(tokens))
        page.write("#question", question)
        before = page.ask("document.querySelectorAll('.account').length")
        page.press(_ENTER)
        if wait:
            lanes = 2 if mode == "both" else 1
            told = f"document.querySelectorAll('.account').length === {before + lanes}"
            page.until(f"{told} || document.querySelector('[role=alert]') !== null", 60)
            assert page.ask(told), page.ask("document.querySelector('[role=alert]').textContent")


def _empty_states(stage: Stage) -> None:
    page = stage.open()
    for place, words in (
        ("bands", "No context yet"),
        ("map", "No compressed context yet"),
        ("misses", "Nothing answered"),
    ):
        assert words in page.ask(f"document.getElementById('{place}').textContent"), place
    assert stage.url in page.ask("document.getElementById('bands').textContent")


def _running(stage: Stage) -> None:
    page = stage.open()
    stage.chat("Tell me more", tokens=stage.long, wait=False)
    page.until("document.getElementById('status').dataset.is === 'busy'")
    page.until("document.querySelector('#bands .band').textContent.includes('running')")
    page.until("document.querySelector('#bands .w-computing') !== null")
    page.until("document.querySelector('.lane-text').textContent.length > 0")
    page.press(_ESCAPE)
    page.until("document.querySelector('.lane-head').textContent.includes('stopped')")
    page.until("document.getElementById('status').dataset.is === 'idle'")


def _reused(stage: Stage) -> None:
    page = stage.open()
    for _ in range(2):
        stage.chat("What is this about?")
    first, second = page.ask("[...document.querySelectorAll('.account')].map((each) => each.textContent)")
    assert "Computed" in first, first
    assert "from RAM" in second, second
    assert page.ask("document.querySelectorAll('.account .w-hot, .account .w-found').length") > 0


def _beside(stage: Stage) -> None:
    page = stage.open()
    stage.chat("Who wrote it?", "both")
    assert page.ask("[...document.querySelectorAll('.lane')].map((lane) => lane.dataset.lane)") == [
        "exact",
        "compressed",
    ]
    page.until("document.querySelector('.verdict').textContent.length > 0")
    assert "kept by knorm" in page.ask("document.querySelectorAll('.account')[1].textContent")


def _compressed(stage: Stage) -> None:
    stage.ask("Why?", compression=_KNORM)
    page = stage.open()
    page.until("document.querySelector('#bands .w-compressed') !== null")
    letters = page.ask("[...document.querySelectorAll('#map .cell')].map((cell) => cell.textContent)")
    assert letters, "no map"
    assert set(letters) <= set("·0123456789#"), letters
    assert "knorm" in page.ask("document.getElementById('map').textContent")
    assert "single heads" in page.ask("document.getElementById('formats').textContent")


def _miss_reason(stage: Stage) -> None:
    stage.ask("Something that nobody has asked before")
    page = stage.open()
    page.until("document.querySelector('#reasons li[data-reason=new] b') !== null")
    assert int(page.ask("document.querySelector('#reasons li[data-reason=new] b').textContent").replace(",", "")) > 0
    assert page.ask("document.querySelectorAll('#misses rect').length") > 0
    assert page.ask("document.querySelectorAll('#ttft .dot').length") > 0


def _tier(stage: Stage) -> None:
    stage.ask("Where was it?")
    stage.evict()
    page = stage.open()
    assert "disk" in page.until("document.getElementById('tiers').textContent")
    page.until("document.querySelector('#bands .w-tier') !== null")
    written = page.ask(
        "[...document.querySelectorAll('.tier li')].find((li) => li.textContent.startsWith('written')).textContent"
    )
    assert int(written.removeprefix("written").replace(",", "")) > 0, written


def _phone(stage: Stage) -> None:
    stage.ask("Is it long?", compression=_KNORM)
    for size in (PHONE, NARROW):
        page = stage.open(size)
        page.until("document.querySelector('#bands .band') !== null && document.querySelector('#map .cell') !== null")
        wide, screen = page.ask("[document.documentElement.scrollWidth, innerWidth]")
        assert (wide, screen) == (size[0], size[0]), f"{wide} wide on a screen of {size[0]}"


def _themes(stage: Stage) -> None:
    grounds = {}
    for theme in ("light", "dark"):
        page = stage.open(theme=theme)
        grounds[theme] = _luminance(page, "backgroundColor", "body")
        for text in (".card .hint", ".card h2", ".figures b"):
            ink, ground = _luminance(page, "color", text), _luminance(page, "backgroundColor", ".card")
            contrast = (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05)
            assert contrast >= _READABLE, f"{text} in {theme}: {contrast:.1f}"
    assert grounds["light"] > 0.8, grounds
    assert grounds["dark"] < 0.05, grounds
    page.click("#theme")
    assert page.ask("document.getElementById('theme').textContent") == "Theme: light"
    assert _luminance(page, "backgroundColor", "body") == grounds["light"], "the choice is stronger than the system"
    page.click("#theme")
    page.click("#theme")


def _luminance(page: Browser, property_name: str, selector: str) -> float:
    """Relative luminance of a colour, as WCAG defines it."""
    colour = page.ask(f"getComputedStyle(document.querySelector('{selector}')).{property_name}")
    parts = [float(each) / 255 for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _keyboard(stage: Stage) -> None:
    for question in ("One?", "Two?"):
        stage.ask(question)
    page = stage.open()
    page.until("document.querySelectorAll('#bands .band').length >= 2")
    page.press(_TAB)
    assert page.focus() == "skip"
    for key, place in (("m", "memory"), ("c", "contexts"), ("r", "retention"), ("t", "traffic"), ("/", "question")):
        page.ask("document.activeElement.blur()")
        page.press(key)
        assert page.focus() == place, key
    page.ask("document.querySelector('.band[tabindex=\"0\"]').focus()")
    for key, chosen in ((_DOWN, 1), (_UP, 0)):
        page.press(key)
        pressed = page.ask("[...document.querySelectorAll('.band')].map((band) => band.getAttribute('aria-pressed'))")
        assert pressed.index("true") == chosen, pressed
        assert page.ask("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.press("?")
    assert page.ask("document.getElementById('help-dialog').open")
    page.press(_ESCAPE)
    assert not page.ask("document.getElementById('help-dialog').open")
    named = "each.textContent.trim() || each.ariaLabel || each.labels?.length"
    nameless = page.ask(
        f"[...document.querySelectorAll('{_CONTROLS}')].filter((each) => !({named})).map((each) => each.id)"
    )
    assert nameless == [], nameless


def _text_stays_text(stage: Stage) -> None:
    page = stage.open()
    stage.chat(MARKUP, tokens=16)
    assert page.ask("document.querySelector('.asked').textContent") == MARKUP
    assert page.ask("document.querySelectorAll('#turns img, #turns script').length") == 0
    assert page.ask("document.title") != "owned"


def _nothing_from_elsewhere(stage: Stage) -> None:
    page = stage.open()
    page.complaints()
    stage.chat("Is anybody there?")
    asked = page.ask("performance.getEntriesByType('resource').map((each) => each.name)")
    assert asked, "nothing was loaded"
    assert [each for each in asked if not each.startswith(f"{stage.url}/")] == []
    assert page.complaints() == []


CHECKS: Mapping[str, Callable[[Stage], None]] = {
    "empty-states": _empty_states,
    "running-generation": _running,
    "what-was-reused": _reused,
    "exact-beside-compressed": _beside,
    "compressed-context": _compressed,
    "miss-reason": _miss_reason,
    "tier": _tier,
    "phone": _phone,
    "dark-and-light": _themes,
    "keyboard": _keyboard,
    "text-stays-text": _text_stays_text,
    "nothing-from-elsewhere": _nothing_from_elsewhere,
}
"""In this order: the first one needs a server that nobody has asked anything."""
