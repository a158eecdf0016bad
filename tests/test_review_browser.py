"""The review page in a headless browser, used like a person uses it: keys, clicks and files."""

import csv
import shutil
import time

import numpy as np
import pytest
from judged_labels import colored_split, write_tables

from mlnt_tf.files.cells import restore_cell
from mlnt_tf.review.page import write_review_page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed")
HOSTILE = ('a "quoted", \'cat\'', "</script><script>window.hacked = 1</script>", "two\nlines",
           "🦉 owl", "=1+1", "very long " * 30, "שלום עולם", "<img src=x onerror=alert(1)>")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A driver whose `downloads` is the directory of saved files."""
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1366,768"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = downloads
    yield driver
    driver.quit()


def open_page(browser, directory, class_names, **tables):
    """Writes and opens a page with 12 suspects, without earlier progress."""
    splits = {"train": colored_split(24, len(class_names)),
              "test": colored_split(8, len(class_names), start=24)}
    write_tables(directory, splits, class_names, **tables)
    path = write_review_page(directory, splits, class_names, top=12)
    browser.get(path.as_uri())
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    return path


def press(browser, *keys):
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def press_with(browser, modifier, key):
    ActionChains(browser).key_down(modifier).send_keys(key).key_up(modifier).perform()


def text_of(browser, element):
    return browser.find_element(By.ID, element).text


def click(browser, element):
    browser.find_element(By.ID, element).click()


def cards(browser):
    return browser.find_elements(By.CSS_SELECTOR, ".card")


def selected(browser):
    return [card.get_attribute("aria-selected") == "true" for card in cards(browser)]


def saved_rows(browser, name="corrections.csv"):
    """Saves the corrections, and returns their rows after the header."""
    path = browser.downloads / name
    path.unlink(missing_ok=True)
    press_with(browser, Keys.CONTROL, "s")
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    press(browser, Keys.ESCAPE)
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "record", "given_label", "corrected_label", "verdict", "sample"]
    return [[restore_cell(cell) for cell in row] for row in rows]


def verdicts(browser):
    return {int(row[0]): (row[3], row[4]) for row in saved_rows(browser)}


def show(browser, value):
    Select(browser.find_element(By.ID, "filter-show")).select_by_value(value)
    browser.find_element(By.ID, "main").click()


def card_texts(browser):
    return [card.text.replace("\n", " ") for card in cards(browser)]


def errors(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_keys_judge_one_image_after_the_other(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "k", "s", "d", "n", "m", "u")
    press(browser, "c", "c", "a", "t", Keys.ENTER)  # Chooses a label by typing "cat".
    assert text_of(browser, "progress-text") == "7 of 12"
    assert verdicts(browser) == {
        0: ("cat", "keep"), 1: ("owl", "correct"), 2: ("", "drop"), 3: ("", "none"),
        4: ("", "several"), 5: ("", "unsure"), 6: ("cat", "keep")}
    row = saved_rows(browser)[1]
    assert row == ["1", "photo 1.jpg", "dog", "owl", "correct", "review"]
    assert not errors(browser)


def test_undo_and_redo_take_single_steps(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "k", "d", "z")
    assert text_of(browser, "progress-text") == "1 of 12"
    press_with(browser, Keys.SHIFT, "z")
    assert text_of(browser, "progress-text") == "2 of 12"
    press(browser, "x")
    assert verdicts(browser) == {0: ("cat", "keep")}


def test_progress_survives_filters_and_a_reload(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "k", "s")
    Select(browser.find_element(By.ID, "filter-given")).select_by_value("2")
    assert "1 of 4" in text_of(browser, "single")
    browser.find_element(By.ID, "main").click()
    press(browser, "d")
    show(browser, "done")
    assert "1 of 1" in text_of(browser, "single")
    browser.refresh()
    assert text_of(browser, "progress-text") == "3 of 12"
    assert "4 of 12" in text_of(browser, "single")  # The first image without a verdict.
    assert verdicts(browser) == {0: ("cat", "keep"), 1: ("owl", "correct"), 2: ("", "drop")}


def test_grid_applies_one_verdict_to_many_images(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "g")
    assert len(cards(browser)) == 12
    cards(browser)[1].click()
    ActionChains(browser).key_down(Keys.SHIFT).click(cards(browser)[3]).key_up(Keys.SHIFT).perform()
    assert selected(browser) == [False, True, True, True] + [False] * 8
    cards(browser)[2].click()
    press(browser, "s")
    assert not any(selected(browser))
    press(browser, Keys.HOME, " ")
    press_with(browser, Keys.SHIFT, Keys.ARROW_RIGHT)
    assert selected(browser)[:3] == [True, True, False]
    press(browser, Keys.ESCAPE, "a")
    assert all(selected(browser))
    press(browser, Keys.ESCAPE, Keys.END, "d")
    assert verdicts(browser) == {1: ("owl", "correct"), 3: ("dog", "correct"), 11: ("", "drop")}
    press(browser, "z", "z")
    assert text_of(browser, "progress-text") == "0 of 12"


def test_only_labels_that_are_worth_a_look_are_shown_at_first(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"), flagged={0, 2, 3, 9})
    assert text_of(browser, "tab-suspects") == "Suspects4"
    press(browser, "k", Keys.ARROW_RIGHT, "d")  # Ids 0 and 3.
    assert text_of(browser, "progress-text") == "2 of 4"
    show(browser, "flagged-todo")
    assert "2 of 2" in text_of(browser, "single")  # It stays at id 9; id 2 is the other one.
    show(browser, "")
    press(browser, "g")
    assert len(cards(browser)) == 12
    show(browser, "todo")
    assert len(cards(browser)) == 10
    cards(browser)[0].click()  # Id 1 is not worth a look.
    press(browser, "k")
    assert text_of(browser, "progress-text") == "2 of 4 + 1 other"
    click(browser, "tab-outliers")
    assert len(cards(browser)) == 32
    click(browser, "tab-suspects")
    assert len(cards(browser)) == 9
    click(browser, "tab-overview")
    pairs = browser.find_elements(By.CSS_SELECTOR, "#overview tr:has(button)")
    assert [row.text for row in pairs] == ["cat dog 3 Show", "owl cat 1 Show"]
    pairs[0].find_element(By.TAG_NAME, "button").click()
    assert len(cards(browser)) == 3
    assert not errors(browser)


def test_all_images_are_shown_if_none_is_worth_a_look(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"), flagged=())
    assert text_of(browser, "tab-suspects") == "Suspects12"
    assert text_of(browser, "progress-text") == "0 of 12"
    assert "1 of 12" in text_of(browser, "single")


def test_images_without_a_suggestion_take_none(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"), agreeing={0, 2})
    assert "no suggestion" in text_of(browser, "single")
    assert not browser.find_element(By.ID, "single-correct").is_enabled()
    press(browser, "s")
    assert text_of(browser, "status") == "This image has no suggestion."
    assert text_of(browser, "progress-text") == "0 of 12"
    press(browser, "g")
    assert card_texts(browser)[:2] == ["cat no suggestion", "dog → owl"]
    press(browser, "a", "s")
    assert text_of(browser, "status") == (
        "10 images: each its suggestion; 2 images without a suggestion skipped")
    assert text_of(browser, "progress-text") == "10 of 12"


def test_status_names_the_verdict_on_many_images(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "g")
    choice = ("c", "c", "a", "t", Keys.ENTER)  # The first image has this label already.
    for keys, text in {"k": "keep", "d": "drop", "n": "none", "m": "several", "u": "cannot tell",
                       "s": "each its suggestion", choice: "→ cat"}.items():
        press(browser, "a", *keys)
        assert text_of(browser, "status") == f"12 images: {text}"


def test_audit_shows_no_suggestion_before_the_verdict(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"), flagged=range(32))
    splits = {"train": colored_split(24, 3), "test": colored_split(8, 3, start=24)}
    browser.get(write_review_page(tmp_path, splits, ("cat", "dog", "owl"), audit=6).as_uri())
    text = text_of(browser, "single")
    assert "no suggestion yet" in text and "Scores" not in text and "Flagged" not in text
    press(browser, "s")
    assert text_of(browser, "status") == "An audit gives no suggestion before your verdict."
    press(browser, "k", "g")
    texts = card_texts(browser)
    assert "→" in texts[0] and all("no suggestion yet" in other for other in texts[1:])
    assert not browser.find_elements(By.ID, "filter-suggested")
    assert text_of(browser, "progress-text") == "1 of 6"
    assert not errors(browser)


def test_enter_opens_an_image_of_the_grid(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "g", Keys.HOME, Keys.ARROW_RIGHT, Keys.ENTER)
    assert "2 of 12" in text_of(browser, "single")


def test_hostile_names_are_harmless_and_saved_exactly(browser, tmp_path):
    open_page(browser, tmp_path, HOSTILE)
    press(browser, *("s" * 8), "g")
    assert browser.execute_script("return window.hacked") is None
    assert not errors(browser)
    rows = saved_rows(browser)
    assert [(row[2], row[3]) for row in rows] == list(zip(HOSTILE, (*HOSTILE[1:], HOSTILE[0])))
    width = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


def test_saved_corrections_are_loaded_again(browser, tmp_path):
    open_page(browser, tmp_path, HOSTILE)
    press(browser, *("s" * 8), "k", "d")
    before = saved_rows(browser)
    copy = tmp_path / "copy.csv"
    shutil.copy(browser.downloads / "corrections.csv", copy)
    with open(copy, "a") as file:
        file.write("9,another image,x,y,keep,review\r\n99,photo,a,b,nonsense,review\r\n")
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    assert text_of(browser, "progress-text") == "0 of 12"
    browser.find_element(By.ID, "load-file").send_keys(str(copy))
    deadline = time.monotonic() + 10
    while "loaded" not in text_of(browser, "status") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert text_of(browser, "status") == "10 verdicts loaded; 2 rows of other data left out."
    assert saved_rows(browser) == before


def test_label_is_found_among_many_by_typing(browser, tmp_path):
    open_page(browser, tmp_path, tuple(f"species {number:03}" for number in range(500)))
    press(browser, "c", "4", "3", "7")
    options = browser.find_elements(By.CSS_SELECTOR, "#options li")
    assert [option.text for option in options] == ["species 437"]
    press(browser, Keys.ENTER)
    assert verdicts(browser) == {0: ("species 437", "correct")}


def test_overview_shows_the_estimate_with_its_caveat(browser, tmp_path):
    matrix = [[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]]
    noise = {"estimated_rate": 0.125, "interval": [0.05, 0.15], "matrix": matrix,
             "per_class": {"cat": 0.2, "dog": None, "owl": 0.1}}
    open_page(browser, tmp_path, ("cat", "dog", "owl"), label_noise=noise)
    click(browser, "tab-overview")
    text = text_of(browser, "overview")
    assert "about 12.5 % (5.0 % to 15.0 %)" in text and "usually too high" in text
    cells = browser.find_elements(By.CSS_SELECTOR, ".matrix td")
    assert [cell.text for cell in cells][1:] == [".80", ".20", "", "", "1.00", "", ".10", "", ".90"]
    browser.find_element(By.CSS_SELECTOR, "#overview td button").click()
    assert Select(browser.find_element(By.ID, "filter-given")).first_selected_option.text


def test_groups_and_damaged_files_have_tabs(browser, tmp_path):
    (tmp_path / "bad_images.csv").write_text("record,reason\n<b>.jpg,no pixels\n")
    features = np.random.default_rng(1).normal(size=[32, 64]).astype(np.float32)
    features[10] = features[12]
    open_page(browser, tmp_path, ("cat", "dog", "owl"), features=features,
              extra={"filter_kept": ["True", "False"] * 16})
    click(browser, "tab-near")
    assert "1 of 2 · group 1" in text_of(browser, "single")
    click(browser, "tab-bad")
    assert "<b>.jpg no pixels" in text_of(browser, "bad")
    click(browser, "tab-suspects")
    Select(browser.find_element(By.ID, "filter-kept")).select_by_value("false")
    assert "1 of 6" in text_of(browser, "single")


def test_audit_marks_its_rows_and_has_its_own_file(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "k")
    splits = {"train": colored_split(24, 3), "test": colored_split(8, 3, start=24)}
    browser.get(write_review_page(tmp_path, splits, ("cat", "dog", "owl"), audit=6).as_uri())
    assert text_of(browser, "progress-text") == "0 of 6"
    press(browser, "k")
    row, = saved_rows(browser, "corrections_audit.csv")
    assert row[4:] == ["keep", "audit"]


def test_help_lists_the_keys_and_takes_the_focus(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    press(browser, "?", "k")  # Keys do not judge behind the dialog.
    assert "Take suggestion" in text_of(browser, "help-dialog")
    press(browser, Keys.ESCAPE)
    assert text_of(browser, "progress-text") == "0 of 12"


def test_page_without_storage_says_so(browser, tmp_path):
    path = open_page(browser, tmp_path, ("cat", "dog", "owl"))
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {
        "source": "Object.defineProperty(window, 'localStorage', {get() { throw Error(); }});"})
    browser.get(path.as_uri())
    press(browser, "k")
    assert "does not keep your progress" in text_of(browser, "warning")
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert verdicts(browser) == {0: ("cat", "keep")}
    browser.refresh()


def test_colors_follow_the_preference_for_dark(browser, tmp_path):
    open_page(browser, tmp_path, ("cat", "dog", "owl"))
    backgrounds = []
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        backgrounds.append(browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == ["rgb(246, 246, 244)", "rgb(20, 21, 23)"]
