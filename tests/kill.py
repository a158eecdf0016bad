"""python tests/kill.py --kills=20: kills a tiny run of three iterations again and again, and compares what it ends with.

Every kill is SIGKILL, half of them after a random time, half while a file is being written. The run that was killed
must end with the same bytes in weights, tables and results as one that never was, and with each epoch once in its logs.
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

from mlnt_tf import (
    train,  # noqa: F401, before the fork, so that a child starts at once
)
from mlnt_tf.files import artifacts

RUN = ["--train_examples=200", "--batch_size=32", "--width=2", "--num_synthetic=2", "--tau=0.05", "--epochs=3",
       "--steps_per_epoch=4", "--precision=float32", "--checkpoint_every=1", "--augment"]


def start(output_dir, flags, log):
    """Forks a run; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(log, 1), os.dup2(log, 2)
        code = train.main(["train", *RUN, *flags, f"--output_dir={output_dir}"])
    except BaseException as error:  # it must not go on as the parent
        print(repr(error), file=sys.stderr)
        code = 99
    os._exit(code)


def ended(child):
    """Its exit code (negative for a signal), or None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill_somewhere(child, output_dir, draws, longest):
    """Kills after a random time of work, or at a random file's writing; what it was at, or None if it had ended."""
    at_writing, wait, began = draws.random() < .5, draws.uniform(0, longest), None
    while (code := ended(child)) is None:
        working = (output_dir / "lock").exists() and f"process {child} " in (output_dir / "lock").read_text()
        if working and began is None:
            began = time.monotonic()
        if began is not None and time.monotonic() - began > wait:
            writing = [str(path.relative_to(output_dir)) for path in output_dir.rglob("writing*")]
            if writing or not at_writing:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return writing[0] if writing else f"{wait:.1f} s of work"
        time.sleep(.0002)
    assert code == 0, f"the run ended with {code}"
    return None


def finish(output_dir, flags, log):
    child = start(output_dir, flags, log)
    while (code := ended(child)) is None:
        time.sleep(.05)
    assert code == 0, f"the run ended with {code}"


def contents(output_dir):
    """{name: bytes} of everything that must not differ."""
    found = {}
    for path in sorted(output_dir.rglob("*")):
        name = str(path.relative_to(output_dir))
        if path.name in ("result.json", "results.json"):
            found[name] = repr(without_seconds(json.loads(path.read_text())))
        elif path.suffix == ".keras":
            found[name] = weights(path)
        elif path.name == "variables.index":
            reader = tf.train.load_checkpoint(str(path.with_suffix("")))
            found[name] = sorted(reader.get_tensor(key).tobytes() for key, shape in
                                 reader.get_variable_to_shape_map().items() if shape)
        elif path.suffix in (".csv", ".npy"):
            found[name] = path.read_bytes()
        elif path.name.startswith("writing"):
            found[name] = b"left behind"
    return found


def weights(path):
    """The bytes of each weight; not under their names, which count the layers that a process has made before."""
    found = []
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file, h5py.File(file) as stored:
        stored.visititems(
            lambda name, item: found.append(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None)
    return sorted(found)


def without_seconds(results):
    """What two runs of the same flags must agree in: no times, no memory."""
    if isinstance(results, dict):
        return {key: without_seconds(value) for key, value in results.items()
                if key not in ("seconds", "peak_memory_mb", artifacts.CHECKSUM)}
    return [without_seconds(value) for value in results] if isinstance(results, list) else results


def logged_epochs(output_dir):
    """{events directory: epochs of the logged accuracy, in order}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for directory in sorted({path.parent for path in output_dir.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(directory))
        events.Reload()
        found[str(directory.relative_to(output_dir))] = [event.step for event in events.Tensors("epoch_accuracy")]
    return found


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=8.0, help="seconds of work before a kill, at most")
    options, flags = parser.parse_known_args(argv)
    draws, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        places = [pathlib.Path(scratch) / name for name in ("whole", "killed")]
        log = os.open(f"{scratch}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            finish(places[0], flags, log)
            kills = 0
            while kills < options.kills:
                at = kill_somewhere(start(places[1], flags, log), places[1], draws, options.longest)
                if at is None:  # it came through: compared, and from the beginning again
                    compare(*places)
                    shutil.rmtree(places[1])
                    continue
                kills += 1
                print(f"kill {kills} at {time.monotonic() - began:.0f} s, during {at}", flush=True)
            finish(places[1], flags, log)
            compare(*places)
        except AssertionError:
            print(pathlib.Path(f"{scratch}/log").read_text()[-6000:], file=sys.stderr)
            raise
    print(f"{kills} kills: weights, tables, results and logs are those of a run never killed")


def compare(whole, killed):
    first, second = contents(whole), contents(killed)
    assert first.keys() == second.keys(), f"files differ: {sorted(first.keys() ^ second.keys())}"
    different = [name for name in first if first[name] != second[name]]
    assert not different, f"contents differ: {different}"
    assert logged_epochs(whole) == logged_epochs(killed), (logged_epochs(whole), logged_epochs(killed))


if __name__ == "__main__":
    main()
