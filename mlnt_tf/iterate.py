"""The run, whatever its method: tables of the labels before, the exported network and the results after."""

import keras
import numpy as np

from mlnt_tf import export, files, mentor as mentoring, methods, runtime
from mlnt_tf.stage import Run


def run(config, *, jit_compile, devices, examples, output_dir, versions):
    """Trains by the method; a stage that an earlier call has finished is taken from its directory.

    Returns:
      the contents of results.json, which it writes last.
    """
    write_noise_table(output_dir / "noise.csv", examples)
    if examples.bad_images:
        files.write_csv(output_dir / "bad_images.csv", ("record", "reason"), examples.bad_images)
    work = Run(config, examples, jit_compile, devices, output_dir)
    stage, role, report = methods.find(config).train(work)
    export.export_saved_model(stage.undistributed(role), output_dir / "saved_model", preprocess=examples.preprocess,
                              class_names=examples.class_names)
    probabilities = mentoring.predict(stage.network(role), work.training_examples())
    write_suspects(output_dir / "suspects.csv", probabilities, examples)
    results = {
        "method": config.method, "dataset": config.dataset, "seed": config.seed,
        "class_names": list(examples.class_names), "precision": keras.config.dtype_policy().name,
        "noise": {"kind": config.noise, "rate": config.noise_rate if config.noise_source.has_rate else None,
                  "realized_rate": examples.realized_rate},
        "train_examples": len(examples.train), **summary(work.stages, stage, role), **report,
        "exported_filter": mentoring.count_filter(
            mentoring.trusted(mentoring.probability_of(examples.train.labels, probabilities), config.tau),
            examples.train.labels, examples.train.true_labels),
        "peak_memory_mb": max([runtime.peak_memory_mb(), *(
            stage.results().get("peak_memory_mb", 0) for stage in work.stages)]),  # an earlier version kept none
        "versions": versions}
    files.write_json(output_dir / "results.json", results)
    return results


def check_network(config, examples):
    """Builds the network once and lets the method look at it, so that what is wrong is told before any training.

    Raises:
      UserError: the network cannot be built, or not be trained as the flags ask.
    """
    method = methods.find(config)
    network = examples.new_network(config)
    if method.check:
        method.check(config, examples, network)


def summary(stages, exported, role):
    """What results.json says of every method alike: the stages, and what is exported of which."""
    results = [stage.results() for stage in stages]
    best, last = exported.results()[role], results[-1][role]
    named = dict(zip((stage.name for stage in stages), results))
    baseline = named.get("cross entropy")
    return {
        "stages": [{"name": name, **result} for name, result in named.items()],
        **({"cross_entropy": baseline["student"], "cross_entropy_ema": baseline["teacher"]} if baseline else {}),
        "iterations": [result for result in results if "iteration" in result],
        "exported": f"{exported.name} {role}", "best": best, "last": last, "best_accuracy": best["test_at_best"],
        "last_accuracy": last["test_last"], "test_accuracy": best["test_at_best"],
        "curve": {"validation": exported.results()["validation"][role]},
        "seconds": sum(result["seconds"] for result in results)}


def write_noise_table(path, examples):
    """noise.csv: which label each training example was given, and the record it is."""
    train = examples.train
    original = ("" if true < 0 else true for true in train.true_labels)
    files.write_csv(path, ("id", "original", "given", "record"),
                    zip(train.ids, original, train.labels, train.record_names()))


def write_suspects(path, probabilities, examples):
    """suspects.csv: the training examples, those whose given label the exported network believes least first."""
    train, given, names = examples.train, examples.train.labels, examples.class_names
    records = train.record_names()
    of_given, predicted = mentoring.probability_of(train.labels, probabilities), probabilities.argmax(axis=1)
    files.write_csv(path, ("id", "record", "given", "predicted", "probability_of_given"),
                    ((train.ids[row], records[row], names[given[row]], names[predicted[row]],
                      f"{of_given[row]:.6f}") for row in np.argsort(of_given, kind="stable")))
