"""The report page in a real browser: reading, typing, clicking; 10,000 completions; attacks."""

import json
import re
import time

import pytest
from browser import Browser, find_browser
from jsonl import write_jsonl
from run_folders import rl_run, write_stage

from fastrl.report.page import write_page

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium here (Debian: apt install chromium)"
)
NASTY = '</script><script>hacked=1</script><img src=x onerror="hacked=1"><a href="javascript:hacked=1">\u2028'
ROWS = "document.querySelectorAll('.view .row')"
COUNT = "document.querySelector('output').textContent"
CHOSEN = "document.querySelector('.row[aria-selected=true]').textContent"
LATER = "new Promise((done) => setTimeout(done, 160))"


def texts(browser, selector):
    """What each such element says."""
    return browser.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.textContent)"
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """3 steps of 2 groups of 4: 12 right, and of each step's 8 numbers 0, 3 and 6 transfer."""
    return write_page(rl_run(tmp_path_factory.mktemp("page") / "run")).path


@pytest.fixture
def opened(browser, page):
    browser.prefer("light")
    browser.open(page)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_the_page_shows_the_run(opened):
    assert opened.run("document.title") == "run - fastrl report"
    assert texts(opened, ".chart .name")[:3] == ["rewards/answer/mean", "rewards/transfer/mean", "reward"]
    assert opened.run(COUNT) == "24 of 24" and opened.run(f"{ROWS}.length") == 24
    assert (
        opened.run("document.querySelector('#curves .chart:nth-child(3)').ariaLabel")
        == "reward: 0.1 \u2192 0.3"
    )
    assert texts(opened, "#time td:first-child") == ["rollout", "update", "\u2514 policy decode"]
    assert texts(opened, "#time td:last-child") == ["66.7 %", "33.3 %", "16.7 %"]
    # the completion with its cut in its place
    assert opened.run("document.querySelectorAll('.detail pre')[1].textContent") == (
        "1+2=3\n\u2702 cut 13+0=3\n\\boxed{3}"
    )
    assert opened.run("document.querySelector('.detail .run').textContent").startswith("\u2713 rightfinish")


