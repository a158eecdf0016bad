"""The review page: what it contains. tests/test_review_browser.py uses it like a person."""

import base64
import io
import json
import pathlib
import re

import numpy as np
import PIL.Image
import pytest
from judged_labels import colored_split, write_tables

from mlnt_tf.config import UserError
from mlnt_tf.data.images.storage import ArrayImages, FileImages, load_into_memory
from mlnt_tf.data.sources import load_source
from mlnt_tf.data.splits import Split
from mlnt_tf.experiment.label_issues import named_splits
from mlnt_tf.files.cells import protect_cell, restore_cell
from mlnt_tf.labels.issues import find_label_issues
from mlnt_tf.labels.noise_rate import CAVEAT, CLEAN_FLAGGED
from mlnt_tf.review import __main__ as command
from mlnt_tf.review import page, render, similar, thumbnails

from pictures import encode, picture

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def splits():
    return {"train": colored_split(30, 3), "test": colored_split(10, 3, start=30)}


def read_page(path):
    """Returns (content, images) of a page."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" id="\w+">(.*?)</script>', text)
    return tuple(map(json.loads, blocks))


def listed(content, key):
    """Returns the items of one of the page's lists."""
    lists = {entry["key"]: entry["items"] for entry in content["lists"]}
    return [content["items"][index] for index in lists[key]]


def decoded(uri):
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def write(directory, splits, class_names=CLASSES, **settings):
    return read_page(page.write_review_page(directory, splits, class_names, **settings))


def test_page_lists_the_most_suspicious_labels_first(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES)
    content, _ = write(tmp_path, splits, top=7)
    items = listed(content, "suspects")
    assert [item["id"] for item in items] == list(range(7))
    assert [item["given"] for item in items] == [0, 1, 2, 0, 1, 2, 0]
    assert [item["suggested"] for item in items] == [1, 2, 0, 1, 2, 0, 1]
    assert content["total"] == 40 and content["flagged"] == 15


def test_labels_that_are_worth_a_look_take_precedence(tmp_path, splits):
    """The share of flagged labels is estimated for each split, so their ranks have gaps."""
    write_tables(tmp_path, splits, CLASSES, flagged={1, 32, 35})
    content, _ = write(tmp_path, splits, top=4)
    items = listed(content, "suspects")
    assert [(item["id"], item["issue"]) for item in items] == [
        (0, False), (1, True), (32, True), (35, True)]
    content, _ = write(tmp_path, splits, top=2)
    assert [item["id"] for item in listed(content, "suspects")] == [1, 32]


def test_page_without_flagged_labels_lists_the_lowest_scores(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES, flagged=())
    content, _ = write(tmp_path, splits, top=3)
    assert [item["id"] for item in listed(content, "suspects")] == [0, 1, 2]


def test_only_flagged_labels_that_are_not_predicted_have_a_suggestion(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES, flagged={0, 1, 3}, agreeing={1, 2})
    content, _ = write(tmp_path, splits, top=4)
    assert [item["suggested"] for item in listed(content, "suspects")] == [1, None, None, 1]


def test_share_of_flagged_correct_labels_is_the_same_everywhere(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES)
    content, _ = write(tmp_path, splits)
    documents = pathlib.Path(page.__file__).with_name("README.md").read_text(), CAVEAT
    assert content["cleanFlagged"] == CLEAN_FLAGGED
    assert all(CLEAN_FLAGGED in text for text in (*documents, find_label_issues.__doc__))


def test_class_and_split_choose_the_images(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES, flagged=range(40))
    content, _ = write(tmp_path, splits, class_name="owl", split="test")
    items = listed(content, "suspects")
    assert {item["split"] for item in items} == {"test"}
    assert all(2 in (item["given"], item["suggested"]) for item in items)
    with pytest.raises(UserError, match="no image with --class=owl and --split=validation"):
        page.write_review_page(tmp_path, splits, CLASSES, class_name="owl", split="validation")


def test_images_that_were_judged_before_are_not_shown(tmp_path, splits):
    verdicts = ["keep"] * 5 + [""] * 35
    write_tables(tmp_path, splits, CLASSES, extra={"verdict": verdicts})
    content, _ = write(tmp_path, splits, top=2)
    assert [item["id"] for item in listed(content, "suspects")] == [5, 6]
    assert content["reviewed"] == 5


def test_verdict_of_the_filter_is_shown(tmp_path, splits):
    columns = {"filter_kept": ["True", "False"] * 20, "probability_of_given": ["0.125"] * 40}
    write_tables(tmp_path, splits, CLASSES, extra=columns)
    content, _ = write(tmp_path, splits)
    assert [item["filter_kept"] for item in content["items"][:2]] == [True, False]
    assert content["items"][0]["probability_of_given"] == 0.125


def test_audit_is_a_random_sample_that_only_the_seed_determines(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES)
    content, _ = write(tmp_path, splits, audit=12)
    first = [item["id"] for item in listed(content, "suspects")]
    assert content["sample"] == "audit" and (tmp_path / "audit.html").exists()
    assert len(set(first)) == 12 and first != sorted(first)
    larger, _ = write(tmp_path, splits, audit=20)
    assert [item["id"] for item in listed(larger, "suspects")][:12] == first
    other, _ = write(tmp_path, splits, audit=12, seed=1)
    assert [item["id"] for item in listed(other, "suspects")] != first


