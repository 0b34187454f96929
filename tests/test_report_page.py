"""report.html: what it says, that it escapes, and that it works in a headless browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.browser import NAMES, browser, find_browser
from helpers.report_cases import FAILED_CHECK, run, ticket

from report.page import SECTIONS, Picture, curve_svg, page
from report.runs import Point
from report.verdict import judge

HOSTILE = """<script>alert("x")</script>'&" onload=alert(1) --> </title>"""
CHROMIUM = find_browser()
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no browser here: none of {', '.join(NAMES)} is installed"
)


class Tags(HTMLParser):
    """Counts tags and attributes that start an action, and checks that tags are balanced."""

    EMPTY = ("meta", "link", "img", "path", "polyline", "circle", "br")

    def __init__(self, html):
        super().__init__()
        self.found, self.open, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


DENSE = ticket(0, 90, 80, 40)
GRID = DENSE + ticket(1, 90, 80.05, 40) + ticket(2, 90, 80.2, 40) + ticket(10, 50, 9, 4)


def build(runs, tmp_path, **extra):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0H9"/></svg>'
    file = tmp_path / "figure.svg"
    file.write_text(svg)
    picture = Picture(extra.get("title", "A figure"), "What it shows.", (file,))
    return page(judge(runs), [picture], extra.get("curves", {}))


def test_the_verdict_comes_first_and_in_words(tmp_path):
    html = build(GRID, tmp_path)
    sections = re.findall(r'<section id="(\w+)"', html)
    assert sections == list(SECTIONS)
    text = " ".join(Tags(html).text.split())
    assert "adv: Sparsest double win: 36.0 % (imp state 2) by the paper\u2019s rule" in text
    assert "SA under AT 80.20; needed: 79.50 (dense 80.00 minus 0.50, the margin)" in text
    assert "Setting. network: resnet18 · fingerprint of the test images:" in text
    assert "minus a margin of 0.5 points" in text
    for word in ("interim", "margin", "evidence", "best-SA net"):
        assert f"<dt>{word}</dt>" in html


def test_missing_runs_errors_and_warnings_are_told(tmp_path):
    lost = ticket(1, 90, 80, 40, dataset="svhn")
    warned = run(90, mode="std", state=3, masking_checks=FAILED_CHECK)
    html = build([*GRID, *lost, warned], tmp_path)
    text = " ".join(Tags(html).text.split())
    assert "no dense run, so nothing to match" in text
    assert "adv, cifar10, 100 % of the data: imp state 3, AT, seed 1" in text
    assert "gradients may be masked" in text
    assert ">missing</td>" in html


def test_each_row_says_how_to_reproduce_it(tmp_path):
    html = build(
        [*GRID, run(90, mode="std", seed=2, command=["python", "main.py", "a b"])], tmp_path
    )
    assert "<pre>python main.py &#x27;a b&#x27;</pre>" in html
    assert html.count("<pre>not recorded</pre>") == len(GRID)


def test_whatever_comes_from_files_is_escaped(tmp_path):
    changes = {"pretraining": HOSTILE, "dataset": HOSTILE, "arch": HOSTILE}
    runs = ticket(0, 90, 80, 40, **changes)
    runs += ticket(
        1,
        90,
        80,
        40,
        **changes,
        command=HOSTILE,
        masking_checks=[{"name": HOSTILE, "passed": False}],
        path=HOSTILE,
    )
    runs += ticket(1, 90, 80, 40, dataset=HOSTILE)
    tame = Tags(build(GRID, tmp_path))
    wild = Tags(build(runs, tmp_path, title=HOSTILE))
    assert HOSTILE in wild.text
    for tags in (tame, wild):
        assert tags.open == []
        assert [tag for tag, _ in tags.found].count("script") == 1
        assert not [name for _, attrs in tags.found for name in attrs if name.startswith("on")]


def test_the_page_needs_no_network(tmp_path):
    html = build(GRID, tmp_path)
    assert "default-src 'none'" in html
    for _, attributes in Tags(html).found:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))