def test_filters_sorting_and_search(opened):
    opened.press("r")
    assert opened.run(COUNT) == "12 of 24"
    opened.press("t")  # of 0 ... 7 those that are even and divisible by three: 0 and 6
    assert opened.run(COUNT) == "6 of 24"
    assert texts(opened, "[aria-pressed=true]") == ["right r", "transfers t"]
    opened.press("]", "]")
    assert opened.run(COUNT) == "2 of 24" and opened.run(CHOSEN).startswith("20")  # step 2, group 0
    opened.press("x", "w", "n")  # 1, 5, 7
    assert opened.run(COUNT) == "9 of 24"
    opened.press("x", "/")
    assert opened.run("document.activeElement.type") == "search"
    opened.press(*"3+5=?")
    opened.run(LATER)
    assert opened.run(COUNT) == "3 of 24"  # the fifth continuation of each step
    assert opened.run("document.querySelector('.detail mark').textContent") == "3+5=?"
    opened.press("Escape", "x")
    opened.click(".list .head button:nth-child(5)")
    in_order = f"[...{ROWS}].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)"
    rewards = f"{in_order}.map((row) => row.children[4].textContent)"
    assert opened.run(rewards) == ["0"] * 9 + ["0.5"] * 3 + ["1"] * 6 + ["1.5"] * 6
    opened.click(".list .head button:nth-child(5)")
    assert opened.run(rewards)[:7] == ["1.5"] * 6 + ["1"]
    opened.run("(() => { const step = document.querySelector('select[aria-label=Step]'); step.value = 2;"
               " step.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert opened.run(COUNT) == "8 of 24" and opened.run(CHOSEN)[0] == "3"


def test_everything_works_by_keyboard(opened):
    opened.press("j", "j", "k")
    assert opened.run("document.querySelector('[aria-selected=true]').ariaPosInSet") == "2"
    opened.run("document.querySelector('.view').focus()")
    opened.press("End")
    assert opened.run("document.activeElement.getAttribute('aria-activedescendant')") == "row-23"
    opened.press("Home", "ArrowDown", "Enter")
    assert opened.run("document.activeElement.className") == "card detail"
    opened.press("?")
    assert opened.run("document.querySelector('dialog').open")
    opened.press("Escape")
    assert not opened.run("document.querySelector('dialog').open")
    opened.run("document.querySelector('.chart').focus()")
    opened.press("ArrowRight", "ArrowRight")
    assert opened.run("document.querySelector('.chart .readout').textContent") == "step 2: 0.1"
    opened.press("Enter")
    assert opened.run(COUNT) == "8 of 24"
    opened.run("document.activeElement.blur()")
    opened.press("Tab")
    assert opened.run("document.activeElement.matches(':focus-visible')")
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_metrics_are_added_and_taken_away(opened):
    before = opened.run("document.querySelectorAll('#curves .chart').length")
    opened.run("document.querySelector('#picker').open = true")
    opened.click("#picker input[value='engine/policy/requests']")
    assert opened.run("document.querySelectorAll('#curves .chart').length") == before + 1
    assert (
        opened.run("document.querySelector('#curves .chart:last-child text:last-of-type').textContent")
        == "requests"
    )
    opened.click("#picker input[value='engine/policy/requests']")
    assert opened.run("document.querySelectorAll('#curves .chart').length") == before


def luminance(color):
    """Of rgb(0 to 255, ...) or color(srgb 0 to 1 ...), as WCAG defines it."""
    numbers = [float(part) for part in re.findall(r"[\d.]+", color)[:3]]
    parts = numbers if color.startswith("color(srgb") else [number / 255 for number in numbers]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(browser, selector):
    ink, behind = browser.run(
        f"(() => {{ const node = document.querySelector({json.dumps(selector)}), clear = 'rgba(0, 0, 0, 0)';"
        " let under = node; const ground = () => getComputedStyle(under).backgroundColor;"
        " while (ground() === clear) under = under.parentElement;"
        " return [getComputedStyle(node).color, ground()]; })()"
    )
    light, dark = sorted((luminance(ink), luminance(behind)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(opened, scheme):
    opened.prefer(scheme)
    ground = luminance(opened.run("getComputedStyle(document.body).backgroundColor"))
    assert (ground > 0.8) == (scheme == "light") and (ground < 0.05) == (scheme == "dark")
    for selector in (
        "h1",
        ".note",
        "h2 small",
        ".mark.good",
        ".mark.bad",
        "pre",
        ".cut",
        ".view .text",
        "nav a",
    ):
        assert contrast(opened, selector) >= 4.5, selector


def test_the_switch_goes_over_the_system(opened):
    scheme = "getComputedStyle(document.documentElement).colorScheme"
    opened.click("#theme")
    assert opened.run(scheme) == "light"
    opened.press("d")
    assert opened.run(scheme) == "dark"
    assert opened.run("document.querySelector('#theme').ariaLabel") == "Colours: dark"
    opened.press("d")
    assert opened.run(scheme) == "light dark"


def test_the_printed_page(opened):
    opened.prefer("dark", "print")
    shown = "getComputedStyle(document.querySelector('{}')).display"
    assert opened.run(shown.format(".toolbar")) == opened.run(shown.format(".list")) == "none"
    assert opened.run(shown.format(".detail")) != "none"
    assert luminance(opened.run("getComputedStyle(document.querySelector('.card')).backgroundColor")) > 0.9
    opened.prefer("light")


def test_nothing_in_the_data_runs(browser, tmp_path):
    cut = {
        "tau": 0.5, "position": 1, "prefix_chars": 4, "prefix_end": NASTY[:4], "has_answer": False,
        "continuations": [{"text": NASTY, "verdict": NASTY, "finish_reason": NASTY}],
    }  # fmt: skip
    columns = {"prompt": NASTY, "completion": NASTY, "extra": {NASTY: NASTY}, "rewards": {NASTY: 1.0}}
    run = rl_run(tmp_path / "run", num_steps=1, cuts=[cut], **columns)
    write_jsonl(run / "metrics.jsonl", [{"step": 1, "reward": 1.0, NASTY: 2.0}])
    (run / "environment.json").write_text(json.dumps({NASTY: NASTY}))
    page = write_page(run).path
    browser.open(page)
    browser.run("document.querySelectorAll('#picker input').forEach((each) => each.click())")
    browser.press("j")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert browser.run("typeof hacked") == "undefined"
    assert browser.run("document.querySelectorAll('main img, main script, main a').length") == 0
    assert browser.run("document.querySelectorAll('.detail pre')[0].textContent") == NASTY
    assert browser.complaints() == [] and browser.requests() == [page.as_uri()]
    # and the policy stops what the script would not have done
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))"
    )
    assert (
        browser.run("typeof hacked") == "undefined" and "Content Security Policy" in browser.complaints()[0]
    )


