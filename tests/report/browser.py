"""A headless Chromium for tests of pages: what it shows, what it complains about and what it asks the network for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
DESKTOP, PHONE = 1200, 360


class Browser:
    """Chromium with one page open.

    Attributes:
        downloads: folder of the files that it saves.
    """

    def __init__(self, folder: Path) -> None:
        """Starts it with its profile and downloads under `folder`; skips the test where it is not installed."""
        chromium, driver = _find("chromium", "chromium-browser", "google-chrome"), _find("chromedriver")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # The path is given, so that Selenium does not look for a driver in the network.
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.downloads = folder / "downloads"
        self.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(self.downloads)}
        )

    def close(self) -> None:
        self.driver.quit()

    def open(self, path: Path, *, width: int = DESKTOP, scripts: bool = True, **media: str) -> None:
        """Loads a file.

        Args:
            media: features as `prefers_color_scheme="dark"`.
        """
        self.resize(width)
        self.media(**media)
        self.cdp("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.logs()
        self.requests()
        self.driver.get(path.as_uri())
        if scripts:
            self.until("return document.readyState === 'complete'")
            self.until_drawn()

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def resize(self, width: int) -> None:
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def media(self, **features: str) -> None:
        """Emulates media features; by default light and still, for what scrolls smoothly cannot be clicked."""
        values = {"prefers_color_scheme": "light", "prefers_reduced_motion": "reduce", **features}
        self.cdp(
            "Emulation.setEmulatedMedia",
            features=[{"name": name.replace("_", "-"), "value": value} for name, value in values.items()],
        )

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element("css selector", css)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", css)

    def until(self, script: str, *arguments: Any) -> Any:
        """Waits until a script returns something true, and returns that."""
        wait = WebDriverWait(self.driver, 20, poll_frequency=0.05)
        return wait.until(lambda _: self.js(script, *arguments), f"never true: {script}")

    def hover(self, mark: WebElement, word: str) -> str:
        """What a chart tells where the mouse is on one of its marks, once it says that word."""

        def told(_: Any) -> str | None:
            # A chart that has just been scrolled or drawn may miss a move, so the mouse comes again.
            self.js("arguments[0].scrollIntoView({ block: 'center' })", mark)
            chain = ActionChains(self.driver)
            chain.w3c_actions.pointer_action.move_to_location(1, 1)
            chain.move_to_element(mark).perform()
            texts = self.js(
                "return [...document.querySelectorAll('.hoverlayer .hovertext')].map((text) => text.textContent)"
            )
            return next((text for text in texts if word in text), None)

        found: str = WebDriverWait(self.driver, 20, poll_frequency=0.1).until(told, f"no label says {word}")
        return found

    def until_drawn(self) -> None:
        """Waits until every chart that has a place is drawn."""
        self.until(
            "return [...document.querySelectorAll('.chart')]"
            ".every((chart) => chart.clientWidth === 0 || chart.querySelector('.main-svg'))"
        )

    def logs(self) -> list[str]:
        """What the console has said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, but those that are in the page itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and not message["params"]["request"]["url"].startswith(("data:", "blob:"))
        ]

    def has_room(self) -> bool:
        """Whether nothing sticks out of the page to the right."""
        return bool(self.js("return document.documentElement.scrollWidth <= window.innerWidth"))


def _find(*names: str) -> str:
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip(f"{names[0]} is not installed")
