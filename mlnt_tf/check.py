"""python -m mlnt_tf.check --flagfile=FILE …: checks a training before it starts.

The report lists the data, the machine, the memory that the data need and the time that the training
will take.
"""

import collections
import csv
import dataclasses
import itertools
import os
import pathlib
import sys
import time

import numpy as np

from mlnt_tf import cli
from mlnt_tf.config import CHECK_SECTIONS, config_class, flags
from mlnt_tf.hardware.host import available_memory
from mlnt_tf.labels.noise_rate import CLEAN_FLAGGED
from mlnt_tf.report import next_steps

USAGE = flags.Usage(
    "check", "Checks the data, the machine and the flags of a training before it starts.",
    ("--dataset=folder --data_dir=~/photos --image_size=64",
     "--dataset=csv --data_dir=labels.csv --image_size=64", "--flagfile=runs/digits/flags.txt",
     "--label_issues --dataset=folder --data_dir=~/photos"))
MAX_ISSUES = 10  # printed label issues
MAX_DUPLICATES = 5  # printed groups of each kind of duplicate
MAX_GROUP = 4  # printed records of one group
GIB = 2**30


def main(argv=None):
    """Takes the flags of a training. Returns 0 if it could start, 2 if it would be refused."""
    cli.set_up_logging()
    return cli.run_command(check, argv)


def check(argv):
    """Prints every check that can run, then raises UserError for the first blocking problem."""
    config = flags.parse(argv, settings=config_class(CHECK_SECTIONS), usage=USAGE)
    if config.label_issues:
        write_label_issues(config)
        return
    from mlnt_tf import runner
    from mlnt_tf.files import lock
    from mlnt_tf.hardware import precision
    from mlnt_tf.training import checkpoints

    plan, adopted, resolved = runner.plan_run(config)
    runner.warn_of_unused_flags(config, adopted)
    config = resolved
    precision.log_choices(adopted, plan)
    lock.refuse_if_held(config.output_dir)
    for directory in sorted(pathlib.Path(config.output_dir).glob("*/checkpoints")):
        checkpoints.check_format(directory)
    if not plan.uses_gpu:
        hide_gpus()
    with precision.prepared(config):
        report(config)


def write_label_issues(config):
    """Scores every given label with pretrained features, and writes label_issues.csv.

    Raises:
      UserError: the data cannot be read or judged, or --output_dir cannot be used.
    """
    from mlnt_tf.data.sources import load_source
    from mlnt_tf.experiment import issue_files, label_issues, record
    from mlnt_tf.files import atomic
    from mlnt_tf.review.page import write_review_page

    if "output_dir" not in config.explicit:
        config = dataclasses.replace(config, output_dir=f"{config.output_dir}_label_issues")
    if not config.image_size:
        config = dataclasses.replace(config, image_size=label_issues.IMAGE_SIZE,
                                     keep_aspect_ratio="keep_aspect_ratio" not in config.explicit
                                     or config.keep_aspect_ratio)
    began = time.monotonic()
    with issue_files.open_directory(config) as directory:
        source = load_source(dataclasses.replace(config, max_bad_images=1.0))
        judged = label_issues.find_issues(source, config)
        column, _ = label_issues.apply_verdicts(judged, config)
        summary = issue_files.write_issues(directory, judged, source, column)
        write_review_page(directory, judged.splits, source.class_names)
        # Written last: `review` and `relabel` take a directory with flags.txt for a complete one.
        atomic.write_text(directory / record.FLAGS_FILE, flags.flag_file(config))
    print_issues(directory, summary, time.monotonic() - began)
    if source.bad_images:
        print(f"{len(source.bad_images)} images cannot be decoded and were left out. See "
              f"{directory / 'bad_images.csv'}.")