def test_splits_may_be_divided_differently_from_the_table(tmp_path, splits):
    """A run holds validation images out of the training images of the source."""
    write_tables(tmp_path, splits, CLASSES)
    content, images = write(tmp_path, splits, top=40)
    rows = np.arange(30)
    train = splits["train"]
    divided = {"test": splits["test"], "train": train.take(rows[1::2]),
               "validation": train.take(rows[::2])}
    again, other_images = write(tmp_path, divided, top=40)
    assert again["items"][3]["record"] == "photo 3.jpg"
    uris = [images[item["image"]] for item in content["items"]]
    assert [other_images[item["image"]] for item in again["items"]] == uris


def test_changed_data_are_refused(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES)
    with pytest.raises(UserError, match="lists 40 images, but the data now have 30"):
        page.write_review_page(tmp_path, {"train": splits["train"]}, CLASSES)
    renamed = colored_split(30, 3, records=[f"other {row}" for row in range(30)])
    with pytest.raises(UserError, match="has the record 'photo 0.jpg' where the data now have"):
        page.write_review_page(tmp_path, splits | {"train": renamed}, CLASSES)


@pytest.mark.parametrize("text, message", [
    ("id,record\n0,a\n", "needs whole numbers in the columns id and given_label"),
    ('id,given_label\n"0', "cannot be read"), ("", "lists 0 images")])
