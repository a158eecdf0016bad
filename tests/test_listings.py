"""A user's folder or table: every bad-data case of a real collection."""

import os

import numpy as np
import pytest

from mlnt_tf.config import Config, UserError
from mlnt_tf.data.images import scan, storage
from mlnt_tf.data.images.scan import check_bad_images
from mlnt_tf.data.load import load_examples
from mlnt_tf.data.sources import listing, load_source

from pictures import encode, picture, tree

JPEG = encode(picture(), "JPEG")


def folder(root, **settings):
    return load_source(Config(dataset="folder", noise="none", data_dir=str(root), **settings))


def table(root, text, **settings):
    path = root / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_source(Config(dataset="csv", noise="none", data_dir=str(path), **settings))


def refusal(load, *arguments, **settings):
    """The error, which is one line."""
    with pytest.raises(UserError) as caught:
        load(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(split):
    return dict(zip(split.record_names(), split.labels.tolist()))


@pytest.fixture
def pets(tmp_path):
    """Ten cats and ten dogs, no splits."""
    return tree(tmp_path, {f"{kind}/{number}.png": None for kind in ("cat", "dog") for number in range(10)})


class TestFolder:
    def test_one_tree_is_split_by_seed_and_the_test_split_is_that_of_every_seed(self, pets):
        source = folder(pets, test_fraction=.2)
        assert source.class_names == ("cat", "dog")
        assert (len(source.train), source.validation, len(source.test)) == (16, None, 4)
        assert np.bincount(source.test.labels).tolist() == [2, 2]
        assert set(names(source.test)) == set(names(folder(pets, test_fraction=.2, seed=5).test))
        loaded = [load_examples(Config(dataset="folder", noise="none", data_dir=str(pets), batch_size=4,
                                                num_neighbors=2, seed=seed)) for seed in (0, 1)]
        assert loaded[0].realized_rate is None and len(loaded[0].validation) == 2
        assert len({tuple(names(one.validation)) for one in loaded}) == 2

    def test_the_id_leads_back_to_file_label_and_pixels(self, pets):
        source = folder(pets)
        everything = sorted(f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10))
        for split in (source.train, source.test):
            for row, record in enumerate(split.record_names()):
                assert everything[split.ids[row]] == record
                assert source.class_names[split.labels[row]] == os.path.dirname(record)
                written = (pets / record).read_bytes()
                assert storage.decode(written).numpy().tobytes() == split.images.array[row].tobytes()

    @pytest.mark.parametrize("val", ["val", "valid", "Validation"])
    def test_directories_of_splits(self, tmp_path, val):
        tree(tmp_path, {f"{split}/{kind}/{number}.png": None for split in ("train", val, "test")
                        for kind in ("cat", "dog") for number in range(2)})
        source = folder(tmp_path)
        assert (len(source.train), len(source.validation), len(source.test)) == (4, 4, 4)
        assert set(names(source.train)) == {"train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"}

    @pytest.mark.parametrize("one, other", [("val", "valid"), ("test", "testing"), ("train", "training")])
    def test_a_split_under_two_names_is_refused(self, tmp_path, one, other):
        tree(tmp_path, {f"{split}/{kind}/0.png": None for split in {"train", one, other} for kind in ("cat", "dog")})
        told = refusal(folder, tmp_path)
        assert f"holds {one} and {other}, one split" in told or f"holds {other} and {one}, one split" in told

    def test_images_in_deeper_directories_spaces_and_other_letters(self, pets):
        tree(pets, {"cat/zu Hause/Zoë, 写真 1.JPEG": JPEG, os.fsdecode(b"cat/caf\xe9.png"): None})
        source = folder(pets)
        assert {"cat/zu Hause/Zoë, 写真 1.JPEG", r"cat/caf\xe9.png"} < {*names(source.train), *names(source.test)}

    def test_a_symlink_loop_ends_and_a_linked_directory_is_entered(self, pets, tmp_path_factory):
        elsewhere = tree(tmp_path_factory.mktemp("elsewhere"), {"0.png": None})
        (pets / "bird").symlink_to(elsewhere)
        (pets / "cat/again").symlink_to(pets / "cat")
        (pets / "dog/up").symlink_to(pets)
        (pets / "dog/itself.png").symlink_to(pets / "dog/itself.png")
        source = folder(pets)
        assert source.class_names == ("bird", "cat", "dog")
        assert len(source.train) + len(source.test) == 21 + 21 - 10  # dog/up is entered: only its dogs are seen twice

    def test_bad_images_are_left_out_and_listed_with_the_reason(self, pets):
        tree(pets, {"cat/truncated.jpg": JPEG[:150], "cat/empty.jpg": b"", "dog/page.jpg": b"<html>"})
        source = folder(pets, max_bad_images=.2)
        assert dict(source.bad_images)["cat/empty.jpg"] == "empty file"
        assert set(dict(source.bad_images)) == {"cat/truncated.jpg", "cat/empty.jpg", "dog/page.jpg"}
        assert "JPEG" in dict(source.bad_images)["cat/truncated.jpg"]
        assert len(source.train) + len(source.test) == 20

    def test_leaving_images_out_changes_no_id_and_no_other_image(self, pets):
        whole = folder(pets)
        tree(pets, {"cat/3.png": b""})
        left = folder(pets, max_bad_images=.2)
        ids = {record: id for source in (whole,) for split in (source.train, source.test)
               for record, id in zip(split.record_names(), split.ids)}
        for split in (left.train, left.test):
            assert [ids[record] for record in split.record_names()] == split.ids.tolist()

    def test_more_bad_images_than_allowed_are_an_error(self, pets):
        tree(pets, {"cat/empty.jpg": b""})
        told = refusal(folder, pets)
        assert "1 of 21 images do not decode (cat/empty.jpg: empty file)" in told and "to 0.0477." in told

    def test_a_directory_that_cannot_be_read_is_named(self, pets, monkeypatch):
        scan = os.scandir

        def refuse(path):
            if str(path).endswith("dog"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(listing.os, "scandir", refuse)
        assert "dog cannot be read (Permission denied)" in refusal(folder, pets)

    def test_sizes_that_differ_ask_for_one(self, pets):
        tree(pets, {"cat/large.png": encode(picture((30, 40)))})
        assert "from 10 x 12 to 40 x 30" in (told := refusal(folder, pets)) and "--image_size" in told
        assert folder(pets, image_size=8).train.images.shape == (8, 8, 3)

    def test_a_class_with_one_image_keeps_it_for_training(self, pets):
        tree(pets, {"bird/only.png": None})
        source = folder(pets, test_fraction=.5)
        assert "bird/only.png" in names(source.train)

    def test_a_class_without_training_images_is_warned_of(self, tmp_path, caplog):
        tree(tmp_path, {f"{split}/{kind}/{number}.png": None for split, kinds in
                        (("train", ("cat", "dog")), ("test", ("cat", "dog", "newt"))) for kind in kinds
                        for number in range(6)})
        with caplog.at_level("WARNING", logger="absl"):
            load_examples(Config(dataset="folder", noise="none", data_dir=str(tmp_path), batch_size=4,
                                          num_neighbors=2))
        assert "no training example has the class newt" in caplog.text

    def test_a_class_may_be_called_train(self, tmp_path):
        tree(tmp_path, {f"{kind}/{number}.png": None for kind in ("train", "car") for number in range(3)})
        assert folder(tmp_path).class_names == ("car", "train")

    def test_a_single_image_of_each_class_cannot_be_split(self, tmp_path):
        assert "no class has two" in refusal(folder, tree(tmp_path, {"cat/0.png": None, "dog/0.png": None}))

    def test_what_is_no_tree_of_classes_is_refused(self, tmp_path):
        assert "--data_dir=" in refusal(folder, tmp_path / "nowhere")
        tree(tmp_path, {"a.png": None, "cat/b.png": None})
        assert "1 class directories" in refusal(folder, tmp_path)
        (tmp_path / "dog").mkdir()
        tree(tmp_path, {"cat/c.png": None})
        assert folder(tmp_path).class_names == ("cat", "dog")
        for path in (tmp_path / "cat").iterdir():
            path.unlink()
        assert "no training images" in refusal(folder, tmp_path)

    def test_noise_of_ours_takes_the_directories_for_the_truth(self, pets):
        loaded = load_examples(Config(dataset="folder", noise="symmetric", noise_rate=1, data_dir=str(pets),
                                               symmetric_includes_true=False, batch_size=4, num_neighbors=2))
        assert loaded.realized_rate == 1
        for split in (loaded.validation, loaded.test):
            assert [loaded.class_names[label] for label in split.labels] == [
                os.path.dirname(record) for record in split.record_names()]


class TestTable:
    @pytest.fixture
    def root(self, tmp_path):
        return tree(tmp_path, {f"{number}.png": None for number in range(6)} | {"a, b.png": None, "Zoë 写.png": None})

    def test_labels_by_name_splits_and_true_labels(self, root):
        source = table(root, "path,label,split,true_label\n0.png,dog,train,cat\n1.png,cat,,\n2.png,dog,test,dog\n"
                             "3.png,cat,val,dog\n")
        assert source.class_names == ("cat", "dog")
        assert names(source.train) == {"0.png": 1, "1.png": 0} and source.train.true_labels.tolist() == [0, -1]
        assert names(source.test) == {"2.png": 1} and names(source.validation) == {"3.png": 0}

    def test_true_labels_judge_training_and_replace_the_others_elsewhere(self, root):
        rows = "".join(f"{number}.png,{number % 2},train,0\n" for number in range(4))
        path = root / "labels.csv"
        path.write_text(f"path,label,split,true_label\n{rows}4.png,1,val,0\n5.png,1,test,0\n")
        loaded = load_examples(Config(dataset="csv", noise="none", data_dir=str(path), batch_size=2,
                                               num_neighbors=2))
        assert loaded.realized_rate == .5
        assert (loaded.validation.labels.tolist(), loaded.test.labels.tolist()) == ([0], [0])

    @pytest.mark.parametrize("text", [
        b"\xef\xbb\xbfpath,label\n\"a, b.png\",1\n\"0.png\",0\n1.png,0\n",  # BOM, a quoted comma
        b"path,label\r\n\"a, b.png\",1\r\n0.png,0\r\n1.png,0\r\n",  # CRLF
        b"label,more,path\n1,x,\"a, b.png\"\n0,,0.png\n 0 ,,\" 1.png\"\n\n"])  # other columns, blanks, an empty line
    def test_tables_as_spreadsheets_write_them(self, root, text):
        source = table(root, text)
        assert {**names(source.train), **names(source.test)} == {"a, b.png": 1, "0.png": 0, "1.png": 0}

    def test_other_names_of_columns_and_letters(self, root):
        source = table(root, "Datei,Klasse\nZoë 写.png,süß\n0.png,sauer\n1.png,sauer\n", csv_columns="Datei,Klasse,-,-")
        assert source.class_names == ("sauer", "süß")
        assert "Zoë 写.png" in {**names(source.train), **names(source.test)}

    def test_absolute_paths(self, root):
        source = table(root, f"path,label\n{root}/0.png,0\n1.png,1\n2.png,1\n")
        assert len(source.train) + len(source.test) == 3

    def test_names_of_numbered_classes(self, root):
        (root / "names.txt").write_text("cat\ndog\nnewt\n")
        source = table(root, "path,label\n0.png,1\n1.png,0\n2.png,1\n", class_names=str(root / "names.txt"))
        assert source.class_names == ("cat", "dog", "newt") and names(source.train)["0.png"] == 1

    @pytest.mark.parametrize("text, message", [
        ("path,label\n0.png,0\n1.png,7\n2.png,1\n", "line 3: the label 7 is out of range"),
        ("path,label\n0.png,0\n1.png,-1\n", "line 3: the label -1 is out of range"),
        ("path,label\na, b.png,0\n1.png,1\n", "line 2: more cells than columns: quote"),
        ("path,label\n0.png,0\n1.png,\n", "line 3: the path or the label is empty"),
        ("path,label,split\n0.png,0,train\n1.png,1,holdout\n", "line 3: the split 'holdout'"),
        ("file,label\n0.png,0\n", "no column 'path'"), ("path,label\n", "no rows"), ("", "no column 'path'"),
        (b"path,label\n\xff.png,0\n", "cannot be read"), ("path,label\nnone.png,0\n0.png,1\n", "none.png: No such file"),
        ("path,label\n0.png,0\n1.png,0\n", "one class")])
    def test_a_mistake_is_told_with_its_line(self, root, text, message):
        assert message in refusal(table, root, text)

    def test_dashes_before_a_number_make_a_name(self, root):
        assert table(root, "path,label\n0.png,--5\n1.png,1\n2.png,1\n").class_names == ("--5", "1")

    def test_a_label_beyond_the_named_classes(self, root):
        (root / "names.txt").write_text("cat\ndog\n")
        assert "line 2: the label 2 is out of range" in refusal(
            table, root, "path,label\n0.png,2\n1.png,0\n", class_names=str(root / "names.txt"))
        assert "'newt' is not among" in refusal(
            table, root, "path,label\n0.png,newt\n1.png,cat\n", class_names=str(root / "names.txt"))

    def test_no_table_is_refused(self, tmp_path):
        assert "is no file" in refusal(load_source, Config(dataset="csv", noise="none", data_dir=str(tmp_path)))


def test_a_check_that_took_long_is_kept_for_files_that_stay_the_same(pets, tmp_path_factory, monkeypatch):
    from mlnt_tf.files import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(cache, "MIN_SECONDS", 0)
    looks = []
    real = scan.decode_all
    monkeypatch.setattr(scan, "decode_all", lambda images: looks.append(1) or real(images))
    first, again = folder(pets), folder(pets)
    assert len(looks) == 1
    np.testing.assert_array_equal(first.train.digests, again.train.digests)
    (pets / "cat/0.png").write_bytes(encode(picture(seed=99)))
    assert folder(pets) and len(looks) == 2
    monkeypatch.setattr(scan, "DECODER_VERSION", -1)
    assert folder(pets) and len(looks) == 3


def test_where_no_image_decodes_the_paths_are_asked_after():
    with pytest.raises(UserError, match="none of the 2 images decodes .a.png: No such file.*are the paths right"):
        check_bad_images([("a.png", "No such file"), ("b.png", "No such file")], 2, .001)
