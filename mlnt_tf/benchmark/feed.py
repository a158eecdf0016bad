"""How fast the input pipeline is: beside the bare JPEG decoder, and beside what a training step takes."""

import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from mlnt_tf.benchmark import step
from mlnt_tf.data import pipeline, transforms
from mlnt_tf.data.images import storage
from mlnt_tf.data.splits import Split
from mlnt_tf.data.targets import Targets
from mlnt_tf.neighbors import find_neighbors

DISTINCT = 256  # encoded images, from which a set of any size is made
CIFAR10, FEATURES, NEIGHBORS, CLASSES = 50_000, 128, 10, 10
ITERATION_EPOCHS = 120  # between two searches, as in the paper
STEPS = 2, 12  # of a short and a long stream: their difference leaves out what begins a stream
DECODER, IN_DATASET, IN_BATCH = "tf.io.decode_jpeg", "CIFAR-10", "CIFAR-10, neighbours in the batch"
HEADINGS = ("input", "images/s", "per core", "of the decoder")
STEP_HEADINGS = ("network", "batch", "M", "precision", "step ms", "images/s taken", "input x", "input x, batch scope",
                 "search, dataset", "search, batch")


def measure(batch_size, *, repeats):
    """The rates of two augmented streams, one of them filtered with 70 % kept: of 256 x 256 JPEGs cropped to 224
    (Clothing1M) beside the bare decoder of the same JPEGs, and of 32 x 32 arrays with neighbours (CIFAR-10).

    Args:
      batch_size: k.
      repeats: rounds in turn, of whose rates the median is taken.

    Returns:
      rows {"input", "images_per_second", "images_per_core_second" (of processor time), "share_of_decoder" or None}.
    """
    with tempfile.TemporaryDirectory() as root:
        arrays = storage.ArrayImages(np.random.default_rng(0).integers(256, size=[CIFAR10, 32, 32, 3], dtype=np.uint8))
        encoded = jpegs(256)
        files = file_images(encoded, 10_000, pathlib.Path(root), stored=(256, 256))
        shards = record_images(encoded, 10_000, pathlib.Path(root), stored=(256, 256))
        taken = {DECODER: lambda steps: bare_decoder(encoded, batch_size, steps),
                 "JPEG files, crop 224": lambda steps: streams(files, 224, batch_size, steps),
                 "JPEG shards, crop 224": lambda steps: streams(shards, 224, batch_size, steps),
                 IN_DATASET: lambda steps: streams(arrays, 32, batch_size, steps),
                 IN_BATCH: lambda steps: streams(arrays, 32, batch_size, steps, scope="batch")}
        rates = {name: [] for name in taken}
        for _ in range(repeats):
            for name, stream in taken.items():
                rates[name].append(rate(stream, batch_size * (1 if name == DECODER else 2)))
    wall, core = ({name: statistics.median(pair[which] for pair in pairs) for name, pairs in rates.items()}
                  for which in (0, 1))
    return [{"input": name, "images_per_second": wall[name], "images_per_core_second": core[name],
             "share_of_decoder": None if name in (IN_DATASET, IN_BATCH) else core[name] / core[DECODER]} for name in rates]


def measure_step(config, rows, *, repeats):
    """What a step of `config` takes of those rates, and what the neighbours cost it: a row.

    `ratio_to_step` is the input's rate over the rate that the step consumes images at. `search_share` is the search of
    CIFAR-10's 50,000 by 128 features, spread over the steps of 120 epochs; `batch_search_share` that within each batch.
    """
    keras.config.set_dtype_policy(config.precision)
    batch = step.synthetic_batch(config)
    trained = step.warmed(step.build_step(config, config.num_synthetic), batch)
    seconds = statistics.median(step.timed(trained, batch, repeats))
    consumed = (2 if config.num_synthetic else 1) * config.batch_size / seconds
    rates = {row["input"]: row["images_per_second"] for row in rows}
    steps = ITERATION_EPOCHS * CIFAR10 // config.batch_size
    return {"network": config.model, "batch_size": config.batch_size, "num_synthetic": config.num_synthetic,
            "precision": config.precision, "ms_per_step": 1e3 * seconds, "images_consumed_per_second": consumed,
            "ratio_to_step": rates[IN_DATASET] / consumed,
            "ratio_to_step_batch_scope": rates[IN_BATCH] / consumed,
            "search_share": search_seconds() / steps / seconds,
            "batch_search_share": batch_search_seconds(config.batch_size, repeats) / seconds}


def cells(row):
    """A row of `measure` as the table prints it, under HEADINGS."""
    share = row["share_of_decoder"]
    return (row["input"], f"{row['images_per_second']:.0f}", f"{row['images_per_core_second']:.0f}",
            "" if share is None else f"{share:.2f}")