def test_damaged_records_are_reported(tmp_path, splits, text, message):
    write_tables(tmp_path, splits, CLASSES)
    (tmp_path / "records.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        page.write_review_page(tmp_path, splits, CLASSES)


def test_neighbors_are_the_nearest_by_cosine_of_standardized_features(monkeypatch):
    angles = np.deg2rad([0, 10, 25, 90, 180, 270])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    order = np.argsort(-(expected @ expected.T), axis=1)[:, 1:4]
    scaled = features * [3, 50] + [100, -7]  # Standardization takes scale and offset away.
    for block in (2, 100):
        monkeypatch.setattr(similar, "BLOCK_ROWS", block)
        monkeypatch.setattr(similar, "ROWS_AT_ONCE", block)
        neighbors, distances = similar.nearest_rows(scaled, range(6), 3)
        np.testing.assert_array_equal(neighbors, order)
        np.testing.assert_allclose(distances[0, 0], 1 - expected[0] @ expected[order[0, 0]],
                                   atol=1e-6)


def test_near_duplicates_are_grouped_through_others():
    neighbors = np.array([[1], [2], [1], [4], [3], [0]])
    distances = np.array([[.01], [.02], [.02], [.5], [.5], [.9]])
    assert similar.near_duplicates(np.arange(6), neighbors, distances, 0.1) == [[0, 1, 2]]


def test_equal_images_with_two_labels_are_listed_together(tmp_path, splits):
    train = splits["train"]
    train.images.array[7] = train.images.array[5] = train.images.array[3]
    write_tables(tmp_path, splits, CLASSES)
    content, _ = write(tmp_path, splits, top=1)
    assert [item["id"] for item in listed(content, "duplicates")] == [3, 5, 7]
    lists = {entry["key"]: entry for entry in content["lists"]}
    assert lists["duplicates"]["groups"] == [1, 1, 1]


def test_near_duplicates_with_different_labels_come_first(tmp_path, splits):
    features = np.random.default_rng(1).normal(size=[40, 64]).astype(np.float32)
    features[20] = features[23] + 0.01  # Ids 20 and 23 have the same label, 10 and 12 have not.
    features[10] = features[12] + 0.01
    write_tables(tmp_path, splits, CLASSES, features=features)
    content, _ = write(tmp_path, splits)
    assert [item["id"] for item in listed(content, "near")] == [10, 12, 20, 23]


def test_outliers_and_undecodable_images_are_listed(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES)
    (tmp_path / "bad_images.csv").write_text("record,reason\nbroken.jpg,no pixels\n")
    content, _ = write(tmp_path, splits, top=1)
    assert [item["id"] for item in listed(content, "outliers")] == list(range(40))
    assert content["bad"] == [["broken.jpg", "no pixels"]]


def test_page_without_features_has_no_neighbors(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES)
    (tmp_path / "features.npy").unlink()
    content, _ = write(tmp_path, splits)
    assert "neighbors" not in content["items"][0]


def test_every_image_is_stored_once(tmp_path, splits):
    write_tables(tmp_path, splits, CLASSES)
    content, images = write(tmp_path, splits, top=3)
    used = {item["image"] for item in content["items"]}
    used |= {neighbor[0] for item in content["items"] for neighbor in item["neighbors"]}
    assert used == set(range(len(images))) and len(set(images)) == len(images)


def test_page_stays_below_its_size(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(256, size=[40, 200, 150, 3], dtype=np.uint8)
    split = Split(ids=np.arange(40), labels=np.zeros(40, np.int32), images=ArrayImages(noise),
                  records=np.arange(40).astype(str))
    write_tables(tmp_path, {"train": split}, CLASSES)
    monkeypatch.setattr(page, "PAGE_BYTES", 180_000)
    path = page.write_review_page(tmp_path, {"train": split}, CLASSES)
    assert path.stat().st_size < 180_000


@pytest.mark.parametrize("shape", [(300, 200, 3), (200, 300, 1), (100, 100, 4), (90, 30, 2)])
def test_thumbnails_keep_the_aspect_ratio(shape):
    pixels = np.full(shape, 90, np.uint8)
    image = decoded(thumbnails.data_uri(pixels, side=60, limit=5000))
    assert max(image.size) == 60
    assert image.width / image.height == pytest.approx(shape[1] / shape[0], rel=0.05)


def test_small_images_are_stored_without_loss():
    pixels = np.random.default_rng(0).integers(256, size=[8, 8, 3], dtype=np.uint8)
    image = decoded(thumbnails.data_uri(pixels, side=320, limit=5000))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels)


def test_thumbnails_show_the_files_at_their_own_shape(tmp_path):
    """Training squeezes images to one size. The page shows them as they are."""
    wide = picture((120, 60))
    sixteen_bit = PIL.Image.fromarray(np.full([40, 80], 40_000, np.uint16))
    files = {"a.png": encode(wide), "b.gif": encode(wide, "GIF"), "c.webp": encode(wide, "WEBP"),
             "d.png": encode(wide.convert("L")), "e.png": encode(sixteen_bit)}
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    images = load_into_memory(FileImages([name.encode() for name in files], root=str(tmp_path),
                                         size=(16, 16)))
    split = Split(ids=np.arange(5), labels=np.zeros(5, np.int32), images=images,
                  records=np.array(list(files)))
    sides, limits = dict.fromkeys(range(1, 5), 100), dict.fromkeys(range(1, 5), 9000)
    encoded, is_small = thumbnails.encode_thumbnails({"train": split}, sides, limits)
    assert {decoded(uri).size for uri in encoded.values()} == {(100, 50), (80, 40)}
    assert not is_small
    (tmp_path / "c.webp").unlink()
    with pytest.raises(UserError, match="of the train split cannot be read any more"):
        thumbnails.encode_thumbnails({"train": split}, sides, limits)


def test_data_cannot_end_the_script():
    text = render.embedded_json({"</script><!--": "\u2028 &amp; 🦉 \ud800"})
    assert not set("<>&\u2028") & set(text) and text.isascii()
    assert json.loads(text) == {"</script><!--": "\u2028 &amp; 🦉 \ud800"}


def test_page_names_no_other_file_and_no_server():
    text = render.render({"run": "{{images}}<b>", "sample": "review"}, ["data:,x"])
    assert "{{images}}&lt;b&gt;" in text
    assert not re.search(r"https?://|<link|src=|@import|url\(", text)


@pytest.mark.parametrize("text", ["", "cat", "=1+1", "'=x", "''@", "'", "-", "\tx", "a=b", "'cat'"])
def test_protected_cells_are_restored(text):
    cell = protect_cell(text)
    assert restore_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_command_writes_the_page_of_the_digits(tmp_path, capsys):
    (tmp_path / "flags.txt").write_text("--dataset=digits\n")
    config = command.read_config(tmp_path)
    source = load_source(config)
    write_tables(tmp_path, named_splits(source, config), source.class_names)
    assert command.main(["review", str(tmp_path), "--top=5", "--class=3"]) == 0
    assert f"Open {(tmp_path / 'review.html').as_uri()} in a browser." in capsys.readouterr().out
    content, images = read_page(tmp_path / "review.html")
    assert content["pixelated"] and decoded(images[0]).size == (8, 8)


@pytest.mark.parametrize("flags, message", [
    (["{path}/none"], "none is not a directory"), (["{path}/empty"], "has no flags.txt"),
    (["{path}/run"], "has no label_issues.csv"), ([], "required: RUN"),
    (["{path}/run", "--top=0"], "--top: invalid positive whole number value: '0'"),
    (["{path}/run", "--audit=x"], "--audit: invalid positive whole number value: 'x'"),
    (["{path}/run", "--seed=-1"], "--seed=-1 must be at least 0"),
    (["{path}/issues", "--class=frog"], "--class=frog is not a class of --dataset=digits"),
    (["{path}/issues", "--split=val"], "--split=val is not a split of --dataset=digits")])
def test_mistakes_give_one_line(tmp_path, capsys, flags, message):
    for name in ("empty", "run", "issues"):
        (tmp_path / name).mkdir()
    for name in ("run", "issues"):
        (tmp_path / name / "flags.txt").write_text("--dataset=digits\n")
    (tmp_path / "issues/label_issues.csv").write_text("id\n")
    assert command.main(["review", *(flag.format(path=tmp_path) for flag in flags)]) == 2
    output = capsys.readouterr().err.splitlines()
    assert len(output) == 1 and message in output[0]
