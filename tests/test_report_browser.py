"""Pages in a real browser that is offline: they draw without errors, fetch nothing, and obey mouse and keys."""

import shutil
import time

import numpy as np
import pytest
import small_pages
from small_tables import write_study

from mlresearch.cli import main
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSpace
from mlresearch.report import labels
from mlresearch.report.markup import Html
from mlresearch.report.page import Page, write

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not on PATH: {', '.join(MISSING)}")

ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1400,900"),
)
LARGE = 98_505  # labels of all of ICD-10-CM


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a run, of a study, and of labels alone, of which there are many, by name."""
    folder = tmp_path_factory.mktemp("pages")
    run = small_pages.train_evil(folder)
    assert main(["report", str(run)]) == 0
    write_study(folder / "study", seeds=3)
    assert main(["report", str(folder / "study"), f"--workdir={folder / 'runs'}"]) == 0
    names = tuple(f"label {at}" for at in range(LARGE))
    children = np.arange(1, LARGE)  # of 900 roots' worth of labels under the first, and so on
    hierarchy = LabelHierarchy.from_edges(names, np.stack([children, (children - 1) // 900], 1))
    counts = (np.arange(LARGE) * 7919) % LARGE
    columns = {"test": counts.astype(np.float64)}
    report = labels.LabelReport("test", LabelSpace(names, names), hierarchy, columns, whole=False)
    sections = tuple(labels.sections(report))
    write(Page("large", Html(""), sections, {"labels": report.to_json()}), folder / "large.html")
    return {
        "run": run / "report.html",
        "study": folder / "runs" / "report.html",
        "large": folder / "large.html",
    }


@pytest.fixture
def visit(browser, pages):
    """Open a page by its name."""

    def open_page(name):
        browser.get(pages[name].as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []


def find(browser, selector):
    return browser.find_element("css selector", selector)


def column(browser, at, table=".labels-table"):
    """The texts of a column of a table, by its place."""
    return browser.execute_script(
        "const [table, at] = arguments;"
        "return [...document.querySelector(table).tBodies[0].rows].map((row) => row.cells[at].textContent)",
        *(table, at),
    )


def heading(browser, title, table=".labels-table"):
    """The cell and the button of a heading, and its place."""
    for at, cell in enumerate(browser.find_elements("css selector", f"{table} thead tr:last-child th")):
        if cell.text.split()[:1] == [title]:
            return cell, cell.find_element("css selector", "button"), at
    raise AssertionError(title)


@pytest.mark.parametrize("name", ["run", "study", "large"])
def test_a_page_draws_without_errors_and_fetches_nothing(visit, name):
    browser = visit(name)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)") == []
    assert browser.execute_script("return performance.getEntriesByType('navigation').length") == 1
    assert find(browser, "main section h2").is_displayed()


def test_no_name_and_no_text_does_harm(visit):
    browser = visit("run")
    assert "harmed" not in browser.title
    no_figure = "img:not([src^='data:image/svg+xml;base64,']), img[onerror]"
    assert browser.find_elements("css selector", f"{no_figure}, main script, main i") == []
    assert set(column(browser, 0)) == set(small_pages.LABELS)
    assert small_pages.EVIL in find(browser, "#label-tree").text
    assert small_pages.EVIL in find(browser, "#examples blockquote").text


def test_what_would_be_fetched_is_refused(browser, pages):
    browser.get(pages["run"].as_uri())
    browser.execute_script("new Image().src = 'http://localhost:9/planted.png'")
    browser.execute_script("document.body.append(Object.assign(document.createElement('script'), {text: 'title = 1'}))")
    said, until = [], time.monotonic() + 10
    while len(said) < 2 and time.monotonic() < until:
        said += browser.get_log("browser")
    assert sum("Content Security Policy" in each["message"] for each in said) == 2


def test_labels_are_sorted_by_numbers(visit):
    browser = visit("run")
    for title in ("test", "precision", "F1"):
        cell, button, at = heading(browser, title)
        button.click()
        assert cell.get_attribute("aria-sort") == "descending"
        down = column(browser, at)
        button.click()
        assert cell.get_attribute("aria-sort") == "ascending"
        up = column(browser, at)
        for texts, sign in ((down, -1), (up, 1)):
            numbers = [float(text) for text in texts if text != "–"]
            assert numbers == sorted(numbers, key=lambda number, sign=sign: sign * number)
            assert texts[len(numbers) :] == ["–"] * (len(texts) - len(numbers))  # last, whatever the direction
        assert len(set(up)) > 1
    assert len(browser.find_elements("css selector", ".labels-table [aria-sort]")) == 1


def test_labels_are_sorted_by_name_and_by_key(visit):
    browser = visit("run")
    assert column(browser, 0) == list(small_pages.LABELS)
    cell, button, _ = heading(browser, "label")
    button.send_keys("\ue007")  # Enter
    names = column(browser, 0)
    assert cell.get_attribute("aria-sort") == "ascending"
    assert [name for name in names if name[0].isalpha()] == ["label 9", "label 10", "wren", "Zebra & <b>"]
    button.send_keys(" ")
    assert column(browser, 0) == names[::-1]


def test_labels_are_filtered_by_words_of_name_or_description(visit):
    browser = visit("run")
    filter_box = find(browser, "#label-filter")
    for words, wanted in (
        ("LABEL 1", ["label 10"]),
        ("zebra", ["Zebra & <b>"]),
        ("of wren", ["wren"]),
        ("onerror owl", [small_pages.LABELS[2]]),
        ("none such", []),
        ("", list(small_pages.LABELS)),
    ):
        filter_box.clear()
        filter_box.send_keys(words or "x\ue003")  # Backspace
        assert column(browser, 0) == wanted
        assert f"{len(wanted)} labels" in find(browser, "#label-table .status").text


def tree(browser):
    """The visible nodes of the tree: depth, whether it is open, and the label."""
    items = [each for each in browser.find_elements("css selector", "[role=treeitem]") if each.is_displayed()]
    return [
        (
            int(each.get_attribute("aria-level")),
            each.get_attribute("aria-expanded"),
            each.find_element("css selector", "b").text,
        )
        for each in items
    ]


def test_the_hierarchy_opens_by_click(visit):
    browser = visit("run")
    owl = small_pages.LABELS[2]
    top, roots = (1, "true", "label 10"), [(1, None, "Zebra & <b>"), (1, None, "$style ${script}")]
    below = [(2, None, "label 9"), (2, "false", owl)]
    assert tree(browser) == [top, *below, *roots]
    browser.find_elements("css selector", "[role=group] .node")[1].click()
    assert tree(browser) == [top, below[0], (2, "true", owl), (3, None, "wren"), *roots]
    find(browser, "[role=treeitem] .node").click()
    assert tree(browser) == [(1, "false", "label 10"), *roots]


def test_the_hierarchy_opens_by_key(visit):
    browser = visit("run")

    def press(*keys):
        for key in keys:
            browser.switch_to.active_element.send_keys(key)
        return browser.switch_to.active_element.find_element("css selector", "b").text

    up, down, left, right, home, end = "\ue013", "\ue015", "\ue012", "\ue014", "\ue011", "\ue010"
    browser.execute_script("document.querySelector('[role=tree] [tabindex=\"0\"]').focus()")
    assert press(down, down) == small_pages.LABELS[2]
    assert len(tree(browser)) == 5
    assert press(right) == small_pages.LABELS[2]
    assert len(tree(browser)) == 6
    assert press(right) == "wren"
    assert press(left, left) == small_pages.LABELS[2]
    assert len(tree(browser)) == 5
    assert press(left, left) == "label 10"
    assert len(tree(browser)) == 3
    assert press("\ue007", end) == "$style ${script}"
    assert press(up, home) == "label 10"
    assert len(browser.find_elements("css selector", "[role=tree] [tabindex='0']")) == 1


def test_a_node_has_the_score_that_is_chosen(visit):
    browser = visit("run")
    for title in ("F1", "average"):
        at = heading(browser, title)[2]
        by_name = dict(zip(column(browser, 0), column(browser, at), strict=True))
        options = browser.find_elements("css selector", "#tree-score option")
        next(option for option in options if option.text.split()[0] == title).click()
        item = find(browser, "[role=treeitem]")
        assert item.find_element("css selector", ".score").text == by_name["label 10"]
        assert f"{title}" in item.get_attribute("aria-label")
        width = item.find_element("css selector", ".filled").get_attribute("width")
        assert float(width) == pytest.approx(100 * float(by_name["label 10"]), abs=0.06)


def test_many_labels_are_drawn_a_few_at_a_time(visit):
    began = time.monotonic()
    browser = visit("large")
    assert len(column(browser, 0)) == 50
    _, button, _ = heading(browser, "test")
    button.click()
    assert column(browser, 1)[:3] == ["98,504", "98,503", "98,502"]
    browser.find_elements("css selector", "#label-table .tools button")[1].click()
    assert column(browser, 1)[0] == "98,454"
    assert "51–100 of 98,505" in find(browser, "#label-table .status").text
    _, button, _ = heading(browser, "label")
    button.click()
    assert column(browser, 0)[:3] == ["label 0", "label 1", "label 2"]
    find(browser, "#label-filter").send_keys("98504")
    assert column(browser, 0) == ["label 98504"]
    assert len(tree(browser)) == 1
    find(browser, "[role=treeitem] .node").click()
    assert len(browser.find_elements("css selector", "[role=treeitem]")) < 250
    find(browser, "[role=group] > li:last-child .node").click()
    assert len(browser.find_elements("css selector", "[role=treeitem]")) > 400
    # A second or two on an idle machine; a busy one may take a while longer.
    assert time.monotonic() - began < 30


def test_the_table_of_a_study_is_sorted(visit):
    browser = visit("study")
    table = "#table-1 table"
    assert column(browser, 0, table) == ["independent", "conditional"]
    cell, button, at = heading(browser, "subset_accuracy", table)
    button.click()
    assert cell.get_attribute("aria-sort") == "descending"
    assert column(browser, 0, table) == ["conditional", "independent"]
    assert [text[:5] for text in column(browser, at, table)] == ["0.610", "0.510"]
    seed = heading(browser, "seed", "#runs table")
    seed[1].click()
    assert column(browser, seed[2], "#runs table") == ["2", "2", "1", "1", "0", "0"]


@pytest.mark.parametrize("name", ["run", "study"])
def test_a_page_fits_a_telephone_and_follows_the_light(visit, name):
    browser = visit(name)
    narrow = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    papers = []
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            papers.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    light, dark = (sum(map(int, paper[4:-1].split(","))) for paper in papers)
    assert light > 700
    assert dark < 100