def print_issues(directory, summary, seconds):
    """Prints how many labels are worth a look, and the most suspicious ones.

    Args:
      directory: pathlib.Path of label_issues.csv.
      summary: dict, see `issue_files.write_issues`.
      seconds: float.
    """
    counts, detection = summary["label_issues"], summary["detection"]
    flagged, images = counts["flagged"], counts["images"]
    print(f"{flagged} of {images} labels ({flagged / images:.1%}) are worth a look "
          f"({seconds:.0f} s). Of data without wrong labels, {CLEAN_FLAGGED} are flagged too.")
    if detection:
        hits = round((detection["recall"] or 0) * detection["wrong"])
        print(f"true labels are known: {detection['wrong']} of {detection['examples']} labels are "
              f"wrong, and {hits} of them are among the flagged ones")
    with open(directory / "label_issues.csv", newline="", encoding="utf-8") as file:
        rows = list(itertools.islice(csv.DictReader(file), MAX_ISSUES))
    width = max(len(row["record"]) for row in rows)
    for row in rows:
        print(f"  {row['record']:{width}}  {row['given_class']} -> {row['suggested_class']}  "
              f"score {float(row['label_score']):.3f}  {row['split']}")
    print(next_steps(directory))


def hide_gpus():
    """Makes the timed steps run on the CPU, as the steps of the training would."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")


def report(config):
    """Prints the checks of a resolved Config. Raises UserError for the first blocking problem."""
    from mlnt_tf import methods, runner
    from mlnt_tf.data.images import scan
    from mlnt_tf.data.load import build_examples
    from mlnt_tf.data.sources import load_source
    from mlnt_tf.experiment import data_record

    method = methods.find(config)
    # Bad images are refused below, after all of them have been listed.
    source = load_source(dataclasses.replace(config, max_bad_images=1.0))
    named = {"train": source.train, "validation": source.validation, "test": source.test}
    splits = {name: split for name, split in named.items() if split is not None}
    print_splits(config, source, splits)
    print_sizes(source)
    print_classes(source.class_names, splits)
    for path, reason in source.bad_images:
        print(f"cannot be decoded: {path}: {reason}")
    print_duplicates(splits)
    print_machine(config)
    total = sum(map(len, splits.values())) + len(source.bad_images)
    scan.check_bad_images(source.bad_images, total, config.max_bad_images,
                                lists="all are listed above")
    examples = build_examples(source, config)
    data_record.check_data(config, examples)
    runner.check_network(config, examples, method)
    print_memory(examples, config)
    print_time(examples, config, method)


def print_splits(config, source, splits):
    """Prints the number of classes and the number of examples in each split."""
    counts = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
    held_out = ""
    if source.validation is None:
        held_out = f" ({config.validation_fraction:g} of train is held out for validation)"
    print(f"{config.dataset}: {len(source.class_names)} classes; {counts}{held_out}")


def print_sizes(source):
    """Prints the size of the images before the crop and, if known, the sizes in their files."""
    height, width, channels = source.train.images.shape
    text = (f"images: {height} x {width} x {channels} (height x width x channels) before the "
            "crop")
    if source.sizes is not None and len(source.sizes):
        low, middle, high = np.percentile(source.sizes, [0, 50, 100], axis=0).astype(int)
        text += (f"; in their files: height {low[0]} to {high[0]} (median {middle[0]}), width "
                 f"{low[1]} to {high[1]} (median {middle[1]})")
    print(text)


def print_classes(class_names, splits):
    """Prints a table of label counts per class and split, and the classes that a split lacks."""
    counts = {name: np.bincount(split.labels, minlength=len(class_names))
              for name, split in splits.items()}
    width = max(map(len, class_names))
    print(f"  {'':{width}}" + "".join(f"{name:>12}" for name in counts))
    for label, name in enumerate(class_names):
        print(f"  {name:{width}}" + "".join(f"{count[label]:>12}" for count in counts.values()))
    for split, count in counts.items():
        missing = [class_names[label] for label in np.flatnonzero(count == 0)]
        if missing:
            print(f"{split} lacks {len(missing)} of the classes: {', '.join(missing)}")


def print_duplicates(splits):
    """Prints images with equal content in two splits, or in train with different labels."""
    digests = {}
    for name, split in splits.items():
        digests[name] = split.images.digests() if split.digests is None else split.digests
    names = list(splits)
    for index, first in enumerate(names):
        rows_of_first = {digest: row for row, digest in enumerate(digests[first].tolist())}
        for second in names[index + 1:]:
            pairs = [(splits[first].records[rows_of_first[digest]], splits[second].records[row])
                     for row, digest in enumerate(digests[second].tolist())
                     if digest in rows_of_first]
            print_groups(f"images of {second} are also in {first}", pairs)
    train, rows = splits["train"], collections.defaultdict(list)
    for row, digest in enumerate(digests["train"].tolist()):
        rows[digest].append(row)
    conflicts = [[train.records[row] for row in group] for group in rows.values()
                 if len(set(train.labels[group].tolist())) > 1]
    print_groups("groups of equal images in train have different labels", conflicts)


def print_groups(description, groups):
    """Prints the number of groups of records and the first few of them."""
    from mlnt_tf.data.splits import record_text

    if not groups:
        return
    print(f"duplicates: {len(groups)} {description}")
    for group in groups[:MAX_DUPLICATES]:
        print("  " + " = ".join(map(record_text, group[:MAX_GROUP])))


def print_machine(config):
    """Prints versions, devices and the backend of the neighbor search."""
    import tensorflow as tf

    from mlnt_tf.hardware import host
    from mlnt_tf.neighbors import scann

    print(", ".join(f"{name} {version or 'absent'}"
                    for name, version in host.versions().items()))
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    gpus = f"{num_gpus or 'no'} GPU{'s' if num_gpus > 1 else ''}"
    search = "exact search, because ScaNN is switched off or cannot be loaded with this TensorFlow"
    if scann.usable_scann(config.neighbor_backend) is not None:
        search = "ScaNN"
    print(f"devices: {gpus}, {len(os.sched_getaffinity(0))} cores; neighbor search: {search}")


def print_memory(examples, config):
    """Prints the memory that the data need. That of the steps is measured by `print_time`."""
    from mlnt_tf.models.submodels import feature_extractor

    extractor = feature_extractor(examples.new_network(config), config.neighbor_features)
    features, count = extractor.output_shape[-1], len(examples.train)
    needed = {
        "decoded pixels": sum(split.images.nbytes for split in
                              (examples.train, examples.validation, examples.test)),
        "tables by id": count * (8 + 4 + 4 + 4 + 4 * config.num_neighbors),
        f"features ({features} each)": 4 * features * count}
    text = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in needed.items())
    available = available_memory()
    if available:
        text += f"; {available / GIB:.1f} GiB are available"
    print(f"memory for data: {text}")
    if available and sum(needed.values()) > available:
        print("  The data need more than is available. Lower --image_size or --train_examples.")


def print_time(examples, config, method):
    """Prints the number of steps of the complete run and, from a few real steps, their duration."""
    from mlnt_tf.benchmark import duration
    from mlnt_tf.hardware import host

    if config.freeze == "body" or config.initial_head == "probe":
        seconds = duration.time_features(examples, config)
        print(f"features of all images: about {seconds:.0f} s, computed once")
    if config.freeze == "body":
        print("heads on these features: a few seconds each")
        return
    steps = duration.planned_steps(config, examples, method)
    seconds = {kind: duration.time_step(kind, examples, config) for kind in steps}
    for kind, count in steps.items():
        print(f"{kind}: {count} steps of {config.batch_size} examples, {seconds[kind]:.3f} s each "
              f"(the fastest of {duration.TIMED_STEPS} real steps)")
    total = sum(seconds[kind] * count for kind, count in steps.items())
    print(f"total: {sum(steps.values())} steps, about {total / 3600:.1f} hours ({total / 60:.0f} "
          "minutes), without validation, mentor and neighbor search; peak memory of these steps: "
          f"{host.peak_memory_mb() / 1024:.1f} GiB")


if __name__ == "__main__":
    sys.exit(main())
