"""Tables and summary of a run: noise.csv, bad_images.csv, suspects.csv and results.json."""

import keras
import numpy as np

from mlnt_tf.config import WITHOUT_EFFECT
from mlnt_tf.files import atomic
from mlnt_tf.hardware import host
from mlnt_tf.labels import filter as filtering
from mlnt_tf.models import predict


def write_data_tables(run):
    """Writes noise.csv and bad_images.csv, which are known before training."""
    examples = run.examples
    write_noise_table(run.path / "noise.csv", examples)
    if examples.bad_images:
        atomic.write_csv(run.path / "bad_images.csv", ("record", "reason"), examples.bad_images)


def write_suspects_and_summarize(run, exported):
    """Writes suspects.csv, and returns the contents of results.json.

    Args:
      run: the `Run`, all of its stages finished.
      exported: the `Candidate` that is exported.
    """
    config, examples = run.config, run.examples
    train = examples.train
    probabilities = predict.predict_probabilities(exported.stage.network(exported.network), run.training_images())
    write_suspects(run.path / "suspects.csv", probabilities, examples)
    trusted = filtering.keep_trusted(filtering.probability_of_labels(train.labels, probabilities), config.tau)
    peaks = [stage.result.get("peak_memory_mb", 0) for stage in run.stages]  # an earlier version recorded none
    return {
        "method": config.method, "dataset": config.dataset, "seed": config.seed,
        "class_names": list(examples.class_names), "precision": keras.config.dtype_policy().name,
        "explicit_flags": sorted(set(config.explicit or ()) - set(WITHOUT_EFFECT)),
        "noise": {"kind": config.noise, "rate": config.noise_rate if config.noise_source.has_rate else None,
                  "realized_rate": examples.realized_rate},
        "train_examples": len(train), **summary(run.stages, exported), **run.report,
        "exported_filter": filtering.filter_statistics(trusted, train.labels, train.true_labels),
        "peak_memory_mb": max(host.peak_memory_mb(), *peaks),
        "versions": host.versions()}


def summary(stages, exported):
    """Returns the part of results.json that every method has: the stages, and the accuracies of what is exported."""
    results = {stage.name: stage.result for stage in stages}
    best, last = exported.stage.result[exported.network], stages[-1].result[exported.network]
    baseline = results.get("cross entropy")
    baselines = {"cross_entropy": baseline["student"], "cross_entropy_ema": baseline["teacher"]} if baseline else {}
    return {
        "stages": [{"name": name, **result} for name, result in results.items()], **baselines,
        "iterations": [result for result in results.values() if "iteration" in result],
        "exported": f"{exported.stage.name} {exported.network}", "best": best, "last": last,
        "best_accuracy": best["test_at_best"], "last_accuracy": last["test_last"],
        "test_accuracy": best["test_at_best"],
        "curve": {"validation": exported.stage.result["validation"][exported.network]},
        "seconds": sum(result["seconds"] for result in results.values())}


def write_noise_table(path, examples):
    """Writes noise.csv: the true and the given label of each training example, empty where unknown.

    Labels are class numbers in the columns `*_label` and class names in `*_class`. It joins suspects.csv on `id`.
    """
    train, names = examples.train, examples.class_names
    records = train.record_names()
    rows = []
    for row, (true, given) in enumerate(zip(train.true_labels, train.labels)):
        true_label, true_class = ("", "") if true < 0 else (true, names[true])
        rows.append((train.ids[row], records[row], true_label, true_class, given, names[given]))
    atomic.write_csv(path, ("id", "record", "true_label", "true_class", "given_label", "given_class"), rows)


def write_suspects(path, probabilities, examples):
    """Writes suspects.csv: the training examples, least probable given label first.

    Args:
      path: of the file.
      probabilities: float32 [n, classes], predictions of the exported network on the training examples.
      examples: the `Examples`.
    """
    train, names = examples.train, examples.class_names
    records = train.record_names()
    probability_of_given = filtering.probability_of_labels(train.labels, probabilities)
    predicted = probabilities.argmax(axis=1)
    header = ("id", "record", "given_label", "given_class", "predicted_label", "predicted_class", "probability_of_given")
    rows = []
    for row in np.argsort(probability_of_given, kind="stable"):
        given, guess = train.labels[row], predicted[row]
        rows.append((train.ids[row], records[row], given, names[given], guess, names[guess],
                     f"{probability_of_given[row]:.6f}"))
    atomic.write_csv(path, header, rows)
