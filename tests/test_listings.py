"""--dataset=folder and --dataset=csv, with the mistakes that users' collections have."""

import os

import numpy as np
import pytest

from mlnt_tf.config import Config, UserError
from mlnt_tf.data.images import scan
from mlnt_tf.data.images.decode import decode
from mlnt_tf.data.images.scan import check_bad_images
from mlnt_tf.data.load import load_examples
from mlnt_tf.data.sources import folder, load_source
from mlnt_tf.files import cache

from pictures import encode, picture, tree

JPEG = encode(picture(), "JPEG")


def config_for(dataset, data_dir, **settings):
    return Config(dataset=dataset, data_dir=str(data_dir), **{"noise": "none", **settings})


def load_folder(root, **settings):
    return load_source(config_for("folder", root, **settings))


def load_folder_examples(root, **settings):
    config = config_for("folder", root, batch_size=4, num_neighbors=2, **settings)
    return load_examples(config)


def write_table(root, text):
    path = root / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_table(root, text, **settings):
    return load_source(config_for("csv", write_table(root, text), **settings))


def load_error(load, *arguments, **settings):
    """Returns the message of the UserError that loading raises, which is one line."""
    with pytest.raises(UserError) as error:
        load(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def label_of_record(*splits):
    return {name: label for split in splits
            for name, label in zip(split.record_names(), split.labels.tolist())}


@pytest.fixture
def pets(tmp_path):
    """A directory of ten cats and ten dogs, without splits."""
    return tree(tmp_path, {f"{kind}/{number}.png": None
                           for kind in ("cat", "dog") for number in range(10)})


class TestFolder:
    def test_test_split_is_balanced_and_same_for_every_seed(self, pets):
        source = load_folder(pets, test_fraction=.2)
        assert source.class_names == ("cat", "dog")
        assert (len(source.train), source.validation, len(source.test)) == (16, None, 4)
        assert np.bincount(source.test.labels).tolist() == [2, 2]
        other_seed = load_folder(pets, test_fraction=.2, seed=5)
        assert label_of_record(other_seed.test) == label_of_record(source.test)

    def test_validation_split_depends_on_seed(self, pets):
        one, other = (load_folder_examples(pets, seed=seed) for seed in (0, 1))
        assert one.realized_rate is None and len(one.validation) == 2
        assert one.validation.record_names() != other.validation.record_names()

    def test_id_is_position_in_sorted_list_of_files(self, pets):
        source = load_folder(pets)
        files = sorted(f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10))
        for split in (source.train, source.test):
            for row, record in enumerate(split.record_names()):
                assert files[split.ids[row]] == record
                assert source.class_names[split.labels[row]] == os.path.dirname(record)
                decoded = decode((pets / record).read_bytes())
                np.testing.assert_array_equal(split.images.array[row], decoded)

    @pytest.mark.parametrize("validation", ["val", "valid", "Validation", "dev", "eval"])
    def test_directories_of_splits_are_recognized(self, tmp_path, validation):
        tree(tmp_path, {f"{split}/{kind}/{number}.png": None
                        for split in ("train", validation, "test")
                        for kind in ("cat", "dog") for number in range(2)})
        source = load_folder(tmp_path)
        assert (len(source.train), len(source.validation), len(source.test)) == (4, 4, 4)
        assert set(source.train.record_names()) == {
            "train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"}

    @pytest.mark.parametrize("one, other, split", [
        ("val", "valid", "validation"), ("test", "testing", "test"),
        ("train", "training", "train")])
    def test_two_directories_of_one_split_are_refused(self, tmp_path, one, other, split):
        tree(tmp_path, {f"{directory}/{kind}/0.png": None for directory in {"train", one, other}
                        for kind in ("cat", "dog")})
        message = load_error(load_folder, tmp_path)
        assert f"holds {one} and {other}, which are both names of the {split} split" in message

    def test_subdirectories_spaces_and_non_ascii_names_are_read(self, pets):
        nested, latin1 = "cat/zu Hause/Zoë, 写真 1.JPEG", os.fsdecode(b"cat/caf\xe9.png")
        tree(pets, {nested: JPEG, latin1: None})
        source = load_folder(pets)
        assert {nested, r"cat/caf\xe9.png"} < set(label_of_record(source.train, source.test))

    def test_linked_directories_are_read_and_loops_end(self, pets, tmp_path_factory):
        elsewhere = tree(tmp_path_factory.mktemp("elsewhere"), {"0.png": None})
        (pets / "bird").symlink_to(elsewhere)
        (pets / "cat/again").symlink_to(pets / "cat")
        (pets / "dog/up").symlink_to(pets)
        (pets / "dog/itself.png").symlink_to(pets / "dog/itself.png")
        source = load_folder(pets)
        assert source.class_names == ("bird", "cat", "dog")
        # dog/up leads to all 21 files, but the 10 dogs themselves have been listed before.
        assert len(source.train) + len(source.test) == 21 + 21 - 10

    def test_bad_images_are_left_out_and_reported_with_reason(self, pets):
        tree(pets, {"cat/cut.jpg": JPEG[:150], "cat/empty.jpg": b"", "dog/page.jpg": b"<html>"})
        source = load_folder(pets, max_bad_images=.2)
        reasons = dict(source.bad_images)
        assert set(reasons) == {"cat/cut.jpg", "cat/empty.jpg", "dog/page.jpg"}
        assert reasons["cat/empty.jpg"] == "empty file"
        assert reasons["cat/cut.jpg"].startswith("cut off at the end")
        assert reasons["dog/page.jpg"].startswith("an HTML page")
        assert len(source.train) + len(source.test) == 20

    def test_bad_image_changes_no_other_id(self, pets):
        complete = load_folder(pets)
        id_of_record = {record: id for split in (complete.train, complete.test)
                        for record, id in zip(split.record_names(), split.ids)}
        tree(pets, {"cat/3.png": b""})
        damaged = load_folder(pets, max_bad_images=.2)
        assert len(damaged.train) + len(damaged.test) == 19
        for split in (damaged.train, damaged.test):
            ids = [id_of_record[record] for record in split.record_names()]
            assert ids == split.ids.tolist()

    def test_more_bad_images_than_allowed_are_refused(self, pets):
        tree(pets, {"cat/empty.jpg": b""})
        message = load_error(load_folder, pets)
        assert message.startswith("--max_bad_images=0.001 is exceeded, because 1 of 21 images")
        assert "(cat/empty.jpg: empty file)" in message
        assert message.endswith("raise --max_bad_images to 0.0477.")

    def test_handful_of_bad_images_is_left_out_of_a_small_set(self, tmp_path, caplog):
        tree(tmp_path, {f"{kind}/{number}.png": None for kind in "ab" for number in range(25)})
        tree(tmp_path, {"a/3.png": b""})
        with caplog.at_level("WARNING", logger="absl"):
            assert len(load_folder(tmp_path).bad_images) == 1
        assert "1 of 50 images cannot be decoded" in caplog.text and "a/3.png" in caplog.text
        assert "--max_bad_images=0 is exceeded" in load_error(
            load_folder, tmp_path, max_bad_images=0)

    @pytest.mark.parametrize("content, reason", [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (b" \n<!DOCTYPE html><html></html>", "an HTML page"), (JPEG[:-100], "cut off at the end"),
        (b'{"error": 404}', "an XML or JSON text"), (b"II*\0rest", "a TIFF image")])
    def test_file_that_is_no_image_is_named_without_advice_to_leave_it_out(
            self, pets, content, reason):
        tree(pets, {"cat/odd.jpg": content})
        message = load_error(load_folder, pets)
        assert "cat/odd.jpg: " in message and reason in message
        assert "raise --max_bad_images" not in message

    def test_fifo_and_directory_among_the_images_are_left_out(self, pets, caplog):
        os.mkfifo(pets / "cat/pipe.png")
        (pets / "dog/album.png").mkdir()
        with caplog.at_level("WARNING", logger="absl"):
            source = load_folder(pets)
        assert len(source.train) + len(source.test) == 20
        assert "cat/pipe.png is not a regular file" in caplog.text

    def test_directories_of_tools_and_runs_are_no_classes(self, pets, caplog):
        tree(pets, {name: None for name in (
            "__MACOSX/cat/0.png", "cat/.ipynb_checkpoints/0.png", "cat/@eaDir/0.jpg/thumb.png",
            "runs/folder/heat/0.png", "dog/judged/0.png")})
        tree(pets, {name: b"" for name in (
            "runs/folder/flags.txt", "runs/folder/lock", "dog/judged/records.csv",
            "dog/judged/label_issues.csv")})
        (pets / "empty").mkdir()
        with caplog.at_level("INFO", logger="absl"):
            source = load_folder(pets)
        assert source.class_names == ("cat", "dog")
        assert len(source.train) + len(source.test) == 20
        assert "empty, runs has no images" in caplog.text and "__MACOSX" in caplog.text

    def test_own_output_directory_is_left_out(self, pets):
        tree(pets, {"output/a/0.png": None})
        assert load_folder(pets, output_dir=str(pets / "output")).class_names == ("cat", "dog")

    def test_other_suffixes_and_loose_images_are_counted(self, pets, caplog):
        tree(pets, {"cat/a.tif": b"", "cat/b.TIF": b"", "dog/c.txt": b"", "cat/d": b"",
                    "loose.png": None, "cat/e.jfif": JPEG, "cat/f.JPE": JPEG})
        with caplog.at_level("WARNING", logger="absl"):
            source = load_folder(pets)
        assert len(source.train) + len(source.test) == 22
        assert "4 files are not read" in caplog.text and "1 .tif, 1 .TIF" in caplog.text
        assert "1 images are not in a class directory and are left out (loose.png)" in caplog.text

    def test_directory_next_to_the_splits_is_named(self, tmp_path, caplog):
        tree(tmp_path, {f"{split}/{kind}/{number}.png": None for split in ("train", "extra")
                        for kind in ("cat", "dog") for number in range(6)})
        with caplog.at_level("WARNING", logger="absl"):
            load_folder(tmp_path)
        assert "extra next to train is not used" in caplog.text

    def test_nested_tree_gives_the_path_to_use(self, tmp_path):
        tree(tmp_path, {f"pets/{kind}/0.png": None for kind in ("cat", "dog")})
        assert f"Did you mean --data_dir={tmp_path / 'pets'}?" in load_error(load_folder, tmp_path)

    def test_class_names_order_and_rename_directories(self, tmp_path):
        tree(tmp_path, {f"{number}/{row}.png": None for number in (0, 1) for row in range(4)})
        (tmp_path / "names.csv").write_text("0,dog\n1,cat\n")
        source = load_folder(tmp_path, class_names=str(tmp_path / "names.csv"))
        assert source.class_names == ("dog", "cat")
        assert label_of_record(source.train)["1/0.png"] == 1
        (tmp_path / "names.txt").write_text("a\nb\nc\n")
        assert "--class_names lists 3 names" in load_error(
            load_folder, tmp_path, class_names=str(tmp_path / "names.txt"))

    def test_unreadable_directory_is_named(self, pets, monkeypatch):
        scandir = os.scandir

        def fail_for_dog(path):
            if str(path).endswith("dog"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(folder.os, "scandir", fail_for_dog)
        assert "dog cannot be read (Permission denied)" in load_error(load_folder, pets)

    def test_images_of_different_sizes_need_image_size(self, pets):
        tree(pets, {"cat/large.png": encode(picture((30, 40)))})
        message = load_error(load_folder, pets)
        assert "from 10 x 12 to 40 x 30" in message and "--image_size" in message
        assert load_folder(pets, image_size=8).train.images.shape == (8, 8, 3)

    def test_only_image_of_a_class_is_used_for_training(self, pets):
        tree(pets, {"bird/only.png": None})
        source = load_folder(pets, test_fraction=.5)
        assert "bird/only.png" in source.train.record_names()

    def test_class_without_training_images_gives_warning(self, tmp_path, caplog):
        classes = {"train": ("cat", "dog"), "test": ("cat", "dog", "newt")}
        tree(tmp_path, {f"{split}/{kind}/{number}.png": None for split, kinds in classes.items()
                        for kind in kinds for number in range(6)})
        with caplog.at_level("WARNING", logger="absl"):
            load_folder_examples(tmp_path)
        assert "No training example has the class newt" in caplog.text

    def test_class_may_be_called_train(self, tmp_path):
        tree(tmp_path, {f"{kind}/{number}.png": None
                        for kind in ("train", "car") for number in range(3)})
        assert load_folder(tmp_path).class_names == ("car", "train")

    def test_single_image_per_class_cannot_be_split(self, tmp_path):
        tree(tmp_path, {"cat/0.png": None, "dog/0.png": None})
        assert "no class has two" in load_error(load_folder, tmp_path)

    def test_missing_directory_is_refused(self, tmp_path):
        message = load_error(load_folder, tmp_path / "nowhere")
        assert message.startswith(f"--data_dir={tmp_path / 'nowhere'} is not a directory")

    def test_single_class_is_refused(self, tmp_path):
        tree(tmp_path, {"a.png": None, "cat/b.png": None})
        assert "has 1 class directories" in load_error(load_folder, tmp_path)

    def test_tree_with_images_of_one_class_is_refused(self, tmp_path):
        tree(tmp_path, {"cat/b.png": None, "cat/c.png": None})
        (tmp_path / "dog").mkdir()
        assert "images of one class only (cat)" in load_error(load_folder, tmp_path)

    def test_injected_noise_treats_directories_as_true_labels(self, pets):
        examples = load_folder_examples(
            pets, noise="symmetric", noise_rate=1, symmetric_includes_true=False)
        assert examples.realized_rate == 1
        for split in (examples.validation, examples.test):
            names = [examples.class_names[label] for label in split.labels]
            assert names == [os.path.dirname(record) for record in split.record_names()]


def test_images_of_test_that_are_also_in_train_give_a_warning(tmp_path, caplog):
    tree(tmp_path, {f"{split}/{kind}/{number}.png": None for split in ("train", "test")
                    for kind in ("cat", "dog") for number in range(6)})
    (tmp_path / "test/cat/0.png").write_bytes((tmp_path / "train/cat/3.png").read_bytes())
    with caplog.at_level("WARNING", logger="absl"):
        load_folder_examples(tmp_path)
    assert "1 images of test" in caplog.text and "such as test/cat/0.png" in caplog.text


def test_group_column_keeps_the_images_of_a_patient_in_one_split(tmp_path):
    tree(tmp_path, {f"{patient}_{number}.png": None for patient in range(8) for number in range(3)})
    rows = "".join(f"{patient}_{number}.png,{patient % 2},p{patient}\n" for patient in range(8)
                   for number in range(3))
    table = write_table(tmp_path, f"path,label,patient\n{rows}")
    examples = load_examples(config_for("csv", table, batch_size=4, num_neighbors=2,
                                        group_column="patient"))
    patients = [{record.partition("_")[0] for record in split.record_names()}
                for split in (examples.train, examples.validation, examples.test)]
    assert sum(map(len, patients)) == 8 and all(patients)


class TestTable:
    @pytest.fixture
    def root(self, tmp_path):
        numbered = {f"{number}.png": None for number in range(6)}
        return tree(tmp_path, {**numbered, "a, b.png": None, "Zoë 写.png": None})

    def test_class_names_splits_and_true_labels_are_read(self, root):
        source = load_table(root, "path,label,split,true_label\n0.png,dog,train,cat\n1.png,cat,,\n"
                                  "2.png,dog,test,dog\n3.png,cat,val,dog\n")
        assert source.class_names == ("cat", "dog")
        assert label_of_record(source.train) == {"0.png": 1, "1.png": 0}
        assert source.train.true_labels.tolist() == [0, -1]
        assert label_of_record(source.test) == {"2.png": 1}
        assert label_of_record(source.validation) == {"3.png": 0}

    def test_true_labels_score_validation_and_test_but_are_not_trained_on(self, root):
        rows = "".join(f"{number}.png,{number % 2},train,0\n" for number in range(4))
        table = write_table(
            root, f"path,label,split,true_label\n{rows}4.png,1,val,0\n5.png,1,test,0\n")
        examples = load_examples(config_for("csv", table, batch_size=2, num_neighbors=2))
        assert examples.train.labels.tolist() == [0, 1, 0, 1]
        assert examples.realized_rate == .5
        assert examples.validation.labels.tolist() == examples.test.labels.tolist() == [0]

    @pytest.mark.parametrize("text", [
        b"\xef\xbb\xbfpath,label\n\"a, b.png\",1\n\"0.png\",0\n1.png,0\n",  # BOM, quoted comma
        b"path,label\r\n\"a, b.png\",1\r\n0.png,0\r\n1.png,0\r\n",  # CRLF
        # Other columns, white space around cells, an empty line.
        b"label,more,path\n1,x,\"a, b.png\"\n0,,0.png\n 0 ,,\" 1.png\"\n\n"])
    def test_dialects_of_spreadsheets_are_read(self, root, text):
        source = load_table(root, text)
        assert label_of_record(source.train, source.test) == {"a, b.png": 1, "0.png": 0, "1.png": 0}

    def test_columns_may_have_other_names(self, root):
        source = load_table(root, "Datei,Klasse\nZoë 写.png,süß\n0.png,sauer\n1.png,sauer\n",
                            csv_columns="Datei,Klasse,-,-")
        assert source.class_names == ("sauer", "süß")
        assert label_of_record(source.train, source.test)["Zoë 写.png"] == 1

    @pytest.mark.parametrize("names", ["a,b,c,d,e", "path,path", "", ",label"])
    def test_csv_columns_must_be_one_to_four(self, root, names):
        message = load_error(load_table, root, "path,label\n0.png,0\n", csv_columns=names)
        assert f"--csv_columns={names} must name one to four different columns" in message

    def test_absolute_paths_are_read(self, root):
        source = load_table(root, f"path,label\n{root}/0.png,0\n1.png,1\n2.png,1\n")
        assert label_of_record(source.train, source.test) == {
            f"{root}/0.png": 0, "1.png": 1, "2.png": 1}

    def test_class_names_are_read_from_file(self, root):
        (root / "names.csv").write_text("0,cat\n1,dog\n2,newt\n")
        source = load_table(root, "path,label\n0.png,1\n1.png,0\n2.png,1\n",
                            class_names=str(root / "names.csv"))
        assert source.class_names == ("cat", "dog", "newt")
        assert label_of_record(source.train)["0.png"] == 1

    @pytest.mark.parametrize("text, message", [
        ("path,label\n0.png,0\n1.png,-1\n", "one class only (0), apart from those without a label"),
        ("path,label\na, b.png,0\n1.png,1\n", "line 2 has more cells than columns. Put quotes"),
        ("path,label\n0.png,0\n,1\n", "line 3 has an empty path"),
        ("path,label\n0.png,\n1.png,\n", "has no label in any row"),
        ("path,label\n0.png,0\n1.png,\n", "one class only"),
        ("path,label,split\n0.png,0,train\n1.png,1,holdout\n",
         "line 3 has the unknown split 'holdout'"),
        ("file,label\n0.png,0\n", "no column 'path'"), ("path,label\n", "no rows"),
        ("", "no column 'path'"), (b"path,label\n\xff.png,0\n", "cannot be read"),
        ("path,label\nnone.png,0\n0.png,1\n", "none.png: No such file"),
        ("path,label\n0.png,0\n1.png,0\n", "images of one class only")])
    def test_mistake_is_reported_with_its_line(self, root, text, message):
        assert message in load_error(load_table, root, text)

    def test_text_with_two_dashes_before_a_number_is_a_class_name(self, root):
        source = load_table(root, "path,label\n0.png,--5\n1.png,1\n2.png,1\n")
        assert source.class_names == ("--5", "1")

    @pytest.mark.parametrize("rows, message", [
        ("0.png,2\n1.png,0\n", "line 2 has the label 2, which is out of range"),
        ("0.png,newt\n1.png,cat\n", "line 2 has the label 'newt', which is not among the 2 names")])
    def test_label_outside_class_names_is_refused(self, root, rows, message):
        (root / "names.txt").write_text("cat\ndog\n")
        assert message in load_error(load_table, root, f"path,label\n{rows}",
                                     class_names=str(root / "names.txt"))

    def test_directory_instead_of_table_is_refused(self, tmp_path):
        message = load_error(load_source, config_for("csv", tmp_path))
        assert message.startswith(f"--data_dir={tmp_path} is not a file")


def test_scan_is_cached_until_a_file_or_the_decoder_changes(pets, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(cache, "MIN_SECONDS", 0)
    calls = []
    decode_all = scan.decode_all

    def counting_decode_all(images):
        calls.append(len(images))
        return decode_all(images)

    monkeypatch.setattr(scan, "decode_all", counting_decode_all)
    first, second = load_folder(pets), load_folder(pets)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.train.digests, second.train.digests)
    (pets / "cat/0.png").write_bytes(encode(picture(seed=99)))
    load_folder(pets)
    assert len(calls) == 2
    monkeypatch.setattr(scan, "DECODER_VERSION", -1)
    load_folder(pets)
    assert len(calls) == 3


def test_file_that_could_not_be_read_for_a_moment_is_not_cached_as_bad(
        pets, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(cache, "MIN_SECONDS", 0)
    calls, decode_all = [], scan.decode_all
    monkeypatch.setattr(scan, "decode_all", lambda images: calls.append(1) or decode_all(images))
    tree(pets, {"cat/0.png": b""})
    for unreadable, expected in ((True, 1), (True, 2), (False, 3), (False, 3)):
        monkeypatch.setattr(scan, "_is_unreadable", lambda path: unreadable)
        assert len(load_folder(pets, max_bad_images=.2).bad_images) == 1
        assert len(calls) == expected


@pytest.mark.slow
def test_500_damaged_images_are_decoded_or_refused_with_a_reason(tmp_path):
    rng = np.random.default_rng(0)
    intact = [encode(picture(), format) for format in ("PNG", "JPEG", "GIF", "BMP", "WEBP")]
    layout = {}
    for number in range(500):
        content = bytearray(intact[number % len(intact)])
        for _ in range(rng.integers(1, 4)):
            start = int(rng.integers(len(content)))
            stop = [start + 1, len(content), start + int(rng.integers(1, 40))][rng.integers(3)]
            content[start:stop] = rng.bytes(int(rng.integers(0, 5)))
            content = content or bytearray(b"\0")
        layout[f"{'ab'[number % 2]}/{number}.{('png', 'jpg', 'webp')[number % 3]}"] = bytes(content)
    for number in range(10):
        layout[f"{'ab'[number % 2]}/intact{number}.png"] = encode(picture(seed=number))
    tree(tmp_path, layout)
    source = load_folder(tmp_path, max_bad_images=1.0, image_size=8)
    assert len(source.train) + len(source.test) + len(source.bad_images) == 510
    assert 100 < len(source.bad_images) < 500
    assert all(reason and "\n" not in reason for _, reason in source.bad_images)


def test_error_suggests_checking_paths_if_no_image_can_be_read():
    bad_images = [("a.png", "No such file"), ("b.png", "No such file")]
    with pytest.raises(UserError, match="None of the 2 images can be read .a.png: No such file.*"
                                        "Paths are relative to the directory of the table"):
        check_bad_images(bad_images, 2, .001)
