import os
import pathlib
import re
import stat
import subprocess

import pytest

from mlnt_tf import flags
from mlnt_tf.config import Config

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = [*sorted(ROOT.glob("launch/*.sh")), ROOT / ".ci/run"]
CONFIGS = sorted(ROOT.glob("configs/*.flags"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_and_stop_at_the_first_error(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text()


def test_the_ci_entry_is_executable():
    assert (ROOT / ".ci/run").stat().st_mode & stat.S_IXUSR


def test_a_missing_python_is_told(tmp_path):
    environment = {**os.environ, "MLNT_PYTHON": str(tmp_path / "nothing"), "MLNT_VENV": str(tmp_path / "venv")}
    done = subprocess.run(["bash", str(ROOT / "launch/quickstart.sh")], env=environment, cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2
    assert "MLNT_PYTHON" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_environment_that_is_installed_is_used_without_pip(tmp_path):
    binaries = tmp_path / "venv/bin"
    binaries.mkdir(parents=True)
    for name in ("pip", "python"):
        (binaries / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\n')
        (binaries / name).chmod(0o755)
    environment = {**os.environ, "MLNT_VENV": "venv"}
    for script in ("test.sh -x", "test.sh", "quickstart.sh --seed=1"):
        subprocess.run(f"bash {ROOT}/launch/{script}", shell=True, env=environment, cwd=tmp_path, check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("python -m pip install") and calls[0].endswith(f"{ROOT}[test]")
    assert calls[1:] == ["python -m pytest -x", "python -m pytest",
                         "python -m mlnt_tf.train --flagfile=configs/digits.flags --seed=1"]


def test_constraints_are_exact_versions():
    lines = (ROOT / "launch/constraints.txt").read_text().splitlines()
    assert lines and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_parse_and_head_with_their_promise(path):
    config = flags.parse(["train", f"--flagfile={path}"])
    assert config.output_dir == f"runs/{path.stem}"
    for promise in ("# Command:", "# The paper reports", "# Measured here:", "# Seeds:", "# Time:"):
        assert promise in path.read_text()


def test_the_digits_config_is_the_defaults():
    assert flags.parse(["train", f"--flagfile={ROOT}/configs/digits.flags"]) == Config()


@pytest.mark.parametrize("noise, rate", [("symmetric", 0.5), ("asymmetric", 0.4)])
def test_the_cifar_configs_hold_the_settings_of_the_paper(noise, rate):
    config = flags.parse(["train", f"--flagfile={ROOT}/configs/cifar10_{noise}.flags"])
    assert config == Config(
        dataset="cifar10", augment=True, noise=noise, noise_rate=rate, noise_sampling="bernoulli",
        model="preact_resnet32", width=32, iterations=3, epochs=120, batch_size=128, num_synthetic=10,
        transfer_ratio=0.5, neighbor_scope="batch", inner_rate=0.2, meta_rate=0.4, learning_rate=0.2, momentum=0.9,
        weight_decay=1e-4, ema_decay_start=0.99, ema_decay=0.999, tau=0.3, output_dir=f"runs/cifar10_{noise}")
    assert (config.ramp_epochs, config.decay_epochs) == (20, 80)