def test_stages_of_a_pipeline_are_tabs(browser, tmp_path):
    (tmp_path / "pipeline.yaml").write_text("fix: {stage: intervene}\nrl: {stage: rl}\nlast: {stage: rl}\n")
    fix = write_stage(tmp_path / "fix", {"stage": "intervene"}, [])
    problem = {"problem": 0, "question": "q", "solution": "6", "attempts": [["a", "b", "c"]]}
    write_jsonl(fix / "attempts.jsonl", [problem])
    write_jsonl(fix / "interventions.jsonl", [
        {"problem": 0, "attempt": 0, "sample": 0, "outcome": "selected", "location": 2, "content": "B",
         "success": 1.0, "success_original": 0.25, "success_prefix": 0.0, "gain": 0.75, "check": "looked"},
    ])  # fmt: skip
    rl_run(tmp_path / "rl")
    browser.open(write_page(tmp_path).path)
    assert browser.run("document.querySelector('[aria-selected=true][role=tab]').value") == "rl"
    assert browser.run("document.querySelector('main > p').textContent") == "Not begun yet: last"
    browser.run("document.querySelector('[role=tab][aria-selected=true]').focus()")
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('#summary h2').textContent") == "fix \u00b7 intervene stage"
    assert texts(browser, ".steps li") == ["1a", "2 \u2717 first errorb", "2 \u2713 interventionB", "3c"]
    assert texts(browser, ".steps .error .said") == ["b"] and texts(browser, ".steps .new .said") == ["B"]
    browser.press("r")
    assert browser.run(COUNT) == "1 of 1"
    assert browser.complaints() == []


def test_a_facet_with_very_many_values_is_typed(browser, tmp_path):
    browser.open(write_page(rl_run(tmp_path / "run", num_steps=1, groups=1001, size=1)).path)
    assert browser.run(COUNT) == "1,001 of 1,001"
    browser.run("document.querySelector('input[aria-label=Group]').focus()")
    browser.press("7", "0", "-")
    assert browser.run(COUNT) == "0 of 1,001"  # no number
    assert browser.run("document.querySelector('.empty').textContent").startswith("No row matches")
    browser.run("document.querySelector('input[aria-label=Group]').value = ''")
    browser.press("7", "0")
    assert browser.run(COUNT) == "1 of 1,001" and browser.run(CHOSEN).startswith("170")
    browser.press("Escape", "x")
    assert browser.run(COUNT) == "1,001 of 1,001"
    assert browser.run("document.querySelector('input[aria-label=Group]').value") == ""


def test_ten_thousand_completions_stay_fluent(browser, tmp_path, record_property):
    filler = "step by step " * 40
    page = write_page(
        rl_run(tmp_path / "run", num_steps=10, groups=125, size=8, trace_of_thought=filler)
    ).path
    took = {"open": browser.open(page)}

    def timed(name, script, after=""):
        start = time.perf_counter()
        browser.run(f"(() => {{ {script} }})(); {after or 'new Promise(requestAnimationFrame)'}")
        took[name] = time.perf_counter() - start

    assert browser.run(COUNT) == "10,000 of 10,000"
    assert browser.run(f"{ROWS}.length") < 60  # what can be seen, and a few more
    timed("filter", "document.querySelector('.toolbar button').click()")
    assert browser.run(COUNT) == "5,000 of 10,000"
    timed("sort", "document.querySelector('.list .head button:nth-child(5)').click()")
    timed("reset", "document.querySelector('.toolbar > button:last-of-type').click()")
    timed("search", "const box = document.querySelector('.toolbar input'); box.value = '3+999=?';"
          " box.dispatchEvent(new Event('input'))", LATER)  # fmt: skip
    assert browser.run(COUNT) == "10 of 10,000"
    browser.press("x")
    frames = browser.run(
        "new Promise((done) => { const view = document.querySelector('.view'), times = [];"
        " let before = 0, n = 0; const next = (now) => { if (before) times.push(now - before);"
        " before = now; view.scrollTop += 4321;"
        " if (++n < 60) requestAnimationFrame(next); else done(times); }; requestAnimationFrame(next); })"
    )
    took["frame while scrolling, median"] = sorted(frames)[len(frames) // 2] / 1000
    assert browser.run("document.querySelector('.view').scrollTop") > 200_000
    took["redraw of the list"] = browser.run(
        "(() => { const view = document.querySelector('.view'), start = performance.now();"
        " for (let n = 0; n < 50; n++) {"
        " view.scrollTop = n * 5000; view.dispatchEvent(new Event('scroll')); }"
        " return (performance.now() - start) / 50 / 1000; })()"
    )
    assert browser.run(f"{ROWS}.length") < 60
    browser.run("document.querySelector('.view').focus()")
    browser.press("End")
    assert browser.run(CHOSEN).startswith("10124")  # step 10, group 124
    for name, seconds in took.items():
        record_property(name, round(seconds, 3))
        print(f"{name}: {seconds:.3f} s")
    bounds = {"open": 20, "frame while scrolling, median": 0.5}
    assert all(seconds < bounds.get(name, 5) for name, seconds in took.items()), took
