import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = [*ROOT.glob("launch/*.sh"), ROOT / ".ci/run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_ci_runs_the_tests():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "launch/test.sh" in (ROOT / ".ci/run").read_text()


def test_constraints_meet_what_the_stack_demands():
    pinned = dict(line.split("==") for line in (ROOT / "launch/constraints.txt").read_text().split())
    assert pinned["tensorflow"].startswith("2.20.") and pinned["scann"] == "1.4.2"
    assert int(pinned["setuptools"].split(".")[0]) < 81
    assert "importlib_resources" in pinned


def test_the_tensorboard_command_starts():
    import sys

    command = pathlib.Path(sys.executable).with_name("tensorboard")
    told = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "2.20" in told.stdout
