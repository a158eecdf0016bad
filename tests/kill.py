"""Kills a small run at random moments, resumes it, and compares its files.

The files must equal those of an uninterrupted run.

    python tests/kill.py --kills=20

Every kill is SIGKILL. Half of them come after a random time, half while a file is being written.
Weights, tables and results must be identical, and the logs must contain each epoch once. Flags
that this script does not know are passed on to `mlnt_tf.train`.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import h5py
import tensorflow as tf

from mlnt_tf import train  # Imported before the fork, so that a child starts at once.

RUN = ["--train_examples=200", "--batch_size=32", "--width=2", "--num_synthetic=2", "--tau=0.05",
       "--epochs=3", "--steps_per_epoch=4", "--precision=float32", "--checkpoint_every=1",
       "--augment"]


def start(output_dir, flags, log):
    """Starts a run in a forked process and returns its process id.

    Args:
      output_dir: path.
      flags: list of str, in addition to RUN.
      log: file descriptor for the output of the run.
    """
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = train.main(["train", *RUN, *flags, f"--output_dir={output_dir}"])
    except BaseException as error:  # The child must never return into the parent's code.
        print(repr(error), file=sys.stderr)
        code = 99
    os._exit(code)


def exit_code(child):
    """Returns the exit code of a process (negative for a signal), or None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if not pid:
        return None
    return os.waitstatus_to_exitcode(status)


def kill_at_random(child, output_dir, rng, max_seconds):
    """Kills a run after a random time of work, or while it writes a file.

    Returns:
      str, the file or the time of the kill, or None if the run ended before.
    """
    only_while_writing = rng.random() < .5
    wait = rng.uniform(0, max_seconds)
    work_start = None
    while (code := exit_code(child)) is None:
        if work_start is None and holds_lock(child, output_dir):
            work_start = time.monotonic()
        if work_start is not None and time.monotonic() - work_start > wait:
            files = [str(path.relative_to(output_dir)) for path in output_dir.rglob("writing*")]
            if files or not only_while_writing:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return files[0] if files else f"{wait:.1f} s of work"
        time.sleep(.0002)
    assert code == 0, f"the run ended with {code}"
    return None


def holds_lock(child, output_dir):
    """Whether the process has locked the output directory."""
    lock = output_dir / "lock"
    return lock.exists() and f"process {child} " in lock.read_text()


def finish(output_dir, flags, log):
    """Starts or resumes a run and waits until it ends."""
    child = start(output_dir, flags, log)
    while (code := exit_code(child)) is None:
        time.sleep(.05)
    assert code == 0, f"the run ended with {code}"


def contents(output_dir):
    """Returns the contents of all files that two equal runs share, by name.

    Times and memory are left out.
    """
    by_name = {}
    for path in sorted(output_dir.rglob("*")):
        name = str(path.relative_to(output_dir))
        if path.name in ("result.json", "results.json"):
            by_name[name] = repr(without_seconds(json.loads(path.read_text())))
        elif path.suffix == ".keras":
            by_name[name] = weights(path)
        elif path.name == "variables.index":
            reader = tf.train.load_checkpoint(str(path.with_suffix("")))
            shapes = reader.get_variable_to_shape_map()
            by_name[name] = sorted(reader.get_tensor(key).tobytes()
                                   for key, shape in shapes.items() if shape)
        elif path.suffix in (".csv", ".npy"):
            by_name[name] = path.read_bytes()
        elif path.name.startswith("writing"):
            by_name[name] = b"scratch file"
    return by_name


def weights(path):
    """Returns the bytes of each weight in a .keras file, sorted.

    The names of the weights are ignored, because they count the layers that a process has created.
    """
    arrays = []

    def append_array(name, item):
        if isinstance(item, h5py.Dataset):
            arrays.append(item[()].tobytes())

    with (zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file,
          h5py.File(file) as stored):
        stored.visititems(append_array)
    return sorted(arrays)


def without_seconds(results):
    """Returns results without times, memory and checksums, which differ between equal runs."""
    if isinstance(results, dict):
        return {key: without_seconds(value) for key, value in results.items()
                if key not in ("seconds", "peak_memory_mb", "networks", "checksum")}
    if isinstance(results, list):
        return [without_seconds(value) for value in results]
    return results


def logged_epochs(output_dir):
    """Returns the epochs with a logged accuracy, in order, by directory of TensorBoard events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    epochs = {}
    for directory in sorted({path.parent for path in output_dir.rglob("events.out.tfevents.*")}):
        accumulator = EventAccumulator(str(directory))
        accumulator.Reload()
        if "epoch_accuracy" in accumulator.Tags()["tensors"]:  # Images have directories too.
            name = str(directory.relative_to(output_dir))
            epochs[name] = [event.step for event in accumulator.Tensors("epoch_accuracy")]
    return epochs


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills")
    parser.add_argument("--longest", type=float, default=8.0,
                        help="largest number of seconds of work before a kill")
    options, flags = parser.parse_known_args(argv)
    rng = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        uninterrupted = pathlib.Path(scratch) / "uninterrupted"
        killed = pathlib.Path(scratch) / "killed"
        log = os.open(f"{scratch}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            finish(uninterrupted, flags, log)
            kills = 0
            while kills < options.kills:
                child = start(killed, flags, log)
                moment = kill_at_random(child, killed, rng, options.longest)
                if moment is None:  # The run has finished: compare it and start another.
                    compare(uninterrupted, killed)
                    shutil.rmtree(killed)
                    continue
                kills += 1
                print(f"kill {kills} at {time.monotonic() - began:.0f} s, during {moment}",
                      flush=True)
            finish(killed, flags, log)
            compare(uninterrupted, killed)
        except AssertionError:
            print(pathlib.Path(f"{scratch}/log").read_text()[-6000:], file=sys.stderr)
            raise
    print(f"{kills} kills: the files equal those of an uninterrupted run")


def compare(uninterrupted, killed):
    """Asserts that two output directories have the same files, contents and logged epochs."""
    expected = contents(uninterrupted)
    actual = contents(killed)
    assert actual.keys() == expected.keys(), \
        f"files differ: {sorted(actual.keys() ^ expected.keys())}"
    different = [name for name in expected if actual[name] != expected[name]]
    assert not different, f"contents differ: {different}"
    epochs = logged_epochs(killed)
    expected_epochs = logged_epochs(uninterrupted)
    assert epochs == expected_epochs, (epochs, expected_epochs)


if __name__ == "__main__":
    main()
