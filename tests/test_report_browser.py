"""The report in a real browser without network: Debian's Chromium, driven by Playwright."""

import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run_folders import make_results, paste_custom_plot

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
FIGURES = ("model_comparison", "trajectories", "convergence_analysis", "parameter_importance", "custom_plot")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    make_results(root / "results", families=["mackey", "neutral"], trials=4)
    program = runpy.run_path(str(paste_custom_plot(root)))
    assert program["main"](["--results_dir", str(root / "results"), "--output_dir", str(root / "report")]) == 0
    return root / "report"


class Visit:
    """A page, and all that it asked the network for or complained about."""

    def __init__(self, context: object, url: str) -> None:
        self.page, self.requests, self.complaints = context.new_page(), [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def outside(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(params=[1280, 390])
def visit(request: pytest.FixtureRequest, browser: object, folder: Path) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": request.param, "height": 900}, offline=True)
    yield Visit(context, (folder / "report.html").as_uri())
    context.close()


def test_page_loads_alone_and_holds_every_figure(visit):
    assert visit.outside() == [] and visit.complaints == []
    assert [url for url in visit.requests if url.startswith("file:")] == [visit.page.url]  # self-contained
    sizes = visit.page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
    assert len(sizes) >= len(FIGURES) and min(sizes) > 100
    for name in FIGURES:
        assert visit.page.locator(f"section#{name} img").count() == 1
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for target in visit.page.eval_on_selector_all("nav a", "all => all.map(one => one.getAttribute('href'))"):
        assert visit.page.locator(target).count() == 1


def test_page_fits_on_paper(visit):
    visit.page.emulate_media(media="print")
    visit.page.set_viewport_size({"width": 718, "height": 1000})  # A4 between its margins
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert visit.page.locator("#configurations tbody tr:visible").count() > 2
    assert not visit.page.locator("button:visible").count()


def test_table_sorts_both_ways_and_filters(visit):
    head = visit.page.locator("#configurations th", has_text="Test")
    head = head.first if head.count() else visit.page.locator("#configurations th").nth(3)
    column = head.evaluate("head => head.cellIndex")
    read = f"rows => rows.map(row => Number(row.cells[{column}].dataset.v))"
    head.click()
    up = visit.page.eval_on_selector_all("#configurations tbody tr", read)
    head.click()
    down = visit.page.eval_on_selector_all("#configurations tbody tr", read)
    assert len(set(up)) > 2 and up == sorted(up) and down == sorted(up, reverse=True)
    visit.page.fill("#filter", "neutral")
    shown = visit.page.locator("#configurations tbody tr:visible")
    assert 0 < shown.count() < len(up)
    assert all("neutral" in text for text in shown.all_text_contents())
    assert visit.page.text_content("#count").startswith(f"{shown.count()} of ")


def test_pointing_at_a_trial_shows_its_folder_and_command(visit):
    visit.page.locator("#plot svg").scroll_into_view_if_needed()
    mark = visit.page.locator("#plot path[data-run]").first
    box, run = mark.bounding_box(), mark.get_attribute("data-run")
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = visit.page.locator("#tip")
    tip.wait_for(state="visible", timeout=5000)
    said = tip.text_content()
    assert re.search(r"(stacked_history|method_of_steps|memory_kernel) on (mackey|neutral)", said)
    assert "--rerun" in said and (run in said or visit.page.locator(f"path[data-run='{run}']").count() == 1)


def test_interactive_pages_work_without_network(browser, folder):
    context = browser.new_context(offline=True)
    pages = sorted(folder.glob("interactive_*.html"))
    assert pages
    for path in pages[:: max(1, len(pages) // 4)]:
        opened = Visit(context, path.as_uri())
        opened.page.wait_for_selector(".main-svg", timeout=20000)
        assert opened.outside() == [] and opened.complaints == []
        assert "cloud" not in (opened.page.locator(".modebar").first.text_content() or "").lower()
        opened.page.close()
    context.close()
