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


# The least contrast of a text in a chart, or in its picture, with the ground that it stands on
CONTRAST = """() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [...document.querySelectorAll(".pk-chart")].flatMap(chart => {
    const ground = light(getComputedStyle(chart).backgroundColor);
    return [...chart.querySelectorAll("svg text")].filter(text => text.textContent.trim()).map(text => {
      const ink = light(getComputedStyle(text).fill);
      return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    });
  });
  return Math.min(...found);
}"""


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

    def barriers(self):
        """What keeps people from reading the page, by axe-core, and pale texts of charts; colours in both schemes."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
        found = []
        for scheme, rules in (("light", None), ("dark", {"runOnly": ["color-contrast"]})):
            self.page.emulate_media(color_scheme=scheme)
            answer = axe.Axe().run(self.page, options=rules).response
            assert len(answer["passes"]) > (15 if rules is None else 0)
            found += [(scheme, one["id"], one["nodes"][0]["target"]) for one in answer["violations"]]
            contrast = self.page.evaluate(CONTRAST)
            found += [(scheme, "contrast of a chart's text", contrast)] if contrast < 4.5 else []
        return found
