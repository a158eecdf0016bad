"""Tables and summary of a run: noise.csv, bad_images.csv, label issues and results.json."""

import keras
import numpy as np
from absl import logging

from mlnt_tf.config import WITHOUT_EFFECT, UserError
from mlnt_tf.experiment import (
    corrected_table,
    issue_files,
    issue_panels,
    label_issues,
    record,
)
from mlnt_tf.files import atomic
from mlnt_tf.hardware import host
from mlnt_tf.labels.filter import (
    filter_statistics,
    probability_of_labels,
    resolve_tau,
    select_trusted,
)
from mlnt_tf.review.page import write_review_page


def write_data_tables(run):
    """Writes noise.csv and, if images cannot be decoded, bad_images.csv. Logs corrected labels."""
    examples = run.examples
    log_corrections(run)
    write_noise_table(run.path / "noise.csv", examples)
    if examples.bad_images:
        atomic.write_csv(run.path / "bad_images.csv", ("record", "reason"), examples.bad_images)


def log_corrections(run):
    """Logs what `relabel` has changed in the table that a run reads."""
    verdicts = corrected_table.read_verdicts(run.config)
    records = [record for split in run.images.given.values() for record in split.record_names()]
    counts = corrected_table.count_verdicts(verdicts, records)
    if counts:
        logging.info(
            "%s: %d labels have been reviewed (%d corrected, %d confirmed, %d undecided), and %d "
            "were replaced by suggestions. Reviewed labels count as true ones.",
            run.config.data_dir, *[counts[name] for name in (
                "reviewed", "corrected", "kept", "undecided", "auto")])


def judge_and_summarize(run, exported):
    """Writes the label issues, and returns the contents of results.json.

    Args:
      run: the `Run`, with all stages finished.
      exported: the `Candidate` that is exported.

    Returns:
      dict.
    """
    config, examples = run.config, run.examples
    train = examples.train
    judged, probabilities = label_issues.judge_run(run, exported.load())
    probability = probability_of_labels(train.labels, probabilities[:len(train)])
    tau = resolve_tau(config.tau, probability)
    issues = {"label_issues": None, "detection": None, "label_noise": None, "corrections": None}
    if judged is not None:
        verdict_column, issues["corrections"] = label_issues.apply_verdicts(judged, config)
        extra = issue_columns(judged, probabilities, tau) | verdict_column
        issues |= issue_files.write_issues(run.path, judged, examples, extra)
        issue_panels.write_panels(run.path, judged, examples.class_names)
        write_page(run)
    trusted = select_trusted(probability, tau)
    # Stages of an earlier version have no peak_memory_mb.
    peaks = [stage.result.get("peak_memory_mb", 0) for stage in run.stages]
    return {
        "method": config.method,
        "dataset": config.dataset,
        "seed": config.seed,
        "class_names": list(examples.class_names),
        "precision": keras.config.dtype_policy().name,
        "explicit_flags": [name for name in record.explicit_flags(config)
                           if name not in WITHOUT_EFFECT],
        "noise": {"kind": config.noise,
                  "rate": config.noise_rate if config.noise_source.has_rate else None,
                  "realized_rate": examples.realized_rate},
        "train_examples": len(train),
        "labels": run.images.label_kinds,
        **summarize_stages(run.stages, exported),
        **run.report,
        "exported_filter": filter_statistics(trusted, train.labels, train.true_labels),
        **issues,
        "peak_memory_mb": max(host.peak_memory_mb(), *peaks),
        "versions": host.versions()}


def write_page(run):
    """Writes review.html. A page that cannot be written is a warning, since the run has finished.
    """
    try:
        write_review_page(run.path, run.images.given, run.examples.class_names)
    except UserError as error:
        logging.warning("review.html is not written: %s", error)


def summarize_stages(stages, exported):
    """Returns the stages' results and the exported network's accuracies, for results.json.

    Args:
      stages: list of finished `Stage`s.
      exported: the `Candidate` that is exported.

    Returns:
      dict. Accuracies are fractions.
    """
    results = {}
    for stage in stages:
        results[stage.name] = {key: value for key, value in stage.result.items()
                               if key != "networks"}
    exported_result = exported.stage.result
    best = exported_result[exported.network]
    # The last stage may lack a network of this name if the exported one is from an earlier stage.
    last = stages[-1].result.get(exported.network, best)
    baselines = {}
    if "cross entropy" in results:
        baselines["cross_entropy"] = results["cross entropy"].get("student")
        baselines["cross_entropy_ema"] = results["cross entropy"].get("teacher")
    return {
        "stages": [{"name": name, **result} for name, result in results.items()],
        **baselines,
        "iterations": [result for result in results.values() if "iteration" in result],
        "exported": f"{exported.stage.name} {exported.network}",
        "best": best,
        "last": last,
        "best_accuracy": best["test_at_best"],
        "last_accuracy": last["test_last"],
        "test_accuracy": best["test_at_best"],
        "curve": {"validation": exported_result["validation"][exported.network]},
        "seconds": sum(result["seconds"] for result in results.values())}


def write_noise_table(path, examples):
    """Writes noise.csv: the true and the given label of each training example.

    Labels are class numbers in the columns `*_label` and class names in `*_class`. Unknown true
    labels are empty. The table joins label_issues.csv on `id`.

    Args:
      path: pathlib.Path of the file.
      examples: `Examples`.
    """
    train, names = examples.train, examples.class_names
    records = train.record_names()
    rows = []
    for row, (true, given) in enumerate(zip(train.true_labels, train.labels)):
        true_label, true_class = ("", "") if true < 0 else (true, names[true])
        rows.append((train.ids[row], records[row], true_label, true_class, given, names[given]))
    header = ("id", "record", "true_label", "true_class", "given_label", "given_class")
    atomic.write_csv(path, header, rows)


def issue_columns(judged, probabilities, tau):
    """Returns the columns of label_issues.csv that depend on the exported network.

    Args:
      judged: `Judged`.
      probabilities: float32 [n, classes], predictions of the exported network.
      tau: float, the threshold of the filter.

    Returns:
      dict of "probability_of_given", float [n], and "filter_kept": whether the filter of
      section 3.3 would keep the training image, empty for other splits.
    """
    probability_of_given = probability_of_labels(judged.columns["given_label"], probabilities)
    kept = select_trusted(probability_of_given, tau)
    is_train = judged.split_names == "train"
    return {"probability_of_given": probability_of_given,
            "filter_kept": np.where(is_train, kept.astype(str), "")}
