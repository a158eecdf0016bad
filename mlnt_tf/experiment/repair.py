"""The repaired labels of a stage, by the predictions of its mentor."""

import numpy as np
from absl import logging

from mlnt_tf.data.targets import Targets
from mlnt_tf.files import artifacts
from mlnt_tf.labels import repair
from mlnt_tf.labels.filter import empty_classes, probability_of_labels, resolve_tau
from mlnt_tf.models import predict
from mlnt_tf.neighbors import find_neighbors

LABELS_FILE = "labels.npz"
SMALL_FRACTION = 1 / 3  # A warning is logged before training on a smaller part of the data.


def repaired_targets(stage, candidate, mentor):
    """Returns the `Targets` that --label_repair asks for, and the rule's result.

    The labels, the selection and the mentor's probability of each given label are stored in
    labels.npz, and the threshold of the filter in labels.json.

    Args:
      stage: the `Stage`.
      candidate: the `Candidate` that the mentor was loaded from.
      mentor: its network, on every device.

    Returns:
      (`Targets`, `Repaired`).

    Raises:
      UserError: no example is selected.
    """
    config, train = stage.config, stage.examples.train

    def compute(scratch):
        del scratch
        probabilities = predict.predict_probabilities(mentor, stage.run.training_images())
        repaired, report = _apply_rule(stage, mentor, probabilities)
        repaired = repair.keep_most_trusted(repaired, config.min_per_class,
                                            len(stage.examples.class_names))
        # Each worker has computed its own, and ScaNN's trees are not deterministic.
        labels, selected = stage.devices.broadcast(
            np.stack([repaired.labels, repaired.selected]).astype(np.int32))
        return {"id": train.ids, "given_label": train.labels, "label": labels,
                "selected": selected.astype(bool), "trust": repaired.trust,
                "probability_of_given": probability_of_labels(train.labels, probabilities),
                }, report

    table, report = artifacts.load_or_compute(stage.directory / LABELS_FILE, compute,
                                              inputs=candidate.digest)
    repaired = repair.Repaired(table["label"], table["selected"], table["trust"])
    flag = f"--label_repair={config.label_repair}"
    if config.label_repair == "filter":
        flag = f"--tau={config.tau}"
        if config.tau == "auto":
            logging.info("%s: --tau=auto separates the given labels at a probability of %.3f",
                         stage.name, report["tau"])
    return Targets(repaired.labels, selected=repaired.selected, selected_by=flag), repaired


def _apply_rule(stage, mentor, probabilities):
    """Returns (`Repaired`, dict of what the rule has estimated)."""
    config, given = stage.config, stage.examples.train.labels
    kind = config.label_repair
    if kind == "filter":
        tau = resolve_tau(config.tau, probability_of_labels(given, probabilities))
        return repair.by_filter(given, probabilities, tau=tau), {"tau": tau}
    if kind == "agree":
        return repair.by_agreement(given, probabilities), {}
    neighbors = find_cosine_neighbors(
        stage, mentor, repair.num_neighbors(kind, *probabilities.shape))
    rule = {"votes": repair.by_votes, "posterior": repair.by_posterior}[kind]
    return rule(given, probabilities, neighbors), {"num_neighbors": neighbors.shape[1]}


def find_cosine_neighbors(stage, network, num_neighbors):
    """Returns the nearest training examples by cosine of a network's features, int32 [n, k].

    They are the nearest by Euclidean distance between features of length 1.
    """
    config, train = stage.config, stage.examples.train
    path = stage.directory / "repair_features.npy"  # Only written if there are very many.
    features = predict.extract_features(network, stage.run.training_images(),
                                        config.neighbor_features, count=len(train), path=path)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths > 0, lengths, 1)
    path.unlink(missing_ok=True)
    return find_neighbors(unit, num_neighbors=num_neighbors,
                          backend=config.neighbor_backend).indices


def report_repair(stage, repaired):
    """Logs what is kept, changed and dropped, and warns of too small a part of the data.

    Args:
      stage: the `Stage`.
      repaired: `Repaired`, or None if every given label is used.

    Returns:
      dict of `repair_statistics`, for the stage's result.
    """
    examples, train = stage.examples, stage.examples.train
    if repaired is None:
        every = np.ones(len(train), bool)
        repaired = repair.Repaired(train.labels, every, every)
    statistics = repair.repair_statistics(repaired, train.labels, train.true_labels)
    warn_about_empty_classes(repaired.selected, repaired.labels, examples.class_names,
                             flag=f"--label_repair={stage.config.label_repair}")
    changed = accuracy = ""
    if statistics["changed"]:
        changed = f", {statistics['changed']} of them with another label"
    if examples.realized_rate is not None and statistics["filter_precision"] is not None:
        accuracy = (f"; {100 * statistics['filter_precision']:.1f} % of their labels are correct "
                    f"({100 * (1 - examples.realized_rate):.1f} % of all)")
    logging.info("%s: trains on %d of %d examples%s%s", stage.name, statistics["kept"], len(train),
                 changed, accuracy)
    if statistics["kept"] < SMALL_FRACTION * len(train):
        logging.warning("%s trains on less than a third of the data. Lower --tau, raise "
                        "--min_per_class, or use another --label_repair.", stage.name)
    return statistics


def warn_about_empty_classes(selected, labels, class_names, *, flag):
    """Logs a warning that names every class of which no example is selected.

    Args:
      selected: bool [n], the selected examples.
      labels: int32 [n], their labels.
      class_names: list of str.
      flag: str, the flag that decides the selection, with its value.
    """
    empty = empty_classes(selected, labels, len(class_names))
    if not len(empty):
        return
    available = np.bincount(labels, minlength=len(class_names))
    remaining = np.bincount(labels[selected], minlength=len(class_names))
    names = ", ".join(f"{class_names[label]} (0 of {available[label]})" for label in empty)
    logging.warning("%s leaves no example of %s. Examples per class: %s. Set --min_per_class to "
                    "keep the most trusted ones, or lower --tau.", flag, names, remaining.tolist())
