"""Chromium looks at pages of `segcal serve` and of a report, as a reader's browser does."""

__all__ = ["open_window", "serving"]

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.service.browser import FLAGS, Browser


class Window(Browser):
    """A browser that gives what it shows as a picture."""

    def shot(self, width: int, height: int) -> Image.Image:
        """The top of the page, in a window of this size."""
        self.size(width, height)
        self.js("window.scrollTo(0, 0)")
        return Image.open(BytesIO(self.driver.get_screenshot_as_png()))

    def drawn(self, what: str) -> None:
        """Wait until the volumes of a case are drawn."""
        self.wait(lambda: self.js("return document.getElementById('gl')?.dataset.drawn"), what, 120)


@contextlib.contextmanager
def open_window() -> Iterator[Window]:
    """A headless Chromium; one line and no traceback where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver_path = shutil.which("chromedriver")
    if not chromium or not driver_path:
        absent = "chromium" if not chromium else "chromedriver"
        raise SystemExit(f"pictures of pages need {absent}, which is not installed: apt-get install chromium "
                         "chromium-driver")  # fmt: skip
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver_path))
        try:
            window = Window(driver)
            window.prefer("light")
            yield window
        finally:
            driver.quit()


@contextlib.contextmanager
def serving(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """`segcal serve` of a folder's store on a free port; its URL."""
    command = [sys.executable, "-m", "segcal", "serve", "--port", "0", "--json"]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | environment, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("segcal serve did not start; what it said stands above")
        yield json.loads(line)["url"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()
