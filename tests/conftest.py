"""Fixtures that several test files share; what they are made of is in tiny.py.

Tests run on the CPU also where there is a GPU; CUDA_VISIBLE_DEVICES=0 pytest tests/core/test_cuda.py asks for it.
"""

import os
import shutil
from pathlib import Path

import pytest
import torch

# Before torch looks, and for the processes that tests start.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes run beside each other, and models are small

import tiny
from forked import PYTHON
from minirlhf.model import GPT, RewardModel
from minirlhf.support import folder, run


def pytest_configure(config):
    if getattr(config.option, "numprocesses", None):
        list(PYTHON)  # one server for all of xdist's workers


@pytest.fixture(scope="session")
def tokenizer():
    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def world(tmp_path_factory, tokenizer):
    return tiny.make_world(tmp_path_factory.mktemp("world"), tokenizer)


@pytest.fixture(autouse=True)
def release_folders():
    """As when a run's process ends."""
    yield
    folder.release_locks()


@pytest.fixture
def gpt(tokenizer):
    return tiny.make(GPT, tokenizer.n_vocab)


@pytest.fixture
def reward_model(tokenizer):
    return tiny.make(RewardModel, tokenizer.n_vocab, seed=5)


@pytest.fixture
def no_pictures(monkeypatch):
    """Runs of the scripts without their curves.png, which takes longer than all the rest of a tiny run."""
    monkeypatch.setattr(run, "draw_curves", lambda *args: None)


@pytest.fixture(scope="session")
def real_data():
    """A folder with GPT-2's ranks and public data sets, beside the checkout; without it, tests skip."""
    folder = Path(__file__).parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture(scope="session")
def chromium():
    """A real browser: selenium with Debian's chromium and chromium-driver. Without them the tests skip."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1000,900"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield driver
    driver.quit()


@pytest.fixture
def float64():
    """New tensors have float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
