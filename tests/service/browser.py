"""A real browser for the tests of the pages: Debian's Chromium, headless, with a new profile, on this machine alone.

`browser` and `page` are fixtures, which the explorer's conftest.py takes.

Pictures go to browser-screenshots/ at the top of the checkout (git-ignored).
"""

__all__ = ["LAPTOP", "PICTURES", "Browser", "browser", "page", "serving"]

import contextlib
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI

PICTURES = Path(__file__).parents[2] / "browser-screenshots"
LAPTOP = (1366, 768)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-features=OptimizationHints,MediaRouter,Translate", "--disable-default-apps", "--metrics-recording-only",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip


class Browser:
    """A driver with what the tests ask of it; `driver` is selenium's own."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page and wait until its scripts have run."""
        self.driver.get(url)
        self.wait(lambda: self.js("return document.readyState") == "complete", f"{url} to load")

    def js(self, script: str, *values: object):
        """What a script returns."""
        return self.driver.execute_script(script, *values)

    def all(self, selector: str) -> list:
        """Every element that a CSS selector finds."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        """The first element that a CSS selector finds, waited for."""
        return self.wait(lambda: next(iter(self.all(selector)), None), f"an element {selector}")

    def wait(self, found: Callable[[], object], what: str, seconds: float = 20.0):
        """The first true answer of `found`; an element that was exchanged meanwhile is looked for again."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(StaleElementReferenceException):
                if answer := found():
                    return answer
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds:g} s for {what}; at {self.driver.current_url}")

    def move_and_click(self, x: float, y: float) -> None:
        """The mouse goes there and clicks, in pixels of the window; plots see it pass."""
        for kind in ("mouseMoved", "mouseMoved", "mousePressed", "mouseReleased"):
            pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pressed})
            time.sleep(0.1)  # a plot looks for what is under the mouse after a moment

    def press(self, key: str) -> None:
        """A key, given to whatever has the focus."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **text}
            self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", event)

    def prefer(self, scheme: str) -> None:
        """What the system prefers: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def size(self, width: int, height: int) -> None:
        """The size of the window in pixels of the page."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def picture(self, name: str) -> Path:
        """Keep what the window shows as browser-screenshots/NAME.png."""
        PICTURES.mkdir(exist_ok=True)
        path = PICTURES / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path

    def errors(self) -> list[str]:
        """What the console called severe since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def strangers(self) -> list[str]:
        """URLs of other machines that were asked for since it was asked last."""
        urls = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                urls.append(message["params"].get("url") or message["params"]["request"]["url"])
        return [url for url in urls if urlsplit(url).scheme not in ("data", "blob", "chrome", "about")
                and urlsplit(url).hostname not in ("127.0.0.1", "localhost")]  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium on a laptop's screen. Skips, and says so, where Chromium or its driver is not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver_path = shutil.which("chromedriver")
    if not chromium or not driver_path:
        absent = "chromium" if not chromium else "chromedriver"
        pytest.skip(f"no {absent} here (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={LAPTOP[0]},{LAPTOP[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver_path))
        try:
            found = Browser(driver)
            found.size(*LAPTOP)
            yield found
        finally:
            driver.quit()


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """The browser; afterwards it must not have complained, nor asked any other machine."""
    browser.errors(), browser.strangers()
    browser.prefer("light")
    yield browser
    assert browser.errors() == []
    assert browser.strangers() == []


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The application on a free port, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        end = time.monotonic() + 20
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.02)
        assert server.started, "the application did not start"
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)
