"""Reports and mails in a real, headless browser without a network."""

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
needs_chromium = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: a report is only proved by a browser"),
]
DRAWN = "html[data-drawn]"
LARGEST = 2_000_000


class Opened:
    """A report in a browser page, with everything that it said and asked for."""

    def __init__(self, browser, file, width=1280, scheme="light", until=DRAWN):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page = context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        if until == DRAWN:  # charts are drawn when they come near
            for place in range(0, self.page.evaluate("document.documentElement.scrollHeight"), 900):
                self.page.evaluate(f"scrollTo(0, {place})")
                self.page.evaluate("new Promise(requestAnimationFrame)")
            self.page.wait_for_selector(until, state="attached")
            self.page.evaluate("scrollTo(0, 0)")
        elif until:
            self.page.wait_for_selector(until, state="attached")

    def count(self, selector):
        return self.page.locator(selector).count()
