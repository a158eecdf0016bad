"""Two workers on this host, run by the command line, with and without one of them killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import kill
import tiny

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]
TINY = ("--train_examples=256", "--batch_size=32", "--width=4", "--num_synthetic=1",
        "--iterations=1", "--epochs=2", "--pretrain_epochs=1", "--precision=float32")
TIMEOUT = 300  # seconds, enough for a machine that runs other tests at the same time


def start_workers(log_dir, output_dir):
    """Starts two workers. Returns a list of (process, path of its output)."""
    addresses = [f"127.0.0.1:{port}" for port in tiny.free_ports(2)]
    command = [sys.executable, "-m", "mlnt_tf.train", *TINY, f"--output_dir={output_dir}"]
    workers = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        log = log_dir / f"worker{index}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file,
                                       stderr=subprocess.STDOUT)
        workers.append((process, log))
    return workers


def read_results(output_dir):
    """Returns results.json without times and flags: the launch script gives one more flag."""
    results = kill.without_seconds(json.loads((output_dir / "results.json").read_text()))
    return {key: value for key, value in results.items() if key != "explicit_flags"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two workers by the launch script: (its directory, its output)."""
    if not (pathlib.Path(sys.prefix) / ".mlnt_tf_").exists():
        pytest.skip("this environment was not made by launch/environment.sh")
    output_dir = tmp_path_factory.mktemp("finished") / "run"
    port = tiny.free_ports(1)[0]
    process = subprocess.run(
        ["bash", str(ROOT / "launch/multi_worker.sh"), *TINY, f"--output_dir={output_dir}"],
        env={**os.environ, "PROCESSES": "2", "PORT": str(port), "MLNT_VENV": sys.prefix},
        capture_output=True, text=True, timeout=TIMEOUT)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    return output_dir, output


def test_only_the_chief_logs(finished):
    _, output = finished
    assert "strategy multi_worker; 2 replicas; this is worker 0 (2 workers" in output
    assert output.count("iteration 1  epoch 1/2") == 1
    assert output.count("exported: iteration") == 1


def test_only_the_chief_writes(finished):
    output_dir, _ = finished
    files = {path.name for path in output_dir.iterdir()}
    assert {"results.json", "label_issues.csv", "noise.csv", "saved_model", "iteration_1"} <= files
    assert len(list(output_dir.glob("iteration_1/train/events.*"))) == 1


def test_resume_after_killed_worker_gives_identical_results(finished, tmp_path):
    (chief, log), (other, _) = start_workers(tmp_path, tmp_path / "run")
    try:
        while "iteration 1  epoch 1/2" not in log.read_text():
            assert chief.poll() is None, log.read_text()
            time.sleep(.1)
        other.send_signal(signal.SIGKILL)
        assert chief.wait(timeout=TIMEOUT) == 1
    finally:
        for process in (chief, other):
            process.kill()
            process.wait()
    last_line = log.read_text().splitlines()[-1]
    assert last_line.startswith("mlnt_tf: worker 1 has ended, so worker 0 stops"), log.read_text()
    resumed = start_workers(tmp_path, tmp_path / "run")
    codes = [process.wait(timeout=TIMEOUT) for process, _ in resumed]
    assert codes == [0, 0], [path.read_text() for _, path in resumed]
    assert "resumes after epoch" in log.read_text()
    assert read_results(tmp_path / "run") == read_results(finished[0])
