"""Every end of a command: its exit code, and one line for what the user can fix."""

import errno
import os
import random
import subprocess
import sys

import pytest

from mlnt_tf import cli
from mlnt_tf.config import Config, UserError, flags, setting_fields
from mlnt_tf.hardware import host


def end_with(error):
    def command(argv):
        raise error

    return cli.run_command(command, ["command"])


@pytest.mark.parametrize("error, message", [
    (PermissionError(errno.EACCES, "Permission denied", "/x/cache"),
     "/x/cache cannot be used (Permission denied)."),
    (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000),
     f"{'a' * 200}… cannot be used (File name too long)."),
    (OSError(errno.EMFILE, "Too many open files"),
     "a file or the output cannot be read or written (Too many open files)."),
    (MemoryError(), "the memory is exhausted. Use less data, smaller images or a lower "
                    "--batch_size.")])
def test_an_error_of_the_system_is_one_line(capsys, monkeypatch, error, message):
    monkeypatch.setattr(cli, "discard_output", lambda: None)
    assert end_with(error) == 1
    assert capsys.readouterr().err == f"mlnt_tf: {message}\n"


PRINT = "import sys; from mlnt_tf import cli; sys.exit(cli.run_command(lambda argv: print({}), []))"


def run_python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **kwargs.pop("env", {})}, **kwargs)


def test_a_reader_that_has_seen_enough_ends_a_command_quietly():
    read, write = os.pipe()
    os.close(read)
    done = run_python(PRINT.format("'a' * 100000"), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = run_python(PRINT.format("'text'"), stdout=full)
    assert done.returncode == 1
    assert done.stderr == ("mlnt_tf: a file or the output cannot be read or written "
                           "(No space left on device).\n")


def test_a_terminal_that_is_not_utf8_shows_other_characters_escaped():
    done = run_python(PRINT.format(r"'\u732b'"), env={"PYTHONIOENCODING": "latin-1"},
                      stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, "\\u732b\n")


def test_a_line_break_in_a_flag_is_refused():
    with pytest.raises(UserError, match=r"--data_dir=a\\n--seed=5 contains a line break"):
        Config(data_dir="a\n--seed=5")


def test_an_output_directory_that_is_an_address_is_refused():
    with pytest.raises(UserError, match="--output_dir=gs://bucket/run is an address"):
        Config(output_dir="gs://bucket/run")


GIB = 2**30
SYSTEM_FILES = {
    "version 2": {"/proc/self/cgroup": "0::/a/b\n",
                  "/sys/fs/cgroup/a/memory.max": f"{2 * GIB}\n",
                  "/sys/fs/cgroup/a/memory.current": f"{GIB}\n",
                  "/sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
                  "/sys/fs/cgroup/a/b/memory.max": "max\n",
                  "/sys/fs/cgroup/a/b/memory.current": f"{GIB}\n"},
    "version 1": {"/proc/self/cgroup": "4:memory:/docker/x\n",
                  "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                  "/sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB // 2}\n"},
    "no container": {"/proc/self/cgroup": "0::/\n"}}


@pytest.mark.parametrize("system, expected", [
    ("version 2", 1.5 * GIB), ("version 1", 1.5 * GIB), ("no container", 8 * GIB)])
def test_available_memory_respects_the_limit_of_a_container(monkeypatch, system, expected):
    files = {"/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * 2**20} kB\n",
             **SYSTEM_FILES[system]}
    monkeypatch.setattr(host, "_read_system_file", lambda path: files.get(path, ""))
    assert host.available_memory() == expected


@pytest.mark.parametrize("arguments", [["--flagfile=/dev/zero"], ["--flagfile", "/dev"]])
def test_a_flag_file_that_is_not_a_regular_file_is_refused(arguments):
    with pytest.raises(UserError, match="--flagfile=/dev.* is not a text file"):
        flags.parse(["train", *arguments])


BAD_VALUES = ("-1", "0", "1e400", "nan", "-inf", "1e300", str(10**40), str(-10**40), "", " ", "x",
              "a\nb", "\x00", "gs://a", "1,,2", "=", "0.5", "true", "/", "../..", "~", "猫")


@pytest.mark.slow
def test_any_value_of_any_flag_is_accepted_or_refused_in_one_line():
    rng = random.Random(0)
    names = list(setting_fields(Config))
    for _ in range(2000):
        chosen = [f"--{rng.choice(names)}={rng.choice(BAD_VALUES)}"
                  for _ in range(rng.randint(1, 3))]
        try:
            flags.parse(["train", *chosen])
        except UserError as error:
            assert "\n" not in str(error) and "--" in str(error), chosen
