"""Atomic writes and the lock of an output directory."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from mlnt_tf.config import UserError
from mlnt_tf.files import atomic, lock

HOLD_LOCK = """
import sys, time
from mlnt_tf.files import lock

with lock.hold_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    atomic.write_csv(path, ("id",), [(1,)])

    def rows():
        yield (2,)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError):
        atomic.write_csv(path, ("id",), rows())
    assert path.read_text().split() == ["id", "1"]
    assert [other.name for other in tmp_path.iterdir()] == ["table.csv"]


def test_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    atomic.write_json(path, {"accuracy": 0.5})
    atomic.write_json(path, {"accuracy": 0.6})
    assert path.read_text() == '{\n  "accuracy": 0.6\n}\n'
    assert [other.name for other in tmp_path.iterdir()] == ["result.json"]


def test_scratch_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "writing_a.npz").write_text("incomplete")
    (tmp_path / "a.npz").write_text("complete")
    atomic.remove_scratch_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, tmp_path],
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_second_process_is_refused_with_the_name_of_the_holder(tmp_path, holder):
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
        with lock.hold_lock(tmp_path):
            pass


def test_lock_of_a_killed_process_is_taken_over(tmp_path, holder, caplog):
    caplog.set_level("INFO", logger="absl")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    path = tmp_path / lock.LOCK_FILE
    assert f"process {holder.pid} on " in path.read_text()
    with lock.hold_lock(tmp_path):
        assert f"process {os.getpid()} on " in path.read_text()
    assert path.read_text() == ""
    assert f"process {holder.pid} on " in caplog.text
