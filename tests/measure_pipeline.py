"""python tests/measure_pipeline.py [memory|rates] [IMAGES …]: what the input costs, in memory and in time.

memory  resident memory of the real training pipeline (parallel reads, decode, shuffle, filter, neighbours, batch) over so
        many generated records, as shards and as files; each in a process of its own. The files are a few hundred that all
        the paths share.
rates   images a second on one core, as a share of `tf.io.decode_jpeg` alone.
"""

import argparse
import io
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

SHARED, BATCH, STEPS = 256, 128, 300


def jpegs(size):
    import PIL.Image

    encoded = []
    for seed in range(SHARED):
        blocks = np.random.default_rng(seed).integers(256, size=[8, 8, 3], dtype=np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(blocks).resize((size, size), PIL.Image.BICUBIC).save(buffer, "JPEG", quality=85)
        encoded.append(buffer.getvalue())
    return encoded


def images_of(kind, count, root, *, size, stored):
    """`count` generated images of one kind: shards of 10,000 records, or paths of shared files."""
    import tensorflow as tf

    from mlnt_tf.data import images

    encoded = jpegs(size)
    if kind == "files":
        for row, content in enumerate(encoded):
            (root / f"{row:03d}.jpg").write_bytes(content)
        return images.FileImages(np.tile(np.array([f"{row:03d}.jpg".encode() for row in range(SHARED)]),
                                         -(-count // SHARED))[:count], root=str(root), size=stored)
    files = []
    for shard in range(count // 10_000):
        files.append(str(root / f"{size}_{shard:04d}"))
        if not os.path.exists(files[-1]):
            with tf.io.TFRecordWriter(files[-1]) as writer:
                for row in range(10_000):
                    writer.write(encoded[(shard + row) % SHARED])
    return images.RecordImages(files, [10_000] * len(files), tf.identity, size=stored)


def batches_of(images, *, steps, crop):
    from mlnt_tf.data import pipeline, preprocess
    from mlnt_tf.data.splits import Split

    count, draws = len(images), np.random.default_rng(0)
    split = Split(np.arange(count), draws.integers(10, size=count, dtype=np.int32), images, np.zeros(count, "S1"))
    seen = preprocess.Preprocess(images.shape, (crop, crop, 3), preprocess.Normalizer(np.zeros(3, np.float32)))
    return pipeline.training_batches(
        split, seen, batch_size=BATCH, steps_per_epoch=steps, epochs=1, seed=0, augmented=True,
        probability=draws.random(count, dtype=np.float32), threshold=.3,
        neighbors=draws.integers(count, size=[count, 10], dtype=np.int32))


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure_memory(kind, count, root):
    """Prints MiB resident before the pipeline, after it ran, and at its peak."""
    images = images_of(kind, count, root, size=32, stored=(32, 32))
    before = resident()
    for _ in batches_of(images, steps=STEPS, crop=28):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{kind:8}{count:>10,}{before:>10.0f}{resident():>10.0f}{peak:>10.0f}")


def measure_rates(root):
    """Prints images a second of the bare decoder and of the pipelines, medians of three rounds in turn, on one core."""
    import tensorflow as tf

    os.sched_setaffinity(0, {0})
    kinds = {kind: images_of(kind, 20_000, root, size=256, stored=stored) for kind, stored in
             (("files", (256, 256)), ("shards", (256, 256)))}
    smaller = images_of("files", 20_000, root, size=256, stored=(128, 128))
    encoded = tf.constant(jpegs(256))
    bare = tf.data.Dataset.range(10**6).map(lambda row: tf.io.decode_jpeg(encoded[row % SHARED], channels=3),
                                            num_parallel_calls=1)
    streams = {"tf.io.decode_jpeg": bare.batch(BATCH),
               "files, crop 224": batches_of(kinds["files"], steps=10**4, crop=224),
               "shards, crop 224": batches_of(kinds["shards"], steps=10**4, crop=224),
               "files, resized to 128": batches_of(smaller, steps=10**4, crop=112)}
    streams = {name: iter(stream) for name, stream in streams.items()}
    taken = {name: [] for name in streams}
    for stream in streams.values():
        next(stream)
    for _ in range(3):
        for name, stream in streams.items():
            for _ in range(6):  # what was read ahead
                next(stream)
            began = time.monotonic()
            for _ in range(8):
                next(stream)
            taken[name].append(8 * BATCH / (time.monotonic() - began))
    base = np.median(taken["tf.io.decode_jpeg"])
    for name, rates in taken.items():
        print(f"{name:24}{np.median(rates):8.0f} images/s{np.median(rates) / base:8.2f} of the decoder")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "rates", "one"))
    parser.add_argument("counts", nargs="*", default=["10000", "100000", "1000000"])
    parser.add_argument("--root", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(arguments.root or scratch)
        if arguments.what == "rates":
            return measure_rates(root)
        if arguments.what == "one":
            return measure_memory(arguments.counts[0], int(arguments.counts[1]), root)
        print(f"{'':8}{'images':>10}{'before':>10}{'after':>10}{'peak':>10}  MiB resident, {STEPS} batches of {BATCH}",
              flush=True)
        for kind in ("shards", "files"):
            for count in arguments.counts:
                subprocess.run([sys.executable, __file__, "one", kind, count, "--root", str(root)], check=True)


if __name__ == "__main__":
    main()
