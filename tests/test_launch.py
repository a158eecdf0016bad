import dataclasses
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from mlnt_tf.config import Config

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = [*ROOT.glob("launch/*.sh"), ROOT / "launch/slurm.sbatch", ROOT / ".ci/run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_every_script_says_at_its_head_what_it_is_for():
    for script in SCRIPTS:
        assert re.search(r"^# \w", script.read_text(), re.MULTILINE), script


def test_slurm_takes_the_script():
    if shutil.which("sbatch"):
        subprocess.run(["sbatch", "--test-only", str(ROOT / "launch/slurm.sbatch")], check=True)
    options = re.findall(r"^#SBATCH (--[a-z-]+)", (ROOT / "launch/slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--nodes", "--signal", "--requeue", "--ntasks-per-node"} <= set(options)


def test_kubernetes_pods_know_their_place():
    service, claim, pods = yaml.safe_load_all((ROOT / "launch/kubernetes.yaml").read_text())
    assert (service["kind"], claim["kind"], pods["kind"]) == ("Service", "PersistentVolumeClaim", "StatefulSet")
    spec, name = pods["spec"]["template"]["spec"], pods["metadata"]["name"]
    container = spec["containers"][0]
    workers = next(entry["value"] for entry in container["env"] if entry["name"] == "WORKERS").split(",")
    port = service["spec"]["ports"][0]["port"]
    assert workers == [f"{name}-{i}.{pods['spec']['serviceName']}:{port}" for i in range(pods["spec"]["replicas"])]
    assert pods["spec"]["serviceName"] == service["metadata"]["name"]
    assert pods["spec"]["podManagementPolicy"] == "Parallel"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    command = container["args"][0]
    subprocess.run(["bash", "-n"], input=command, text=True, check=True)
    mount = container["volumeMounts"][0]["mountPath"]
    assert f"--output_dir={mount}" in command and "INDEX=${HOSTNAME##*-}" in command
    real = {field.name for field in dataclasses.fields(Config)} | {"flagfile"}
    assert set(re.findall(r"--([a-z]\w+)", command)) <= real


@pytest.mark.parametrize("environment, message", [
    ({}, "set WORKERS"), ({"WORKERS": "a:1,b:1"}, "needs INDEX"), ({"WORKERS": "a:1", "INDEX": "x"}, "needs INDEX"),
    ({"PROCESSES": "none"}, "PROCESSES=2")])
def test_multi_worker_says_what_is_missing(environment, message):
    told = subprocess.run(["bash", ROOT / "launch/multi_worker.sh"], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], **environment})
    assert told.returncode == 2 and message in told.stderr and told.stderr.count("\n") == 1


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
