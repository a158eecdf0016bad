"""Speed of the input pipeline, compared with the bare JPEG decoder and with a training step."""

import functools
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

DISTINCT = 256  # Number of different encoded images, which sets of any size repeat.
CIFAR10 = 50_000  # Number of images.
FEATURES = 128
NEIGHBORS = 10
CLASSES = 10
ITERATION_EPOCHS = 120  # Epochs between two neighbor searches, as in the paper.
# Batches of a short and a long stream. Their difference leaves out the start of a stream.
STEPS = (2, 12)
DECODER = "tf.io.decode_jpeg"
IN_DATASET = "CIFAR-10"
IN_BATCH = "CIFAR-10, neighbors in the batch"
HEADINGS = ("input", "images/s", "per core", "of the decoder")
STEP_HEADINGS = ("network", "batch", "M", "precision", "step ms", "images/s taken", "input x",
                 "input x, batch scope", "search, dataset", "search, batch")


def measure(batch_size, *, repeats):
    """Measures the rate of the input of a later iteration for several kinds of images.

    The input consists of two augmented streams. A filter selects 70 % of the images of the second
    stream. The images are JPEGs of 256 x 256 cropped to 224, as Clothing1M, and arrays of 32 x 32
    with neighbors, as CIFAR-10. The bare decoder of the same JPEGs serves as a reference.

    Args:
      batch_size: int.
      repeats: int, the number of rounds. The median counts.

    Returns:
      list of dicts, rows of the table and of the JSON file: "input", "images_per_second",
      "images_per_core_second" (per second of processor time), and "share_of_decoder", which is None
      if nothing is decoded.
    """
    pixels = np.random.default_rng(0).integers(256, size=[CIFAR10, 32, 32, 3], dtype=np.uint8)
    arrays = storage.ArrayImages(pixels)
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        encoded = jpegs(256)
        files = file_images(encoded, 10_000, root, stored=(256, 256))
        shards = record_images(encoded, 10_000, root, stored=(256, 256))
        new_streams = {  # Name -> function of the number of steps.
            DECODER: functools.partial(bare_decoder, encoded, batch_size),
            "JPEG files, crop 224": functools.partial(streams, files, 224, batch_size),
            "JPEG shards, crop 224": functools.partial(streams, shards, 224, batch_size),
            IN_DATASET: functools.partial(streams, arrays, 32, batch_size),
            IN_BATCH: functools.partial(streams, arrays, 32, batch_size, scope="batch")}
        rates = {name: [] for name in new_streams}
        for _ in range(repeats):
            for name, new_stream in new_streams.items():
                images_per_step = batch_size if name == DECODER else 2 * batch_size
                rates[name].append(measure_rate(new_stream, images_per_step))
    medians = {name: np.median(pairs, axis=0).tolist() for name, pairs in rates.items()}
    rows = []
    for name, (per_second, per_core_second) in medians.items():
        fraction = None
        if name not in (IN_DATASET, IN_BATCH):
            fraction = per_core_second / medians[DECODER][1]
        rows.append({"input": name, "images_per_second": per_second,
                     "images_per_core_second": per_core_second, "share_of_decoder": fraction})
    return rows


def measure_step(config, rows, *, repeats):
    """Compares the input's rates with the rate at which a step of `config` consumes images.

    Args:
      config: a resolved Config.
      rows: from `measure`.
      repeats: int, the number of timed steps.

    Returns:
      dict, a row of the table and of the JSON file. "ratio_to_step" is the input's rate divided by
      the step's. "search_share" is the time of the neighbor search over CIFAR-10's 50,000 x 128
      features, divided by that of the steps of 120 epochs. "batch_search_share" is the time of the
      search within a batch, divided by that of a step.
    """
    keras.config.set_dtype_policy(config.precision)
    batch = step.synthetic_batch(config)
    warm_step = step.warmed(step.build_step(config, config.num_synthetic), batch)
    seconds = statistics.median(step.timed(warm_step, batch, repeats))
    num_streams = 2 if config.num_synthetic else 1
    consumed = num_streams * config.batch_size / seconds
    rates = {row["input"]: row["images_per_second"] for row in rows}
    steps = ITERATION_EPOCHS * CIFAR10 // config.batch_size
    return {"network": config.model, "batch_size": config.batch_size,
            "num_synthetic": config.num_synthetic, "precision": config.precision,
            "ms_per_step": 1e3 * seconds, "images_consumed_per_second": consumed,
            "ratio_to_step": rates[IN_DATASET] / consumed,
            "ratio_to_step_batch_scope": rates[IN_BATCH] / consumed,
            "search_share": search_seconds() / steps / seconds,
            "batch_search_share": batch_search_seconds(config.batch_size, repeats) / seconds}


def cells(row):
    """Returns a row of `measure` as text, in the order of HEADINGS."""
    fraction = row["share_of_decoder"]
    return (row["input"], f"{row['images_per_second']:.0f}",
            f"{row['images_per_core_second']:.0f}",
            "" if fraction is None else f"{fraction:.2f}")


def step_cells(row):
    """Returns a row of `measure_step` as text, in the order of STEP_HEADINGS."""
    return (row["network"], row["batch_size"], row["num_synthetic"], row["precision"],
            f"{row['ms_per_step']:.1f}", f"{row['images_consumed_per_second']:.1f}",
            f"{row['ratio_to_step']:.0f}", f"{row['ratio_to_step_batch_scope']:.0f}",
            f"{100 * row['search_share']:.4f} %", f"{100 * row['batch_search_share']:.3f} %")


