"""The survey of a data set, which reads headers instead of decoding images."""

import dataclasses
import os

import pytest

from mlnt_tf.config import Config
from mlnt_tf.data import sources
from mlnt_tf.data.images.header import image_size, read_header

from pictures import encode, picture, tree

SIZE = (40, 24)  # width, height


def survey_folder(root, **settings):
    return sources.survey(Config(dataset="folder", data_dir=str(root), **settings))


@pytest.mark.parametrize("format, options", [
    ("PNG", {}), ("GIF", {}), ("BMP", {}), ("JPEG", {}), ("JPEG", {"progressive": True}),
    ("JPEG", {"icc_profile": bytes(70_000)}), ("WEBP", {}), ("WEBP", {"lossless": True}),
    ("WEBP", {"lossless": True, "exif": bytes(20)})])
def test_size_is_read_from_header(format, options):
    assert image_size(encode(picture(SIZE), format, **options)) == SIZE[::-1]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xd8\xff", b"RIFF....WEBPVP8?",
                                     encode(picture(SIZE))[:18], b"\xff\xd8" + bytes(40)])
def test_header_without_a_size_gives_none(content):
    assert image_size(content) is None


def test_header_of_missing_file_directory_or_fifo_is_empty(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("nowhere.png", "", "pipe.png", "nul\0.png"):
        assert read_header(os.path.join(tmp_path, name)) == b""


def test_folder_survey_gives_median_size_and_training_examples(tmp_path):
    tree(tmp_path, {f"{split}/{kind}/{number}.png": None for split in ("train", "test")
                    for kind in ("cat", "dog") for number in range(3)})
    tree(tmp_path, {"train/cat/large.png": encode(picture((90, 80))), "train/dog/page.jpg": b"<h"})
    assert survey_folder(tmp_path) == sources.Survey(8, 2, height=10, width=12, channels=3)
    assert survey_folder(tmp_path, image_size=64).height == 10


def test_survey_reads_at_most_100_headers(tmp_path, monkeypatch):
    tree(tmp_path, {f"{kind}/{number}.png": b"" for kind in "ab" for number in range(80)})
    opened = []
    monkeypatch.setattr(sources.surveys, "read_header", lambda path: opened.append(path) or b"")
    assert survey_folder(tmp_path) == sources.Survey(160, 2, 0, 0, 3)
    assert len(opened) == 100


def test_table_survey_counts_rows_of_train(tmp_path):
    tree(tmp_path, {f"{number}.png": None for number in range(4)})
    (tmp_path / "labels.csv").write_text(
        "path,label,split\n0.png,a,\n1.png,b,train\n2.png,a,test\n3.png,c,train\n")
    config = Config(dataset="csv", data_dir=str(tmp_path / "labels.csv"))
    assert sources.survey(config) == sources.Survey(3, 3, height=10, width=12, channels=3)


def test_table_survey_leaves_out_images_without_a_label(tmp_path):
    tree(tmp_path, {f"{number}.png": None for number in range(4)})
    (tmp_path / "labels.csv").write_text("path,label\n0.png,a\n1.png,b\n2.png,\n3.png,a\n")
    config = Config(dataset="csv", data_dir=str(tmp_path / "labels.csv"))
    assert sources.survey(config).num_examples == 3
    assert sources.survey(dataclasses.replace(config, train_examples=2)).num_examples == 2


@pytest.mark.parametrize("dataset, expected", [
    ("digits", (1497, 10, 8, 8, 1)), ("cifar10", (50_000, 10, 32, 32, 3))])
def test_survey_of_built_in_data(dataset, expected):
    assert sources.survey(Config(dataset=dataset)) == sources.Survey(*expected)
