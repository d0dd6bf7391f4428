#!/usr/bin/env python3
"""The page at "/" in a real browser: page_test.py KVLINK_BINARY MODEL. Skips (77) without Chromium and Selenium (Debian: chromium-driver python3-selenium)."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None
if webdriver is None or not shutil.which("chromedriver"):
    print("skipped: no browser that a program can drive")
    sys.exit(77)

PATIENCE = 120  # seconds
DOCUMENTS = [{"id": "ship", "title": "The ship", "text": "The captain of the Aurora is Ada Quill. She sails to Norway."},
             {"id": "<b>bold</b>", "title": "<img src=x onerror=alert(1)>", "text": "A document whose name is no markup."}]


def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def requested(driver):
    """The hosts that the page asked for anything."""
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {url.split("/")[2] for url in urls if not url.startswith("data:")}


def look(driver, url):
    wait = WebDriverWait(driver, PATIENCE)
    find = lambda selector: driver.find_element(By.CSS_SELECTOR, selector)
    all_of = lambda selector: driver.find_elements(By.CSS_SELECTOR, selector)
    driver.get(url)
    wait.until(lambda _: len(all_of("#documents input")) == len(DOCUMENTS))
    assert "onerror" in find("#documents").text, "a title is shown as text"
    assert not all_of("#documents img"), "a title became markup"

    # By keyboard alone: every control is reached in order, and Space, Ctrl+Enter and Escape do what they say.
    boxes = all_of("#documents input")
    boxes[-1].send_keys(Keys.SPACE)
    assert boxes[-1].is_selected()
    find("#question").send_keys("Who is the captain of the Aurora?")
    find("#compare").send_keys(Keys.SPACE)
    find("#question").send_keys(Keys.CONTROL, Keys.ENTER)
    wait.until(lambda _: len(all_of("#cost-rows tr")) == 2 and find("#ask").is_enabled())
    assert find("#answer").text.strip() and find("#full-answer").text.strip()
    assert not find("#error").text, find("#error").text
    linked, full = (row.text for row in all_of("#cost-rows tr"))
    assert "1 disk" in linked or "1 dram" in linked, linked
    assert "none read" in full, full
    wait.until(lambda _: "encodings in memory" in find("#server").text)

    # What a screen reader is told.
    assert find("#answer").get_attribute("aria-live") == "polite"
    for section in all_of("section[aria-labelledby]"):
        assert driver.find_element(By.ID, section.get_attribute("aria-labelledby")).text or not section.is_displayed()

    find("#question").send_keys(" Tell all that you know.", Keys.CONTROL, Keys.ENTER)
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait.until(lambda _: find("#ask").is_enabled())
    assert not find("#error").text, find("#error").text

    assert requested(driver) == {url.split("/")[2]}, "the page asked another server"
    errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors


def main():
    kvlink, model = sys.argv[1:]
    environment = {**os.environ, "KVLINK_MODEL": model}
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        with open(os.path.join(folder, "documents.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(document) + "\n" for document in DOCUMENTS)
        subprocess.run([kvlink, "ingest", "--store", store, file.name], env=environment, check=True, stderr=subprocess.DEVNULL)
        server = subprocess.Popen([kvlink, "serve", "--store", store, "--listen", "127.0.0.1:0", "--max-tokens", "64"], env=environment,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        driver = None
        try:
            url = json.loads(server.stdout.readline())["url"]
            driver = browser()
            look(driver, url)
        finally:
            if driver:
                driver.quit()
            server.terminate()
            assert server.wait(PATIENCE) == 0


if __name__ == "__main__":
    main()
