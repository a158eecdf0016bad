"""The wheel works without the repository: installed into a fresh environment, run elsewhere."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = ("mlnt-train", "mlnt-check", "mlnt-compare", "mlnt-report", "mlnt-prepare",
            "mlnt-benchmark", "mlnt-review")
pytestmark = pytest.mark.slow


def run(*command, **kwargs):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs a command of a fresh environment, outside the repository."""
    place = tmp_path_factory.mktemp("install")
    source = place / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
                "--wheel-dir", place, source)
    assert built.returncode == 0, built.stderr
    wheel, = place.glob("mlnt_tf-*.whl")
    environment = place / "environment"
    assert run(sys.executable, "-m", "venv", environment).returncode == 0
    python = environment / "bin/python"
    added = run(python, "-m", "pip", "install", "--no-deps", wheel)
    assert added.returncode == 0, added.stderr
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout
    # The dependencies come from this environment; the package itself from the wheel.
    dependencies = pathlib.Path(packages.strip()) / "dependencies.pth"
    dependencies.write_text(sysconfig.get_path("purelib") + "\n")
    shutil.rmtree(source)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()

    def call(command, *flags):
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return run(environment / "bin" / command, *flags, cwd=elsewhere, env=environ)

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_every_console_script_prints_its_help(installed, command):
    shown = installed(command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: ") and "example" in shown.stdout.lower()
    assert command.removeprefix("mlnt-") in shown.stdout.splitlines()[0]


def test_the_installed_package_trains_elsewhere(installed, tmp_path):
    done = installed("mlnt-train", "--method=cross_entropy", "--epochs=1", "--steps_per_epoch=2",
                     "--train_examples=200", "--batch_size=32", "--width=2", "--precision=float32",
                     f"--output_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["method"] == "cross_entropy"


def test_errors_name_no_file_that_an_installed_package_lacks(installed, tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    for flag in ("--flagfile=nowhere.flags", f"--flagfile={tmp_path / 'image.png'}", "digits"):
        refused = installed("mlnt-train", flag)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert "configs/" not in refused.stderr
