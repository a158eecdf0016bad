"""python tests/measure_pipeline.py memory [IMAGES …]: what the input costs in memory.

Resident memory of the real training pipeline (parallel reads, decode, shuffle, filter, neighbours, batch) over so many
generated records, as shards and as files; each in a process of its own. The files are a few hundred that all the paths
share. How fast it is: python -m mlnt_tf.benchmark input.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH, STEPS = 128, 300


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure_memory(kind, count, root):
    """Prints MiB resident before the pipeline, after it ran, and at its peak."""
    from mlnt_tf.benchmark import feed

    kinds = {"files": feed.file_images, "shards": feed.record_images}
    images = kinds[kind](feed.jpegs(32), count, root, stored=(32, 32))
    before = resident()
    for _ in feed.training_batches(images, 28, BATCH, STEPS, filtered=True, scope="dataset"):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{kind:8}{count:>10,}{before:>10.0f}{resident():>10.0f}{peak:>10.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "one"),
                        help="one: a single row of memory, of a kind and a number")
    parser.add_argument("counts", metavar="images", nargs="*", default=["10000", "100000", "1000000"])
    parser.add_argument("--kinds", nargs="*", default=["shards", "files"])
    parser.add_argument("--root", default=None, help="where the images go, to be kept; else a directory that is removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(arguments.root or scratch)
        if arguments.what == "one":
            return measure_memory(arguments.counts[0], int(arguments.counts[1]), root)
        print(f"{'':8}{'images':>10}{'before':>10}{'after':>10}{'peak':>10}  MiB resident, {STEPS} batches of {BATCH}",
              flush=True)
        for kind in arguments.kinds:
            for count in arguments.counts:
                subprocess.run([sys.executable, __file__, "one", kind, count, "--root", str(root)], check=True)


if __name__ == "__main__":
    main()
