"""python tests/measure_pipeline.py memory [IMAGES …]: measures the memory of the input pipeline.

It reports the resident memory of the complete training pipeline (parallel reads, decoding, shuffle,
selection, neighbors, batches) over generated images, stored as shards and as files. Each row is
measured in a process of its own. The files are a few hundred that all paths share.

`python -m mlnt_tf.benchmark input` measures the speed.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH_SIZE, STEPS = 128, 300
MIB = 2**20


def resident_mib():
    """Returns the resident memory of this process in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def print_row(kind, count, root):
    """Prints the resident memory before the pipeline, after its last batch, and at its peak."""
    from mlnt_tf.benchmark import input_pipeline

    make_images = {"files": input_pipeline.file_images,
                   "shards": input_pipeline.record_images}[kind]
    images = make_images(input_pipeline.jpegs(32), count, root, stored=(32, 32))
    before = resident_mib()
    for _ in input_pipeline.training_batches(
            images, 28, BATCH_SIZE, STEPS, filtered=True, scope="dataset"):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{kind:8}{count:>10,}{before:>10.0f}{resident_mib():>10.0f}{peak:>10.0f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "command", choices=("memory", "row"),
        help="memory: the complete table. row: one row, for a kind and a number of images.")
    parser.add_argument(
        "counts", metavar="IMAGES", nargs="*", default=["10000", "100000", "1000000"])
    parser.add_argument("--kinds", nargs="*", default=["shards", "files"])
    parser.add_argument(
        "--root", help="Directory for the images, which are kept. The default is a temporary one.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(arguments.root or scratch)
        if arguments.command == "row":
            kind, count = arguments.counts
            print_row(kind, int(count), root)
            return
        print(f"{'':8}{'images':>10}{'before':>10}{'after':>10}{'peak':>10}  MiB resident, "
              f"{STEPS} batches of {BATCH_SIZE}", flush=True)
        for kind in arguments.kinds:
            for count in arguments.counts:
                subprocess.run([sys.executable, __file__, "row", kind, count, "--root", str(root)],
                               check=True)


if __name__ == "__main__":
    main()