def step_cells(row):
    """A row of `measure_step` as the table prints it, under STEP_HEADINGS."""
    return (row["network"], row["batch_size"], row["num_synthetic"], row["precision"], f"{row['ms_per_step']:.1f}",
            f"{row['images_consumed_per_second']:.1f}", f"{row['ratio_to_step']:.0f}",
            f"{row['ratio_to_step_batch_scope']:.0f}", f"{100 * row['search_share']:.4f} %",
            f"{100 * row['batch_search_share']:.3f} %")


def rate(stream, batch_size):
    """(images a second, images a second of processor time) of a stream: a function of how many batches to make."""
    taken = []
    for steps in STEPS:
        batches, wall, core = stream(steps), time.perf_counter(), time.process_time()
        for _ in batches:
            pass
        taken.append((time.perf_counter() - wall, time.process_time() - core))
    images_between = (STEPS[1] - STEPS[0]) * batch_size
    return tuple(images_between / max(long - short, 1e-9) for short, long in zip(*taken))


def jpegs(size):
    """DISTINCT encoded images of [size, size, 3]."""
    blocks = np.random.default_rng(0).integers(256, size=[DISTINCT, 8, 8, 3], dtype=np.uint8)
    smooth = tf.cast(tf.clip_by_value(tf.image.resize(blocks, [size, size], "bicubic"), 0, 255), tf.uint8)
    return [tf.io.encode_jpeg(image, quality=85).numpy() for image in smooth]


def file_images(encoded, count, root, *, stored):
    """`count` images by path, which share the files of the few encoded ones."""
    names = [f"{row:03d}.jpg" for row in range(len(encoded))]
    for name, content in zip(names, encoded):
        (root / name).write_bytes(content)
    return storage.FileImages(np.resize(np.array(names, "S"), count), root=str(root), size=stored)


def record_images(encoded, count, root, *, stored, shard=10_000):
    """`count` images in shards of TFRecords; shards already there are taken as they are."""
    files = [root / f"{len(encoded[0])}_{number:04d}" for number in range(-(-count // shard))]
    lengths = [min(shard, count - shard * number) for number in range(len(files))]
    for number, (path, length) in enumerate(zip(files, lengths)):
        if not path.exists():
            with tf.io.TFRecordWriter(str(path)) as writer:
                for row in range(length):
                    writer.write(encoded[(number + row) % len(encoded)])
    return storage.RecordImages([str(path) for path in files], lengths, tf.identity, size=stored)


def training_batches(stored, crop, batch_size, steps, *, filtered, scope):
    """The training pipeline over these images, with labels, mentor's probabilities and neighbours (of the scope, or of
    None without) drawn at random."""
    count, draws = len(stored), np.random.default_rng(0)
    split = Split(np.arange(count), draws.integers(CLASSES, size=count, dtype=np.int32), stored, np.zeros(count, "S1"))
    seen = transforms.Preprocess(stored.shape, (crop, crop, 3), transforms.Normalizer(np.zeros(3, np.float32)))
    more, targets = {}, None
    if scope == "dataset":
        more = {"neighbors": draws.integers(count, size=[count, NEIGHBORS], dtype=np.int32)}
    elif scope == "batch":
        more = {"features": draws.normal(size=[count, FEATURES]).astype(np.float32), "num_neighbors": NEIGHBORS}
    if filtered:
        targets = Targets(split.labels, selected=draws.random(count, dtype=np.float32) > .3)
    return pipeline.training_batches(split, seen, batch_size=batch_size, steps_per_epoch=steps, epochs=1, seed=0,
                                     augmented=True, targets=targets, **more)


def streams(stored, crop, batch_size, steps, *, scope="dataset"):
    """The two streams of a step of the later iterations: all the data with neighbours, and what the filter keeps."""
    return pipeline.two_streams(training_batches(stored, crop, batch_size, steps, filtered=False, scope=scope),
                                training_batches(stored, crop, batch_size, steps, filtered=True, scope=None))


def bare_decoder(encoded, batch_size, steps):
    table = tf.constant(encoded)
    decoded = tf.data.Dataset.range(steps * batch_size).map(
        lambda row: tf.io.decode_jpeg(table[row % DISTINCT], channels=3), num_parallel_calls=tf.data.AUTOTUNE)
    return storage.without_autotuner(decoded.batch(batch_size))


def search_seconds():
    features = np.random.default_rng(0).normal(size=[CIFAR10, FEATURES]).astype(np.float32)
    began = time.perf_counter()
    find_neighbors(features, num_neighbors=NEIGHBORS)
    return time.perf_counter() - began


def batch_search_seconds(batch_size, repeats):
    draws = np.random.default_rng(0)
    operands = (tf.constant(draws.normal(size=[batch_size, FEATURES]), tf.float32), tf.range(batch_size),
                tf.constant(draws.integers(CLASSES, size=batch_size), tf.int32))
    search = tf.function(lambda *operands: pipeline.batch_neighbor_labels(*operands, NEIGHBORS))
    search(*operands)
    taken = []
    for _ in range(max(repeats, 5)):
        began = time.perf_counter()
        search(*operands)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