def measure_rate(new_stream, images_per_step):
    """Measures a stream.

    Args:
      new_stream: function of the number of steps that returns an iterable of batches.
      images_per_step: int.

    Returns:
      (images per second, images per second of processor time).
    """
    wall_seconds = []
    processor_seconds = []
    for steps in STEPS:
        batches = new_stream(steps)
        wall = time.perf_counter()
        processor = time.process_time()
        for _ in batches:
            pass
        wall_seconds.append(time.perf_counter() - wall)
        processor_seconds.append(time.process_time() - processor)
    images = (STEPS[1] - STEPS[0]) * images_per_step
    return tuple(images / max(long - short, 1e-9)
                 for short, long in (wall_seconds, processor_seconds))


def jpegs(size):
    """Returns DISTINCT encoded images of [size, size, 3]: list of bytes."""
    blocks = np.random.default_rng(0).integers(256, size=[DISTINCT, 8, 8, 3], dtype=np.uint8)
    smooth = tf.image.resize(blocks, [size, size], "bicubic")
    images = tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8)
    return [tf.io.encode_jpeg(image, quality=85).numpy() for image in images]


def file_images(encoded, count, root, *, stored):
    """Returns `count` images by path, which share the files of a few encoded images.

    Args:
      encoded: list of bytes.
      count: int.
      root: path of the directory to write to.
      stored: (height, width) to which images are resized.
    """
    names = [f"{row:03d}.jpg" for row in range(len(encoded))]
    for name, content in zip(names, encoded):
        (root / name).write_bytes(content)
    return storage.FileImages(np.resize(np.array(names, "S"), count), root=str(root), size=stored)


def record_images(encoded, count, root, *, stored, images_per_shard=10_000):
    """Writes `count` images to TFRecord files and returns them as `RecordImages`.

    Existing files are reused.

    Args:
      encoded, count, root, stored: as for `file_images`.
      images_per_shard: int, the number of images in each file.
    """
    num_shards = -(-count // images_per_shard)
    paths = [root / f"{len(encoded[0])}_{number:04d}" for number in range(num_shards)]
    lengths = [min(images_per_shard, count - images_per_shard * number)
               for number in range(num_shards)]
    for number, (path, length) in enumerate(zip(paths, lengths)):
        if path.exists():
            continue
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in range(length):
                writer.write(encoded[(number + row) % len(encoded)])
    return storage.RecordImages([str(path) for path in paths], lengths, tf.identity, size=stored)


def training_batches(stored, crop, batch_size, steps, *, filtered, scope):
    """Returns one training stream over images with random labels, neighbors and filter.

    Args:
      stored: the images, of a class of `storage`.
      crop: int, the height and width of the crop.
      batch_size, steps: int.
      filtered: bool, whether a filter selects about 70 % of the images.
      scope: "dataset" or "batch", where neighbors are searched, or None for no neighbors.
    """
    count = len(stored)
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=count, dtype=np.int32)
    split = Split(np.arange(count), labels, stored, np.zeros(count, "S1"))
    normalizer = transforms.Normalizer(np.zeros(3, np.float32))
    preprocess = transforms.Preprocess(stored.shape, (crop, crop, 3), normalizer)
    settings = {}
    if scope == "dataset":
        settings["neighbors"] = rng.integers(count, size=[count, NEIGHBORS], dtype=np.int32)
    elif scope == "batch":
        settings["features"] = rng.normal(size=[count, FEATURES]).astype(np.float32)
        settings["num_neighbors"] = NEIGHBORS
    if filtered:
        selected = rng.random(count, dtype=np.float32) > .3
        settings["targets"] = Targets(split.labels, selected=selected)
    return pipeline.training_batches(split, preprocess, batch_size=batch_size,
                                     steps_per_epoch=steps, epochs=1, seed=0, augmented=True,
                                     **settings)


def streams(stored, crop, batch_size, steps, *, scope="dataset"):
    """Returns the two streams of a later iteration: all data with neighbors, and filtered data.

    Args:
      stored, crop, batch_size, steps, scope: as for `training_batches`.
    """
    meta = training_batches(stored, crop, batch_size, steps, filtered=False, scope=scope)
    filtered = training_batches(stored, crop, batch_size, steps, filtered=True, scope=None)
    return pipeline.two_streams(meta, filtered)


def bare_decoder(encoded, batch_size, steps):
    """Returns a data set that only decodes images: batches of uint8 images."""
    table = tf.constant(encoded)
    decoded = tf.data.Dataset.range(steps * batch_size).map(
        lambda row: tf.io.decode_jpeg(table[row % DISTINCT], channels=3),
        num_parallel_calls=tf.data.AUTOTUNE)
    return storage.without_autotuner(decoded.batch(batch_size))


def search_seconds():
    """Returns the seconds of the neighbor search over CIFAR10 x FEATURES."""
    features = np.random.default_rng(0).normal(size=[CIFAR10, FEATURES]).astype(np.float32)
    start_time = time.perf_counter()
    find_neighbors(features, num_neighbors=NEIGHBORS)
    return time.perf_counter() - start_time


def batch_search_seconds(batch_size, repeats):
    """Returns the median seconds of the neighbor search within a batch, of at least 5 searches."""
    rng = np.random.default_rng(0)
    features = tf.constant(rng.normal(size=[batch_size, FEATURES]), tf.float32)
    ids = tf.range(batch_size)
    labels = tf.constant(rng.integers(CLASSES, size=batch_size), tf.int32)
    search = tf.function(functools.partial(pipeline.batch_neighbor_labels,
                                           num_neighbors=NEIGHBORS))
    search(features, ids, labels)
    seconds = []
    for _ in range(max(repeats, 5)):
        start_time = time.perf_counter()
        search(features, ids, labels)
        seconds.append(time.perf_counter() - start_time)
    return statistics.median(seconds)
