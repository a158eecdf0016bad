import errno
import os
import signal
import subprocess
import sys

import pytest

from mlnt_tf.config import UserError
from mlnt_tf.files import atomic, lock


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    atomic.write_csv(path, ("id",), [(1,)])

    def rows():
        yield (2,)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError):
        atomic.write_csv(path, ("id",), rows())
    assert path.read_text().split() == ["id", "1"]
    assert [other.name for other in tmp_path.iterdir()] == ["table.csv"]


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    (tmp_path / "writing_a.npz").write_text("half")
    (tmp_path / "a.npz").write_text("whole")
    atomic.remove_scratch_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


HOLD = """import sys, time
from mlnt_tf.files import lock
with lock.hold_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)"""


def test_a_second_run_is_refused_and_a_stale_lock_taken_over(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid} on "):
            with lock.hold_lock(tmp_path):
                pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert f"process {other.pid}" in (tmp_path / "lock").read_text()  # the dead one's name is still there
    with lock.hold_lock(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()
    assert (tmp_path / "lock").read_text() == ""
