import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

DATA = pathlib.Path(os.environ.get("MLNT_TEST_DATA", pathlib.Path(__file__).parents[2] / "shared/data/tfds"))


@pytest.fixture
def cifar10_dir():
    """The directory of real CIFAR-10 in TFDS layout; skips where there is none (MLNT_TEST_DATA names another)."""
    if not (DATA / "cifar10").exists():
        pytest.skip(f"no CIFAR-10 under {DATA}; set MLNT_TEST_DATA to a TFDS directory that holds it")
    return DATA
