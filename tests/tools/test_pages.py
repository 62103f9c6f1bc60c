"""The pages in a real browser: selenium with Debian's chromium and chromium-driver. Without them the tests skip."""

import json
import threading
import time

import asking
import numpy as np
import pytest
from asking import labelling, serving

from minirlhf.losses import ranked_above
from minirlhf.support import records
from tools.web import labels, server, talk
from tools.web.answers import Speaker
from tools.web.labels import beside
from tools.web.talk import PromptFormat, Talks

pytest.importorskip("selenium.webdriver", reason="needs selenium")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


class Browser:
    """A browser window, and what a person does in it."""

    def __init__(self, driver, port):
        self.driver, self.address = driver, f"http://127.0.0.1:{port}/"

    def open(self):
        self.driver.get(self.address)
        self.driver.execute_script("localStorage.clear()")
        self.driver.get(self.address)
        return self

    def __getitem__(self, id):
        return self.driver.find_element(By.ID, id)

    def text(self, id):
        return self[id].text

    def until(self, condition, seconds=10):
        again = (StaleElementReferenceException,)  # what was looked at has been drawn anew
        return WebDriverWait(self.driver, seconds, 0.05, again).until(lambda driver: condition())

    def press(self, *keys):
        """Sends keys to the focused element, one by one, as a keyboard does."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def begin(self, name="Ada"):
        self.open()
        self.press(name, Keys.ENTER)
        self.until(lambda: self["work"].is_displayed())
        return self

    def asked(self, prompt):
        """Waits until this prompt is asked."""
        self.until(lambda: self.text("prompt") == prompt)

    def ranks(self):
        """{letter: rank, 0 for none} as the page shows them."""
        slots = self.driver.find_elements(By.CLASS_NAME, "slot")
        return {card.text: int(slot.get_attribute("data-rank")) for slot in slots
                for card in slot.find_elements(By.CLASS_NAME, "letter")}  # fmt: skip

    def complaints(self):
        """Messages in the console, such as violations of the page's Content-Security-Policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if "favicon" not in entry["message"]]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rankings.jsonl"


@pytest.fixture
def page(chromium, out, request):
    """The page for ranking, with the options that a test asks for by @pytest.mark.parametrize(..., indirect=True)."""
    with labelling(asking.labels(out, n=50, **getattr(request, "param", {}))) as port:
        browser = Browser(chromium, port)
        yield browser
        assert not browser.complaints() and chromium.title != "hacked"


