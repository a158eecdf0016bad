"""Atomic writes and the lock of an output directory."""

import errno
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from mlnt_tf.config import UserError
from mlnt_tf.files import atomic, disk, lock
from mlnt_tf.files.cells import restore_cell

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


def test_cells_that_a_spreadsheet_would_run_get_an_apostrophe(tmp_path):
    path = tmp_path / "table.csv"
    cells = ["=1+1", "-a", "@b", "+c", "-1.5", -2, "d=e", "", "'-1"]
    atomic.write_csv(path, "abcdefghi", [cells])
    written = path.read_text().splitlines()[1]
    assert written == "'=1+1,'-a,'@b,'+c,-1.5,-2,d=e,,''-1"
    assert [restore_cell(cell) for cell in written.split(",")] == list(map(str, cells))


def test_names_that_are_not_utf8_are_written_escaped(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    atomic.write_csv(tmp_path / "table.csv", ("record",), [(name,)])
    atomic.write_text(tmp_path / "text", name)
    assert (tmp_path / "table.csv").read_text().splitlines()[1] == r"caf\udce9.png"
    assert (tmp_path / "text").read_text() == r"caf\udce9.png"


@pytest.fixture
def file_size_limit():
    """A function that limits the size of files of this process in bytes, within a test."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_memory_map_reserves_its_space(tmp_path, file_size_limit):
    table = disk.create_memory_map(tmp_path / "table.npy", (1000, 10), np.float32)
    assert (tmp_path / "table.npy").stat().st_blocks * 512 >= 40000
    table[:] = 1.0
    assert np.load(tmp_path / "table.npy").sum() == 10000
    file_size_limit(20000)
    with pytest.raises(OSError) as caught:
        disk.create_memory_map(tmp_path / "other.npy", (1000, 10), np.float32)
    assert disk.disk_failure(caught.value) == "File too large"


def test_a_full_disk_is_recognized_by_number_and_by_text(tmp_path, file_size_limit):
    full = OSError(errno.ENOSPC, "No space left on device")
    assert disk.disk_failure(full) == "No space left on device"
    assert disk.disk_failure(RuntimeError("h5: errno = 27, File too large")) == "File too large"
    assert disk.disk_failure(OSError(errno.ENOENT, "No such file or directory")) is None
    assert disk.disk_failure(ValueError("a mistake")) is None
    file_size_limit(1000)
    with pytest.raises(OSError) as caught, open(tmp_path / "array.npy", "wb") as file:
        np.save(file, np.zeros(1000))
    assert disk.disk_failure(caught.value)


def test_directories_of_killed_processes_are_removed(tmp_path, monkeypatch):
    abandoned, held, unlocked = (tmp_path / name for name in ("abandoned", "held", "unlocked"))
    for directory in (abandoned, held, unlocked):
        directory.mkdir()
    (abandoned / lock.LOCK_FILE).touch()
    with lock.hold_lock(held):
        lock.remove_abandoned(tmp_path.iterdir())
        assert abandoned.exists(), "it may be new, and not locked yet"
        monkeypatch.setattr(lock, "ABANDONED_AFTER", -1.0)
        lock.remove_abandoned(tmp_path.iterdir())
        assert {path.name for path in tmp_path.iterdir()} == {"held", "unlocked"}


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
def test_a_cache_that_cannot_be_looked_at_is_done_without(tmp_path):
    (tmp_path / "home").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    code = f"""
import os
from mlnt_tf.files import cache
os.environ["XDG_CACHE_HOME"] = {str(tmp_path / "home/cache")!r}
os.seteuid(65534)
cache.MIN_SECONDS = -1.0
print(cache.cached_scan("scan", [], lambda: dict(found=3), version=1))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "{'found': 3}\n", done.stderr
    assert "The next run scans the files again" in done.stderr
