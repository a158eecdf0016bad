"""Options and fixtures that all tests share."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

DATA = pathlib.Path(os.environ.get("MLNT_TEST_DATA", "~/tensorflow_datasets")).expanduser()


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true",
                     help="skip the slow tests, such as complete trainings")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: needs a complete training, several processes or a "
                            "whole data set; --fast leaves it out")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


@pytest.fixture
def cifar10_dir():
    """The TFDS directory of CIFAR-10. Skips the test where there is none."""
    if not (DATA / "cifar10").exists():
        pytest.skip(f"no CIFAR-10 under {DATA}; set MLNT_TEST_DATA to a TFDS directory with it")
    return DATA
