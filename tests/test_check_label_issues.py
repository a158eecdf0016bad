"""`check --label_issues`: wrong labels of a folder, without training a network."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mlnt_tf import check
from mlnt_tf.models import pretrained

from pictures import tree

COUNT = 120
CLASSES = ("bird", "cat", "dog")
DIGITS = load_digits(n_class=3)
WRONG_ROWS = (7, 8, 33, 100)
WRONG = {f"{CLASSES[(DIGITS.target[row] + 1) % 3]}/{row}.png" for row in WRONG_ROWS}


def png(image):
    """Encodes a grayscale image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.kron(image, np.ones([4, 4])).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 images of three digits in three class directories, four of them in the wrong one."""
    files = {}
    for row in range(COUNT):
        label = (DIGITS.target[row] + (row in WRONG_ROWS)) % 3
        files[f"{CLASSES[label]}/{row}.png"] = png(DIGITS.images[row] * 16)
    return tree(tmp_path_factory.mktemp("folder"), files)


def run(folder, output_dir, *flags):
    return check.main(["check", "--label_issues", "--dataset=folder", f"--data_dir={folder}",
                       f"--output_dir={output_dir}", *flags])


def rows_of(output_dir):
    with open(output_dir / "label_issues.csv", newline="") as file:
        return list(csv.DictReader(file))


def separable_features(folder, output_dir):
    """Writes features that separate the true classes, in the order of the training split."""
    assert run(folder, output_dir / "first", "--image_size=32") == 0
    with open(output_dir / "first/records.csv", newline="") as file:
        records = [row["record"] for row in csv.DictReader(file) if row["split"] == "train"]
    numbers = [int(record.rpartition("/")[2].removesuffix(".png")) for record in records]
    draws = np.random.default_rng(0).normal(size=[len(records), 40])
    draws[:, :3] += 8 * np.eye(3)[DIGITS.target[numbers]]
    np.save(output_dir / "features.npy", draws.astype(np.float32))
    return records, output_dir / "features.npy"


@pytest.fixture(scope="module")
def judged(folder, tmp_path_factory):
    """(output directory, rows) of a run with pretrained features."""
    try:
        pretrained.verified_file(pretrained.RECORDS["efficientnet_lite0"])
    except ValueError as error:
        pytest.skip(str(error))
    output_dir = tmp_path_factory.mktemp("issues") / "out"
    assert run(folder, output_dir, "--image_size=32") == 0
    return output_dir, rows_of(output_dir)


def test_every_image_is_judged_once_with_a_unique_id(judged):
    _, rows = judged
    assert len(rows) == COUNT and len({row["id"] for row in rows}) == COUNT
    assert {row["split"] for row in rows} == {"train", "test"}
    assert all(row["given_class"] == row["record"].partition("/")[0] for row in rows)


def test_most_suspicious_labels_come_first(judged):
    _, rows = judged
    scores = [float(row["label_score"]) for row in rows]
    assert scores == sorted(scores) and 0 <= scores[0] and scores[-1] <= 1
    flagged = [row["is_label_issue"] == "True" for row in rows if row["split"] == "train"]
    assert flagged == sorted(flagged, reverse=True)


def test_planted_errors_are_more_suspicious_than_other_labels(judged):
    """Digits at 32 px are far from ImageNet, so the ranking is only compared with chance."""
    _, rows = judged
    ranks = [rank for rank, row in enumerate(rows) if row["record"] in WRONG]
    assert np.mean(ranks) < COUNT / 4


def test_arrays_are_in_the_order_of_the_records(judged):
    output_dir, rows = judged
    with open(output_dir / "records.csv", newline="") as file:
        records = list(csv.DictReader(file))
    probabilities = np.load(output_dir / "pred_probs.npy")
    assert probabilities.shape == (COUNT, 3)
    assert np.load(output_dir / "features.npy").shape == (COUNT, 1280)
    predicted = {row["id"]: int(row["predicted_label"]) for row in rows}
    assert [predicted[record["id"]] for record in records] == probabilities.argmax(axis=1).tolist()


def test_features_of_ones_own_rank_the_planted_errors_first(folder, tmp_path, capsys):
    records, path = separable_features(folder, tmp_path)
    assert run(folder, tmp_path / "own", "--image_size=32", f"--features={path}") == 0
    planted = WRONG & set(records)
    first = rows_of(tmp_path / "own")[:len(planted)]
    assert {row["record"] for row in first} == planted
    for row in first:
        number = int(row["record"].rpartition("/")[2].removesuffix(".png"))
        assert row["suggested_class"] == CLASSES[DIGITS.target[number]]
    assert "are worth a look" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    (["--features={missing}"], "cannot be read"), (["--features={short}"], "has shape (3, 4)"),
    (["--pred_probs={short}"], "has shape (3, 4), but the training split has"),
    (["--data_dir=/nowhere"], "--data_dir=/nowhere is not a directory"),
    (["--output_dir={other}"], "holds other files, such as thesis.tex")])
def test_mistakes_give_one_line(folder, tmp_path, capsys, flags, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")
    np.save(tmp_path / "short.npy", np.zeros([3, 4], np.float32))
    places = {"missing": tmp_path / "none.npy", "short": tmp_path / "short.npy",
              "other": tmp_path / "other"}
    flags = [flag.format(**places) for flag in flags]
    assert run(folder, tmp_path / "run", "--image_size=32", *flags) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("extra", [[], ["--pred_probs={probabilities}"]])
def test_directory_serves_review_and_relabel(folder, tmp_path, extra):
    records, path = separable_features(folder, tmp_path)
    probabilities = np.full([len(records), 3], .1)
    numbers = [int(record.rpartition("/")[2].removesuffix(".png")) for record in records]
    probabilities[np.arange(len(records)), DIGITS.target[numbers]] = .8
    np.save(tmp_path / "p.npy", probabilities)
    extra = [flag.format(probabilities=tmp_path / "p.npy") for flag in extra]
    out = tmp_path / "own"
    assert run(folder, out, "--image_size=32", f"--features={path}", *extra) == 0
    flags = (out / "flags.txt").read_text()
    assert f"--data_dir={folder}" in flags and "--label_issues=true" in flags
    noise = json.loads((out / "label_noise.json").read_text())
    assert noise["class_names"] == list(CLASSES) and "worth a look" in noise["caveat"]
    if extra:
        np.testing.assert_allclose(np.load(out / "pred_probs.npy"), probabilities, atol=1e-6)
        assert {row["record"] for row in rows_of(out)[:3]} <= WRONG


def test_equal_images_with_two_labels_are_listed(tmp_path):
    images = {f"train/{CLASSES[row % 2]}/{row}.png": png(DIGITS.images[row] * 16)
              for row in range(36)}
    images["train/bird/copy.png"] = images["train/cat/3.png"]
    for name in CLASSES[:2]:
        images[f"test/{name}/0.png"] = png(DIGITS.images[50] * 16 + (name == "cat"))
    folder = tree(tmp_path / "images", images)
    features = tmp_path / "features.npy"
    np.save(features, np.random.default_rng(0).normal(size=[37, 8]))
    assert run(folder, tmp_path / "out", "--image_size=32", f"--features={features}") == 0
    with open(tmp_path / "out/duplicates.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert {row["record"], row["other_record"]} == {"train/cat/3.png", "train/bird/copy.png"}
    assert row["kind"] == "two labels"


@pytest.mark.parametrize("flag", ["features", "pred_probs"])
def test_arrays_without_label_issues_are_refused(capsys, flag):
    assert check.main(["check", f"--{flag}=x.npy"]) == 2
    assert "Add --label_issues" in capsys.readouterr().err