def saved(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()


# --- ranking ---------------------------------------------------------------------------------------------------------


def test_by_keyboard_alone_with_a_tie_and_it_is_what_the_loss_compares(page, out, tokenizer, reward_model):
    page.begin()
    page.asked("question 0")
    page.press("2", "1", "3")  # A, B, C; then D has the focus
    assert page.ranks() == {"A": 2, "B": 1, "C": 3, "D": 0} and not page["save"].is_enabled()
    page.press("2", Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    assert page.text("order") == "Best to worst: B, then A and D tied, then C."
    page.press(Keys.ENTER)
    page.asked("question 1")
    assert page.text("progress") == "Ada: 1 saved of 50 prompts" and "Saved: B, then A and D tied" in page.text("said")
    (ranking,) = records.load_rankings([out], tokenizer, 64)
    texts = [tokenizer.decode(s.tokens[s.start : -1])[8] for s in ranking.sequences]  # " answer a to 0"
    import torch

    better = ranked_above(torch.tensor([ranking.ranks]))[0].nonzero().tolist()
    assert {texts[a] + texts[b] for a, b in better} == {"ba", "bd", "bc", "ac", "dc"}


def test_the_order_can_be_changed_before_it_is_saved_and_ranks_taken_away(page, out):
    page.begin()
    page.press("1", "2", "3", "4", Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    page.press(Keys.ESCAPE)
    page.until(lambda: not page["echo"].is_displayed())
    page.press("0")  # D, in focus still
    assert page.ranks()["D"] == 0
    page.press("1", Keys.ARROW_DOWN, Keys.ARROW_DOWN, "1")
    assert page.ranks() == {"A": 1, "B": 2, "C": 1, "D": 1} or sorted(page.ranks().values()) == [1, 1, 1, 2]
    assert not out.exists()


@pytest.mark.parametrize("page", [dict(rate=True)], indirect=True)
def test_answers_are_rated_and_flagged_one_by_one_before_they_are_ranked(page, out):
    page.begin()
    page.until(lambda: page.text("which") == "Answer A, 1 of 4")
    page.press(Keys.ENTER)  # without a rating there is no next
    assert "Rate this answer first" in page.text("said")
    page.press("3")
    flags = page["flags"].find_elements(By.TAG_NAME, "label")
    assert [flag.text for flag in flags] == list(labels.FLAGS)
    flags[1].click()
    flags[3].click()
    flags[3].click()
    page["rate"].click()
    page.until(lambda: page.text("which") == "Answer B, 2 of 4")
    page["unrate"].click()
    page.until(lambda: page.text("which") == "Answer A, 1 of 4")
    page.press("2", Keys.ENTER, "7", Keys.ENTER, "5", Keys.ENTER, "1", Keys.ENTER)
    page.until(lambda: page["ranking"].is_displayed())
    page.press("3", "1", "2", "4", Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    page.press(Keys.ENTER)
    page.asked("question 1")
    (record,) = saved(out)
    assert record["ratings"] == [2, 7, 5, 1] and record["ranks"] == [3, 1, 2, 4]
    assert record["flags"] == [["breaks a constraint"], [], [], []]


def test_skip_back_and_a_better_answer(page, out):
    page.begin()
    page.press("s")
    page.asked("question 1")
    page.press("1", "2", "3", "4", Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    page.press(Keys.ENTER)
    page.asked("question 2")
    page.press("w")
    page.until(lambda: page["better"].is_displayed())
    page["own"].send_keys("Mine, 1 and 2?")  # in which s, b, w and digits are letters
    page["keep"].click()
    page.until(lambda: "Your answer is saved" in page.text("said"))
    assert saved(beside(out, "demonstrations"))[0]["response"] == "Mine, 1 and 2?"
    assert saved(beside(out, "demonstrations"))[0]["prompt"] == "question 2\n"
    page.press("b")
    page.asked("question 1")
    assert page.ranks() == {"A": 1, "B": 2, "C": 3, "D": 4} and "to correct" in page.text("again")
    page.press("4", Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    page.press(Keys.ENTER)
    page.asked("question 2")
    assert [record["ranks"] for record in saved(out)] == [[3, 1, 2, 3]]
    assert [record["prompt"] for record in saved(beside(out, "skipped"))] == ["question 0\n"]


def test_a_reload_in_the_middle_keeps_what_was_ranked(page):
    page.begin()
    page.press("4", "3")
    page.driver.get(page.address)
    page.asked("question 0")
    page.until(lambda: page.ranks() == {"A": 4, "B": 3, "C": 0, "D": 0})


def test_two_windows_save_once(page, out):
    page.begin()
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        page.driver.get(page.address)
        page.asked("question 0")
        page.press("1", "2", "3", "4", Keys.ENTER)
        page.until(lambda: page["echo"].is_displayed())
        page.press(Keys.ENTER)
        page.asked("question 1")
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    page.press("4", "3", "2", "1", Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    page.press(Keys.ENTER)
    page.asked("question 1")
    page.until(lambda: "saved before, or in another window" in page.text("said"))
    assert [record["ranks"] for record in saved(out)] == [[1, 2, 3, 4]]
    assert page.complaints() and page.complaints() == []  # the browser's own line on a refusal (409), once


def test_answers_are_dragged_to_ranks_and_tapped_there(page):
    page.begin()
    for letter, rank in ((3, 1), (0, 1), (1, 2)):
        card = page.driver.find_element(By.CSS_SELECTOR, f'.answer[data-answer="{letter}"]')
        slot = page.driver.find_element(By.CSS_SELECTOR, f'.slot[data-rank="{rank}"]')
        grip = card.find_element(By.CLASS_NAME, "grip")
        page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slot)
        ActionChains(page.driver).click_and_hold(grip).move_to_element(slot).release().perform()
        page.until(lambda rank=rank, letter=letter: page.ranks()["ABCD"[letter]] == rank)
    page.driver.find_element(By.CSS_SELECTOR, '.answer[data-answer="2"]').click()
    page.driver.find_element(By.CSS_SELECTOR, '.slot[data-rank="4"] > b').click()
    page.until(lambda: page.ranks() == {"A": 1, "B": 2, "C": 4, "D": 1})
    assert page["save"].is_enabled()


@pytest.mark.parametrize("page", [dict(texts={0: [EVIL, "\x1b[2J bell \x07", "", "ok"]})], indirect=True)
def test_what_a_model_wrote_is_shown_as_text(page):
    page.begin()
    page.asked("question 0")
    texts = [element.text for element in page.driver.find_elements(By.CSS_SELECTOR, ".answer .text")]
    assert texts[0] == EVIL and texts[2] == "(empty)" and texts[3] == "ok"
    assert page.driver.find_elements(By.TAG_NAME, "img") == []


def test_a_server_that_is_gone_costs_no_ranking_and_no_better_answer(page, out):
    page.begin()
    page.press("1", "2", "2", "3")
    page.driver.execute_script("window.there = window.fetch; window.fetch = () => Promise.reject(new TypeError())")
    page.press(Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    page.press(Keys.ENTER)
    page.until(lambda: "does not respond" in page.text("said"))
    assert page.ranks() == {"A": 1, "B": 2, "C": 2, "D": 3}
    page.press("w")
    page["own"].send_keys("Mine")
    page["keep"].click()
    page.until(lambda: "does not respond" in page.text("said") and not page["better"].is_displayed())
    page.driver.execute_script("window.fetch = window.there")
    page.press("w")
    page.until(lambda: page["own"].get_attribute("value") == "Mine")
    page["keep"].click()
    page.until(lambda: "Your answer is saved" in page.text("said"))
    page.press(Keys.ENTER)
    page.until(lambda: page["echo"].is_displayed())
    page.press(Keys.ENTER)
    page.asked("question 1")
    assert saved(out)[0]["ranks"] == [1, 2, 2, 3]


def test_when_nothing_is_left_the_page_says_so(chromium, out):
    with labelling(asking.labels(out, n=1)) as port:
        browser = Browser(chromium, port).begin()
        browser.press("s")
        browser.until(lambda: "nothing left" in browser.text("said"))
        assert not browser["work"].is_displayed() and not browser["skip"].is_displayed()
        browser["other"].click()
        browser.until(lambda: browser["hello"].is_displayed())
        assert browser["name"].get_attribute("value") == ""


def test_a_key_that_is_held_says_a_thing_once(page):
    page.begin()
    held = (
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', repeat: true, bubbles: true}))"
    )
    page.driver.execute_script(held % "s")
    page.press("1")
    page.driver.execute_script(held % "1")
    assert page.text("prompt") == "question 0" and sorted(page.ranks().values()) == [0, 0, 0, 1]


def test_a_rank_can_be_chosen_from_a_list(page):
    page.begin()
    for letter, rank in (("C", "1"), ("A", "3")):
        page.driver.find_element(By.CSS_SELECTOR, f'select[aria-label="Rank of answer {letter}"]').send_keys(rank)
        page.until(lambda letter=letter, rank=rank: page.ranks()[letter] == int(rank))
    assert page.ranks() == {"A": 3, "B": 0, "C": 1, "D": 0}


def test_the_page_has_names_for_all_that_can_be_used(page):
    page.begin()
    page.press("?")
    page.until(lambda: page["criteria"].is_displayed())
    page.press(Keys.ESCAPE)
    unnamed = page.driver.execute_script("""
        const named = (e) => e.textContent.trim() || e.ariaLabel || e.title || e.labels?.length || e.placeholder;
        return [...document.querySelectorAll("button, input, textarea, select, [tabindex='0'], section, dialog")]
            .filter((e) => !named(e)).map((e) => e.outerHTML)""")
    assert unnamed == []
    assert page.driver.execute_script("return performance.getEntriesByType('resource').every("
                                      "(e) => e.name.startsWith(location.origin))")  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(chromium, page, scheme):
    """WCAG's contrast of 4.5 to 1, on both backgrounds."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        page.begin()
        colours = chromium.execute_script("""
            const style = getComputedStyle(document.documentElement);
            return Object.fromEntries(["paper", "card", "soft", "ink", "faint", "mark", "on-mark", "bad"].map(
                (name) => [name, style.getPropertyValue(`--${name}`).trim()]))""")
    finally:
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def light(name):
        parts = np.array([int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    for text, behind in (("ink", "paper"), ("ink", "card"), ("ink", "soft"), ("faint", "paper"), ("faint", "card"),
                         ("mark", "card"), ("on-mark", "mark"), ("bad", "paper")):  # fmt: skip
        high, low = sorted((light(text), light(behind)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, behind)


def test_at_a_phone_s_width_nothing_sticks_out(chromium, page):
    phone = dict(width=360, height=740, deviceScaleFactor=2, mobile=True)
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page.begin()
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= 360
        heights = "return [...document.querySelectorAll('button')].map((b) => b.offsetHeight).filter((h) => h)"
        assert min(chromium.execute_script(heights)) >= 38
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# --- talking ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def talking(chromium, world, out):
    """Serves a chat, and opens it: talking(models, dialogue)."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(n, dialogue=False, scorer=None):
            able = [Speaker(world.gpt, 8) for _ in range(n)]
            for i, speaker in enumerate(able):
                speaker.name = f"model-{i}"
            keep = labels.Lines(out, "ranking", lambda offset, record: None).append
            talks = Talks(able, PromptFormat(dialogue), 1.0, scorer=scorer, keep=keep)
            routes = {"/begin": talks.begin, "/say": talks.say, "/prefer": talks.prefer}
            port = stack.enter_context(serving(server.page("chat"), routes))
            browser = Browser(chromium, port)
            stack.callback(lambda: browser.complaints())
            browser.open()
            browser.until(lambda: browser.text("who"))
            return browser, talks

        yield start


def answers(browser):
    return [element.text for element in browser.driver.find_elements(By.CSS_SELECTOR, ".sides .card .text")]


def test_one_model_answers_and_remembers(talking):
    browser, talks = talking(1, dialogue=True)
    assert "model-0" in browser.text("who") and "whole conversation" in browser.text("who")
    browser.press("name a dog", Keys.ENTER)
    browser.until(lambda: browser.driver.switch_to.active_element.get_attribute("id") == "line")
    browser.until(lambda: answers(browser) and answers(browser)[0])
    wait_for(lambda: any(own["messages"] for own in talks.talks.values()))
    (talk,) = [own for own in talks.talks.values() if own["messages"]]
    wait_for(lambda: len(talk["messages"]) == 2)
    assert talk["messages"][0]["content"] == "name a dog"
    browser["reset"].click()
    browser.until(lambda: answers(browser) == [])


def test_two_models_are_told_apart_only_when_one_is_preferred_by_one_key(talking, out, world):
    browser, talks = talking(2, scorer=world.rm)
    browser.press("name a dog", Keys.ENTER)
    browser.until(lambda: browser["choice"].is_displayed())
    assert "model-" not in browser["talk"].text and browser["talk"].text.count("reward model: ") == 2
    shown = answers(browser)
    browser.press("2")
    browser.until(lambda: browser["talk"].text.count("model-") == 2)
    (record,) = records.read(out, "ranking")
    assert record["ranks"] == [2, 1] and record["prompt"] == "name a dog\n"
    assert [text.strip() or "(empty)" for text in record["responses"]] == [text.strip() for text in shown]
    assert browser.text("said") == "Saved."
    browser.press("where is the cat?", Keys.ENTER)  # the focus is where one writes
    browser.until(lambda: browser["choice"].is_displayed())
    browser.press("0")
    browser.until(lambda: not browser["choice"].is_displayed())
    assert saved(out)[1]["ranks"] == [1, 1]


def test_whoever_writes_on_is_not_taken_to_have_chosen(talking, out, monkeypatch):
    browser, _ = talking(2)
    typed, fitted = threading.Event(), talk.fitted
    monkeypatch.setattr(talk, "fitted", lambda *args: typed.wait(10) and fitted(*args))
    browser.press("name a dog", Keys.ENTER)
    browser["line"].send_keys("1 2 and ")
    typed.set()
    browser.until(lambda: browser["choice"].is_displayed())
    browser.press("0", " ")
    assert browser["line"].get_attribute("value") == "1 2 and 0 " and not out.exists()
    browser["line"].clear()
    browser.driver.execute_script("document.getElementById('choice').focus()")
    browser.press("w", "1")  # a letter leads to where one writes
    assert browser["line"].get_attribute("value") == "w1" and not out.exists()


def test_a_chat_says_what_cannot_be_answered(talking):
    browser, _ = talking(1)
    browser.press("x" * 200, Keys.ENTER)
    browser.until(lambda: "shorten it" in browser.text("said"))
    assert browser["line"].get_attribute("value") == "x" * 200  # and it is not lost
