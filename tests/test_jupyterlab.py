"""JupyterLab in a real browser: all cells of a notebook run, a parameter is changed, and they run again."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time

import pytest

from experiments import runs, spec

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium here: install it, or name it by CHROMIUM=/path"),
]


@contextlib.contextmanager
def jupyterlab(folder, results):
    """Serve a folder by JupyterLab with no settings but ours; gives its address."""
    for name, settings in SETTINGS.items():
        path = folder / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    token = secrets.token_hex(16)
    names = {"IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_CONFIG_DIR": "config"}
    names |= {"JUPYTER_DATA_DIR": "data", "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "spaces"}
    environment = {
        **os.environ,
        **{name: str(folder / place) for name, place in names.items()},
        "PYTHONPATH": os.pathsep.join([str(runs.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        runs.RESULTS_VARIABLE: str(results),
        "JUPYTER_TOKEN": token,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    root = ["--allow-root"] if os.getuid() == 0 else []
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen([*command, *root], stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (found := list((folder / "runtime").glob("jpserver-*.json"))) and time.monotonic() < deadline:
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield f"{json.loads(found[0].read_text())['url']}lab/tree/{{}}?token={token}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def open_notebook(tmp_path):
    """Return a function that opens a copy of a notebook in JupyterLab and waits until its kernel is idle."""
    from playwright.sync_api import sync_playwright

    with contextlib.ExitStack() as stack:

        def open_(name, results):
            shutil.copy(spec.NOTEBOOKS / name, tmp_path / name)
            address = stack.enter_context(jupyterlab(tmp_path, results))
            chromium = stack.enter_context(sync_playwright()).chromium
            browser = chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            stack.callback(browser.close)
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(90_000)
            open_page(page, address.format(name))
            return page

        yield open_


def open_page(page, address):
    """Open a notebook and wait until its kernel is connected and idle: cells that are run before are not run."""
    with page.expect_websocket(lambda socket: "/channels" in socket.url) as socket:
        page.goto(address)
    socket.value.wait_for_event("framereceived")
    page.get_by_text("(ipykernel) | Idle").wait_for()


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def outputs(page, text):
    return page.locator(".jp-OutputArea-output", has_text=text)


def test_all_cells_run_and_run_again_with_another_parameter(open_notebook, tmp_path):
    page = open_notebook("00-tour.ipynb", tmp_path / "results")
    run_all(page)
    outputs(page, "9900 accounts").wait_for()
    outputs(page, "room for 20000").wait_for()
    assert outputs(page, "room for 20000").locator("svg").count() >= 3
    cell = page.locator(".jp-CodeCell .cm-content").first
    assert "accounts: int = 10_000" in cell.inner_text(), "the first cell of code holds the parameters"
    cell.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("accounts: int = 500\nseed: int = 2")
    run_all(page)
    outputs(page, "400 accounts").wait_for()
    outputs(page, "room for 1000").wait_for()
    errors = page.locator(".jp-RenderedText[data-mime-type*=error]")
    assert 0 == outputs(page, "9900 accounts").count() == errors.count()


def test_the_dashboard_follows_a_choice(open_notebook, tmp_path):
    page = open_notebook("01-runs.ipynb", runs.ROOT / "results")
    run_all(page)
    shown = page.locator(".widget-html")
    shown.locator("svg").nth(1).wait_for()
    before = shown.inner_text()
    page.locator(".widget-dropdown", has_text="operation").locator("select").select_option("update")
    shown.locator("caption", has_text="update: rows_per_s").wait_for()
    assert before != shown.inner_text() and 2 == shown.locator("svg").count()
