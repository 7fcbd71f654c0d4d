"""A real Chromium without a screen, driven by selenium: the distribution's, for whoever looks at the window."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
HINT = "apt-get install chromium chromium-driver"
DESKTOP, PHONE = (1440, 1000), (390, 844)

Theme = Literal["light", "dark"]


class NoBrowser(Exception):
    """There is no browser here, or no driver for it."""


def found_browser() -> tuple[str, str]:
    """Paths of the browser and of its driver. Raises NoBrowser, which says what is missing."""
    browser = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which(DRIVER)
    if browser is None or driver is None:
        raise NoBrowser(f"no {PROGRAMS[0] if browser is None else DRIVER} on this machine: {HINT}")
    return browser, driver


@contextmanager
def opened() -> Iterator[Browser]:
    """Raises NoBrowser."""
    browser, driver = found_browser()
    try:
        from selenium import webdriver
    except ImportError:
        raise NoBrowser("selenium is not installed: pip install selenium") from None
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for word in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"):
        options.add_argument(word)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium does not start as root otherwise
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(session)
    finally:
        session.quit()


class Browser:
    """A page at a time. What is not there yet is waited for."""

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def open(self, url: str, size: tuple[int, int] = DESKTOP, theme: Theme | None = None) -> None:
        """``theme``: what the system is said to prefer."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < height}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [] if theme is None else [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(url)
        self.until("document.querySelector('#figures b') !== null")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {expression};")

    def until(self, expression: str, seconds: float = 20.0) -> Any:
        """Wait until it is true. Raises AssertionError."""
        return self.wait(lambda: self.ask(expression), expression, seconds)

    def wait(self, found: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := found()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        self.ask(f"document.querySelector({selector!r}).click()")

    def write(self, selector: str, text: str) -> None:
        """Type into a field, in place of what is there."""
        element = self.driver.find_element("css selector", selector)
        element.clear()
        element.send_keys(text)

    def press(self, *keys: str) -> None:
        """On whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focus(self) -> str:
        """The id of what has the focus, or its class, or its name."""
        where = "document.activeElement"
        return str(self.ask(f"{where}.id || {where}.className || {where}.tagName"))

    def complaints(self) -> list[str]:
        """What the page has written to the console since the last call: errors, refused scripts."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is on the screen, or of the whole page."""
        if whole:
            height = int(self.ask("document.documentElement.scrollHeight"))
            width = int(self.ask("innerWidth"))
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.save_screenshot(str(path))
