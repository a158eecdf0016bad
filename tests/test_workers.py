"""Two workers on this host, by the command line: to the end, and with one of them killed in between."""

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

ROOT = pathlib.Path(__file__).parents[1]
TINY = ("--train_examples=256", "--batch_size=32", "--width=4", "--num_synthetic=1", "--iterations=1", "--epochs=2",
        "--pretrain_epochs=1", "--precision=float32")
PATIENCE = 300  # seconds, on a machine busy with other tests too


def workers(directory, output_dir, *flags):
    """Starts both; each process has its output in a file of the directory: (process, path) of each."""
    addresses, started = [f"127.0.0.1:{port}" for port in tiny.free_ports(2)], []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        log = directory / f"worker{index}.log"
        with open(log, "w") as file:
            started.append((subprocess.Popen(
                [sys.executable, "-m", "mlnt_tf.train", *TINY, f"--output_dir={output_dir}", *flags], cwd=ROOT,
                env={**os.environ, "TF_CONFIG": json.dumps(task)}, stdout=file, stderr=subprocess.STDOUT), log))
    return started


def results(output_dir):
    found = json.loads((output_dir / "results.json").read_text())
    return kill.without_seconds(found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two workers by the launch script: (its directory, what it printed)."""
    directory = tmp_path_factory.mktemp("finished")
    if not (pathlib.Path(sys.prefix) / ".mlnt_tf_").exists():
        pytest.skip("the environment is none of launch/environment.sh's")
    done = subprocess.run(
        ["bash", str(ROOT / "launch/multi_worker.sh"), *TINY, f"--output_dir={directory / 'run'}"],
        env={**os.environ, "PROCESSES": "2", "PORT": str(tiny.free_ports(1)[0]), "MLNT_VENV": sys.prefix},
        capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "run", done.stdout + done.stderr


def test_two_workers_run_to_the_end_and_the_chief_alone_tells_and_writes(finished):
    directory, told = finished
    assert "strategy multi_worker, replicas: 2, worker 0 of 2" in told and told.count("epoch 1/2") == 1
    assert told.count("exported: iteration") == 1
    assert {"results.json", "suspects.csv", "noise.csv", "saved_model", "iteration_1"} <= {
        path.name for path in directory.iterdir()}
    assert len(list(directory.glob("iteration_1/train/events.*"))) == 1


def test_a_worker_that_is_killed_is_named_and_the_relaunch_goes_on(finished, tmp_path):
    (chief, told), (other, _) = workers(tmp_path, tmp_path / "run")
    try:
        while "iteration 1  epoch 1/2" not in told.read_text():
            assert chief.poll() is None, told.read_text()
            time.sleep(.1)
        other.send_signal(signal.SIGKILL)
        assert chief.wait(timeout=PATIENCE) == 1
    finally:
        for process in (chief, other):
            process.kill()
    last = told.read_text().splitlines()[-1]
    assert last.startswith("mlnt_tf: worker 1 has ended, so worker 0 stops"), told.read_text()
    again = workers(tmp_path, tmp_path / "run")
    assert [process.wait(timeout=PATIENCE) for process, _ in again] == [0, 0], [path.read_text() for _, path in again]
    assert "resumes after epoch" in told.read_text()
    assert results(tmp_path / "run") == results(finished[0])
