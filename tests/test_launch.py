"""The scripts in launch/ parse, start what they promise, and explain what is missing."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from mlnt_tf.config import Config, setting_fields

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = [*ROOT.glob("launch/*.sh"), ROOT / "launch/slurm.sbatch", ROOT / ".ci/run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_begins_with_its_purpose(script):
    assert re.match(r"(#!.*\n)?# \w", script.read_text())


def test_slurm_script_has_the_options_it_needs():
    script = ROOT / "launch/slurm.sbatch"
    if shutil.which("sbatch"):
        subprocess.run(["sbatch", "--test-only", str(script)], check=True)
    options = re.findall(r"^#SBATCH (--[a-z-]+)", script.read_text(), re.MULTILINE)
    assert {"--nodes", "--signal", "--requeue", "--ntasks-per-node"} <= set(options)


def test_kubernetes_pods_derive_their_index_and_addresses():
    service, claim, pods = yaml.safe_load_all((ROOT / "launch/kubernetes.yaml").read_text())
    kinds = [document["kind"] for document in (service, claim, pods)]
    assert kinds == ["Service", "PersistentVolumeClaim", "StatefulSet"]
    name, service_name = pods["metadata"]["name"], pods["spec"]["serviceName"]
    assert service_name == service["metadata"]["name"]
    assert pods["spec"]["podManagementPolicy"] == "Parallel"
    spec = pods["spec"]["template"]["spec"]
    container = spec["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    port = service["spec"]["ports"][0]["port"]
    replicas = range(pods["spec"]["replicas"])
    addresses = [f"{name}-{index}.{service_name}:{port}" for index in replicas]
    assert environment["WORKERS"].split(",") == addresses
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    command = container["args"][0]
    subprocess.run(["bash", "-n"], input=command, text=True, check=True)
    mount = container["volumeMounts"][0]["mountPath"]
    assert f"--output_dir={mount}" in command and "INDEX=${HOSTNAME##*-}" in command
    known = {*setting_fields(Config), "flagfile"}
    assert set(re.findall(r"--([a-z]\w+)", command)) <= known


@pytest.mark.parametrize("environment, message", [
    ({}, "Set WORKERS=host:port"),
    ({"WORKERS": "a:1,b:1"}, "needs INDEX"),
    ({"WORKERS": "a:1", "INDEX": "x"}, "needs INDEX"),
    ({"PROCESSES": "none"}, "PROCESSES=2"),
])
def test_multi_worker_script_names_the_missing_variable(environment, message):
    process = subprocess.run(["bash", ROOT / "launch/multi_worker.sh"], capture_output=True,
                             text=True, env={"PATH": os.environ["PATH"], **environment})
    assert process.returncode == 2
    assert message in process.stderr
    assert process.stderr.count("\n") == 1


# Stands for Python: reports its start, and takes a moment to save after SIGTERM.
SLOW_TO_SAVE = """#!/usr/bin/env bash
index=$(sed 's/.*"index": \\([0-9]*\\).*/\\1/' <<<"$TF_CONFIG")
trap 'sleep 0.$((6 - 4 * index)); touch "$PLACE/saved_$index"; exit 143' TERM
touch "$PLACE/started_$index"
while true; do sleep 0.05; done
"""


@pytest.fixture
def environment_of_stand_ins(tmp_path):
    """The environment variables of an installed environment whose Python is SLOW_TO_SAVE."""
    binaries = tmp_path / "venv/bin"
    binaries.mkdir(parents=True)
    for name in ("pip", "python"):
        (binaries / name).write_text(SLOW_TO_SAVE)
        (binaries / name).chmod(0o755)
    files = [ROOT / "setup.py", ROOT / "launch/constraints.txt"]
    content = f"{ROOT}\n".encode() + b"".join(path.read_bytes() for path in files)
    (tmp_path / "venv/.mlnt_tf_").write_text(f"{hashlib.sha256(content).hexdigest()}  -\n")
    return {"PATH": os.environ["PATH"], "MLNT_VENV": str(tmp_path / "venv"),
            "PLACE": str(tmp_path)}


def assert_waits_until_workers_have_saved(command, environment, workers):
    """Asserts that a script which gets SIGTERM ends after its workers, with their exit code."""
    place = pathlib.Path(environment["PLACE"])
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    while not all((place / f"started_{worker}").exists() for worker in workers):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 143
    assert all((place / f"saved_{worker}").exists() for worker in workers)


def test_local_workers_save_before_their_script_ends(environment_of_stand_ins):
    assert_waits_until_workers_have_saved(
        ["bash", "launch/multi_worker.sh"], {**environment_of_stand_ins, "PROCESSES": "2"}, [0, 1])


def test_a_pod_saves_before_its_first_process_ends(environment_of_stand_ins):
    *_, pods = yaml.safe_load_all((ROOT / "launch/kubernetes.yaml").read_text())
    container = pods["spec"]["template"]["spec"]["containers"][0]
    assert_waits_until_workers_have_saved(
        [*container["command"], *container["args"]],
        {**environment_of_stand_ins, "HOSTNAME": "mlnt-tf-1", "WORKERS": "a:1,b:1"}, [1])


def test_pods_run_without_privileges():
    *_, pods = yaml.safe_load_all((ROOT / "launch/kubernetes.yaml").read_text())
    spec = pods["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_missing_python_is_reported_in_one_line(tmp_path):
    environment = {"PATH": os.environ["PATH"], "MLNT_PYTHON": "/nowhere/python",
                   "MLNT_VENV": str(tmp_path / "venv")}
    process = subprocess.run(["bash", ROOT / "launch/test.sh"], capture_output=True, text=True,
                             env=environment)
    assert process.returncode == 2
    assert "MLNT_PYTHON=" in process.stderr
    assert process.stderr.count("\n") == 1


def test_ci_runs_the_tests():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "launch/test.sh" in (ROOT / ".ci/run").read_text()


def test_constraints_pin_the_versions_that_work_together():
    lines = (ROOT / "launch/constraints.txt").read_text().split()
    pinned = dict(line.split("==") for line in lines)
    assert pinned["tensorflow"].startswith("2.20.") and pinned["scann"] == "1.4.2"
    assert int(pinned["setuptools"].split(".")[0]) < 81
    assert "importlib_resources" in pinned


def test_tensorboard_command_starts():
    command = pathlib.Path(sys.executable).with_name("tensorboard")
    process = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "2.20" in process.stdout
