"""``python -m bench.window_shots [FOLDER]``: the pictures of the window in the documentation, made of real traffic.

SmolLM2 with a disk tier answers questions about a document, from exact and from compressed KV; other texts then push it
out of memory, and one more answer is being generated when the pictures are taken.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

from bench.browser import PHONE, Browser, opened
from bench.harness import note
from bench.served import Served
from bench.text import long_text
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "examples" / "data" / "observatory.md"
WIDE = (1320, 1240)
QUESTIONS = ("What is the name of the spectrograph?", "In which year was the observatory founded?")


def main(folder: Path) -> None:
    pull(MODEL)
    with tempfile.TemporaryDirectory() as kv:
        flags = ("--kv-bytes", "120MiB", "--cache-dir", kv, "--disk-bytes", "1GiB")
        with Served(MODEL, *flags) as served, opened() as browser:
            url = f"http://{served.host}:{served.port}"
            for length in (900, 2400):
                ask(url, "Summarize this.", long_text()[length : length * 4], 24)
            browser.open(f"{url}/ui", WIDE, "light")
            converse(browser)
            threading.Thread(target=go_on, args=(url,), daemon=True).start()
            browser.until("document.querySelector('#bands .w-computing') !== null", 60)
            time.sleep(2.5)
            browser.ask("document.activeElement.blur()")
            browser.picture(folder / "window.png")
            browser.click("#theme")
            browser.click("#theme")
            browser.until("document.documentElement.dataset.theme === 'dark'")
            browser.driver.execute_script("document.getElementById('retention').scrollIntoView()")
            time.sleep(1.5)
            browser.picture(folder / "window-dark.png")
            browser.click("#theme")
            browser.open(f"{url}/ui", PHONE, "dark")
            browser.until("document.querySelector('#bands .band') !== null")
            browser.driver.execute_script("document.getElementById('contexts').scrollIntoView()")
            time.sleep(1.5)
            browser.picture(folder / "window-phone.png")
    for picture in sorted(folder.glob("window*.png")):
        fewer_colours(picture)
        note(f"{picture}: {picture.stat().st_size:,} bytes")


def ask(url: str, question: str, text: str, tokens: int) -> None:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": question}]
    body = {"messages": messages, "max_tokens": tokens, "ignore_eos": True}
    sent = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(sent) as response:
        response.read()


def go_on(url: str) -> None:
    """An answer that is still being generated when the server ends."""
    with suppress(OSError):
        ask(url, "Tell me everything.", long_text()[:4000], 400)


def fewer_colours(picture: Path) -> None:
    """A file of half the size. Pillow comes with matplotlib, of the extra ``reports``."""
    from PIL import Image

    with Image.open(picture) as image:
        image.convert("RGB").quantize(255, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            picture, optimize=True
        )


def converse(browser: Browser) -> None:
    """The first question exactly, the second from exact and from compressed KV."""
    browser.until("document.getElementById('method').options.length > 0")
    browser.driver.execute_script(
        "document.getElementById('document').value = arguments[0];"
        "document.getElementById('document').dispatchEvent(new Event('change'));",
        DOCUMENT.read_text(encoding="utf-8"),
    )
    for number, (question, mode) in enumerate(zip(QUESTIONS, ("exact", "both"), strict=True), start=1):
        browser.click(f"input[name=mode][value={mode}]")
        browser.write("#length", "32")
        browser.write("#question", question)
        browser.click("#send")
        browser.until(f"document.querySelectorAll('.account').length === {2 * number - 1}", 120)
        note(question)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