def test_a_curve_is_drawn_within_its_frame_and_thinned_out():
    points = [Point(e, None, min(e, 100.0), 40.0 if e == 5 else None) for e in range(1000)]
    svg = curve_svg(points)
    (places,) = re.findall(r'class="sa" points="([^"]+)"', svg)
    pairs = [tuple(map(float, place.split(","))) for place in places.split()]
    assert len(pairs) <= 61
    assert (pairs[0], pairs[-1]) == ((2.0, 42.0), (118.0, 2.0))
    assert curve_svg([Point(0, None, 50.0, 20.0)]).count("<circle") == 2
    assert "none" in curve_svg([])


# --- in the browser -----------------------------------------------------------------------------

COLUMN = """(() => { const table = document.querySelector('#tickets table');
  return [...table.tBodies[0].rows].map(row => row.cells[%d].textContent); })()"""
SORTED = """[...document.querySelectorAll('#tickets th')].map(th => th.getAttribute('aria-sort'))"""
HEAD = "document.querySelectorAll('#tickets th button')[%d]"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The page of a small grid with one missing run and hostile names, in a running browser."""
    folder = tmp_path_factory.mktemp("page")
    runs = GRID + [run(91, mode="std", state=9)] + ticket(0, 1, 1, 1, dataset=f"z{HOSTILE}")
    curves = {r.path: [Point(0, 1.0, 10.0, None), Point(1, 2.0, 90.0, 5.0)] for r in runs}
    path = folder / "report.html"
    path.write_text(build(runs, Path(folder), curves=curves), encoding="utf-8")
    with browser(CHROMIUM or "") as tab:
        tab.look(1200, 900)
        yield tab, path


@needs_browser
def test_the_page_opens_without_errors_and_without_any_request(opened):
    tab, path = opened
    tab.open(path)
    assert tab.run("document.title") == "Double-win tickets"
    assert tab.run("document.images[0].complete && document.images[0].naturalWidth > 0")
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.problems == []


@needs_browser
def test_a_click_sorts_and_a_second_one_turns_it_round(opened):
    tab, path = opened
    tab.open(path)
    before = tab.run(COLUMN % 4)
    assert before == ["0", "1", "2", "9", "10", "0"]
    tab.run((HEAD % 4) + ".click()")
    assert tab.run(COLUMN % 4) == ["0", "0", "1", "2", "9", "10"]  # as numbers, not as text
    assert tab.run(SORTED)[4] == "ascending"
    tab.run((HEAD % 4) + ".click()")
    assert tab.run(COLUMN % 4) == ["10", "9", "2", "1", "0", "0"]
    assert tab.run(SORTED) == [None] * 4 + ["descending"] + [None] * 8
    assert tab.problems == []


@needs_browser
@pytest.mark.parametrize("key", ["Enter", " "])
def test_the_keyboard_sorts_and_missing_figures_stay_last(opened, key):
    tab, path = opened
    tab.open(path)
    tab.run((HEAD % 7) + ".focus()")
    for way in ("ascending", "descending"):
        tab.press(key)
        assert tab.run(SORTED)[7] == way
        shown = tab.run(COLUMN % 7)
        assert shown[-1] == "missing"
        numbers = [float(re.findall(r"[\d.]+", cell)[0]) for cell in shown[:-1]]
        assert numbers == sorted(numbers, reverse=way == "descending")
    assert tab.problems == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_in_both_schemes_and_never_wider_than_the_window(opened, scheme):
    tab, path = opened
    for width in (360, 1600):
        tab.look(width, 800, scheme)
        tab.open(path)
        assert tab.run("document.documentElement.scrollWidth") <= width
        ink, paper = (
            sum(
                map(int, re.findall(r"\d+", tab.run(f"getComputedStyle(document.body).{name}"))[:3])
            )
            for name in ("color", "backgroundColor")
        )
        assert (ink < paper) == (scheme == "light")
        assert abs(ink - paper) > 400
    tab.look(1200, 900)


@needs_browser
def test_an_error_in_the_console_would_be_noticed(opened, tmp_path):
    tab, _ = opened
    for script in ("console.error('x')", "fetch('http://127.0.0.1:9/')", "nonsense()"):
        broken = tmp_path / "broken.html"
        broken.write_text(f"<script>{script}</script>")
        tab.open(broken)
        for _ in range(100):  # a busy browser tells later
            tab.run("new Promise(done => setTimeout(done, 100))", wait=True)
            if tab.problems:
                break
        assert tab.problems
        tab.problems.clear()
        tab.requests.clear()
