"""python -m mlnt_tf.check --flagfile=FILE …: what a training would meet, told before it begins."""

import collections
import dataclasses
import math
import os
import pathlib
import sys
import time

import numpy as np

from mlnt_tf import cli
from mlnt_tf.config import flags

SHOWN = 5  # duplicates, of each kind
TIMED_STEPS = 3
GIB = 2**30


def main(argv=None):
    """Takes the flags of a training. Returns the exit code: 0 it could begin, 2 it would be refused."""
    cli.set_up_logging()
    return cli.run_command(check, argv)


def check(argv):
    """Prints every check that can run, then raises UserError for the first problem that would stop the training."""
    config = flags.parse(argv)
    from mlnt_tf import runner, runtime  # TensorFlow loads here

    plan, config = runner.plan_run(config)
    if not plan.uses_gpu:
        hide_gpus()
    runtime.prepare(config)
    report(config)


def hide_gpus():
    """Makes the steps that are timed run on the CPU, as the training's will."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")


def report(config):
    """Prints the checks of a resolved Config.

    Raises:
      UserError: something would stop the training.
    """
    from mlnt_tf import methods, runner
    from mlnt_tf.data import inspection, sources
    from mlnt_tf.examples import examples_of

    method = methods.find(config)

    source = sources.load_source(dataclasses.replace(config, max_bad_images=1.0))
    splits = {name: split for name, split in (("train", source.train), ("validation", source.validation),
                                              ("test", source.test)) if split is not None}
    print(f"{config.dataset}: {len(source.class_names)} classes; " + ", ".join(
        f"{name} {len(split)}" for name, split in splits.items())
        + ("" if source.validation else f" (of train, {config.validation_fraction:g} are held out for validation)"))
    print(sizes(source))
    print_classes(source.class_names, splits)
    for record, reason in source.bad_images:
        print(f"does not decode: {record}: {reason}")
    print_duplicates(splits)
    print_machine(config)
    inspection.check_bad_images(source.bad_images, sum(map(len, splits.values())) + len(source.bad_images),
                                config.max_bad_images, lists="all are listed above")
    examples = examples_of(source, config)
    runner.check_network(config, examples, method)
    print_memory(examples, config)
    print_time(examples, config, method)


def sizes(source):
    height, width, channels = source.train.images.shape
    stored = f"images: {height} x {width} x {channels} (height x width x channels) before the crop"
    if source.sizes is None or not len(source.sizes):
        return stored
    (low, middle, high) = np.percentile(source.sizes, [0, 50, 100], axis=0).astype(int)
    return (f"{stored}; in their files {low[0]} to {high[0]} high (median {middle[0]}), {low[1]} to {high[1]} wide "
            f"(median {middle[1]})")


def print_classes(class_names, splits):
    """Counts of the labels per class and split, and the classes that a split lacks."""
    counts = {name: np.bincount(split.labels, minlength=len(class_names)) for name, split in splits.items()}
    width = max(map(len, class_names))
    print("\n".join([f"  {'':{width}}" + "".join(f"{name:>12}" for name in counts)] + [
        f"  {name:{width}}" + "".join(f"{count[label]:>12}" for count in counts.values())
        for label, name in enumerate(class_names)]))
    for split, count in counts.items():
        if not count.all():
            lacking = [name for name, number in zip(class_names, count) if not number]
            print(f"{split} lacks {len(lacking)} of the classes: {', '.join(lacking)}")


def print_duplicates(splits):
    """Images of the same content in two splits, or in one with different labels."""
    digests = {name: split.images.digests() if split.digests is None else split.digests
               for name, split in splits.items()}
    names = list(splits)
    for first, one in enumerate(names):
        place = dict(zip(digests[one].tolist(), range(len(digests[one]))))
        for other in names[first + 1:]:
            tell(f"of {other} are in {one} too", [
                (splits[one].records[place[digest]], splits[other].records[row])
                for row, digest in enumerate(digests[other].tolist()) if digest in place])
    rows = collections.defaultdict(list)
    for row, digest in enumerate(digests["train"].tolist()):
        rows[digest].append(row)
    train = splits["train"]
    twins = [[train.records[row] for row in group] for group in rows.values()
             if len({int(train.labels[row]) for row in group}) > 1]
    tell("groups of equal images in train have different labels", twins)


def tell(what, groups):
    from mlnt_tf.data.splits import text_of

    if not groups:
        return
    print(f"duplicates: {len(groups)} {what}")
    for group in groups[:SHOWN]:
        print("  " + " = ".join(map(text_of, group[:4])))


def print_machine(config):
    """Versions, devices and the neighbour search."""
    import tensorflow as tf

    from mlnt_tf import runtime
    from mlnt_tf.meta import neighbors

    print(", ".join(f"{name} {version or 'absent'}" for name, version in runtime.versions().items()))
    gpus = tf.config.list_physical_devices("GPU")
    scann = neighbors.usable_scann(config.neighbor_backend) is not None
    print(f"devices: {len(gpus) or 'no'} GPU, {os.cpu_count()} cores; neighbours by "
          f"{'ScaNN' if scann else 'exact search, as ScaNN is switched off or does not load beside this TensorFlow'}")


def print_memory(examples, config):
    """What the data need, beside the memory there is; what the steps need is seen when they are timed."""
    from mlnt_tf.models.registry import feature_extractor

    features = feature_extractor(examples.new_network(config), config.neighbor_features).output_shape[-1]
    count, pixels = len(examples.train), sum(split.images.nbytes for split in
                                             (examples.train, examples.validation, examples.test))
    tables = count * (8 + 4 + 4 + 4 + 4 * config.num_neighbors)
    needed = {"pixels kept decoded": pixels, "tables by id": tables, f"features ({features} each)": 4 * features * count}
    there = available_memory()
    print("memory for data: " + ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in needed.items())
          + (f"; {there / GIB:.1f} GiB are there" if there else ""))
    if there and sum(needed.values()) > there:
        print("  this is more than there is: lower --image_size or --train_examples, or take --neighbor_scope=batch")


def available_memory():
    """Bytes that a new process can have, or None where the system does not tell."""
    path = pathlib.Path("/proc/meminfo")
    if not path.exists():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def print_time(examples, config, method):
    """Prints the steps of the whole run and, from a few real steps of each kind, how long they take."""
    from mlnt_tf import runtime

    steps = planned_steps(config, examples, method)
    seconds = {kind: seconds_of_a_step(kind, examples, config) for kind in steps}
    for kind, count in steps.items():
        print(f"{kind}: {count} steps of {config.batch_size}, {seconds[kind]:.3f} s each (the fastest of {TIMED_STEPS} "
              "real ones)")
    total = sum(seconds[kind] * count for kind, count in steps.items())
    print(f"in all {sum(steps.values())} steps, about {total / 3600:.1f} hours ({total / 60:.0f} minutes), without "
          f"validation, mentor and neighbor search; memory at the peak of these steps: "
          f"{runtime.peak_memory_mb() / 1024:.1f} GiB")


def planned_steps(config, examples, method):
    """Returns {kind of step: number of steps} of the complete run; see `methods.Method`."""
    epochs = method.planned_epochs(config, examples)
    steps = {kind: math.ceil(count * examples.steps_per_epoch) for kind, count in epochs.items()}
    if "cross entropy" in steps:  # Rounded down if another kind is rounded up: the sum is exact.
        others = sum(count for kind, count in steps.items() if kind != "cross entropy")
        total = sum(epochs.values()) * examples.steps_per_epoch
        steps["cross entropy"] = math.ceil(total) - others
    return steps


def seconds_of_a_step(kind, examples, config):
    """Returns the seconds of a real step, input included; the weights are thrown away."""
    import keras

    from mlnt_tf.data import pipeline
    from mlnt_tf.methods import iterations
    from mlnt_tf.methods.cross_entropy import CrossEntropy
    from mlnt_tf.stage import compile_model

    network = examples.new_network(config)
    config = dataclasses.replace(config, steps_per_execution=1)
    if kind == "mlnt":
        model = iterations.new_mlnt(dataclasses.replace(config, meta_every=1), network)
        compile_model(model, config, learning_rate=config.learning_rate, meta_rate=config.meta_rate)
        neighbors = np.zeros([len(examples.train), config.num_neighbors], np.int32)
    else:
        model = compile_model(CrossEntropy(network), config, learning_rate=config.learning_rate)
        neighbors = None
    batches = pipeline.training_batches(
        examples.train, examples.preprocess, batch_size=config.batch_size, steps_per_epoch=TIMED_STEPS + 1, epochs=1,
        seed=config.seed, augmented=config.augment, neighbors=neighbors)
    ends = []
    model.fit(batches, verbose=0, shuffle=False, callbacks=[keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.monotonic()))])
    return float(min(np.diff(ends)))  # from the end of the first, which traces


if __name__ == "__main__":
    sys.exit(main())
