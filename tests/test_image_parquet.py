"""Parquet copies of image sets: which column is which, classes, splits, channels, damage."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vcqlib.data import image_folder
from vcqlib.data.batches import open_source
from vcqlib.data.image_sets import load_images
from vcqlib.data.parquet import ParquetFiles


def encoded(shade=0, mode="RGB"):
    file = BytesIO()
    Image.new(mode, (4, 4), shade).save(file, "PNG")
    return file.getvalue()


def coded(*values):
    return pa.array(values).dictionary_encode()


def features(**kinds):
    return {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}


NAMED = {"_type": "ClassLabel", "names": ["cat", "dog"]}
IMAGES = [{"bytes": encoded(), "path": None}] * 4
PLAIN = [encoded()] * 4
LABELS = {  # columns, options, metadata → labels, classes
    "integers": ({"image": IMAGES, "label": [2, 0, 2, 1]}, "", {}, [2, 0, 2, 1], "012"),
    "named": ({"image": IMAGES, "label": [1, 0, 1, 1]}, "", features(label=NAMED), [1, 0, 1, 1],
              ["cat", "dog"]),
    "named, not all seen": ({"image": IMAGES, "label": [0] * 4}, "", features(label=NAMED),
                            [0] * 4, ["cat", "dog"]),
    "texts": ({"image": IMAGES, "label": ["b", "a", "b", "c"]}, "", {}, [1, 0, 1, 2], "abc"),
    "large texts": ({"image": IMAGES, "label": pa.array(["b", "a"] * 2, pa.large_string())}, "",
                    {}, [1, 0, 1, 0], "ab"),
    "dictionary": ({"image": IMAGES, "label": coded(*"baba")}, "", {},
                   [1, 0, 1, 0], "ab"),
    "dictionary of any name": ({"image": IMAGES, "kind": coded(*"baba")},
                               "", {}, [1, 0, 1, 0], "ab"),
    "dictionary of integers": ({"image": IMAGES, "y": coded(1, 0, 1, 0)},
                               "", {}, [1, 0, 1, 0], "01"),
    "views": ({"image": pa.array(PLAIN, pa.binary_view()),
               "label": pa.array(list("baba"), pa.string_view())}, "", {}, [1, 0, 1, 0], "ab"),
    "bytes of one length": ({"image": pa.array(PLAIN, pa.binary(len(PLAIN[0]))),
                             "label": [1, 0, 1, 0]}, "", {}, [1, 0, 1, 0], "01"),
    "true or false": ({"image": IMAGES, "smiles": [True, False] * 2}, "", {}, [1, 0, 1, 0], "01"),
    "8 bits": ({"image": IMAGES, "label": pa.array([3, 0, 1, 2], pa.uint8())}, "", {},
               [3, 0, 1, 2], "0123"),
    "capitals": ({"Image": PLAIN, "Label": [0, 1, 0, 1]}, "", {}, [0, 1, 0, 1], "01"),
    "other names": ({"img": PLAIN, "digit": [0, 1, 0, 1]}, "", {}, [0, 1, 0, 1], "01"),
    "row numbers first": ({"id": [9, 8, 7, 6], "image": IMAGES, "label": [0, 1, 0, 1]}, "", {},
                          [0, 1, 0, 1], "01"),
    "row numbers beside": ({"image_id": [9, 8, 7, 6], "image": IMAGES, "digit": [0, 1, 0, 1]}, "",
                           {}, [0, 1, 0, 1], "01"),
    "captions and names of files": (
        {"caption": list("wxyz"), "file": list("wxyz"), "image": IMAGES, "digit": [0, 1, 0, 1]},
        "", {}, [0, 1, 0, 1], "01"),
    "notes of other tools": ({"image": PLAIN, "label": [1, 0, 1, 0]}, "",
                             {b"huggingface": b'{"info": {"features": {"label": 1}}}',
                              b"pandas": b"{{"}, [1, 0, 1, 0], "01"),
    "names that are none": ({"image": PLAIN, "label": [1, 0, 1, 0]}, "",
                            features(label={"names": 3}), [1, 0, 1, 0], "01"),
    "the index of pandas": (
        {"image": PLAIN, "label": [0, 1, 0, 1], "__index_level_0__": [5, 6, 7, 8]}, "",
        {b"pandas": json.dumps({"index_columns": ["__index_level_0__"]}).encode()},
        [0, 1, 0, 1], "01"),
    "sides in pixels, features": (
        {"width": [4] * 4, "height": [4] * 4, "image": IMAGES, "kind": [0, 1, 0, 1]}, "",
        features(kind=NAMED, image={"_type": "Image"}), [0, 1, 0, 1], ["cat", "dog"]),
    "two labels, one asked for": (
        {"img": IMAGES, "fine_label": [0, 1, 2, 3], "coarse_label": [0, 0, 1, 1]},
        "?label=coarse_label", {}, [0, 0, 1, 1], "01"),
    "two images, one asked for": (
        {"photo": PLAIN, "mask": [b"no picture"] * 4, "label": [0, 1, 0, 1]}, "?image=photo", {},
        [0, 1, 0, 1], "01"),
    "two images, one called so": (
        {"mask": [b"no picture"] * 4, "image": PLAIN, "label": [0, 1, 0, 1]}, "", {},
        [0, 1, 0, 1], "01"),
    "an option with a blank": ({"image": PLAIN, "a b": [0, 1, 0, 1], "c": [0, 0, 0, 0]},
                               "?label=a%20b", {}, [0, 1, 0, 1], "01"),
}  # fmt: skip


def write(path, columns, metadata=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata or {}), path, **options)


@pytest.mark.parametrize("case", LABELS)
def test_the_label_is_the_column_that_can_be_meant(tmp_path, case):
    columns, options, metadata, labels, classes = LABELS[case]
    write(tmp_path / "train.parquet", columns, metadata)
    data = load_images(f"parquet:{tmp_path}{options}", "train")
    assert data.labels.tolist() == labels and data.classes == tuple(classes)
    assert data.labels.dtype == torch.int64 and data.images.shape == (4, 3, 4, 4)


UNCLEAR = {  # columns, options → what is said
    "two labels": ({"image": PLAIN, "fine": [0] * 4, "coarse": [0] * 4}, "",
                   r"which column is the label, coarse or fine\? Add \?label=NAME"),
    "two images": ({"a": PLAIN, "b": PLAIN, "label": [0] * 4}, "",
                   r"which column is the image, a or b\? Add \?image=NAME"),
    "an index without pandas' note": ({"image": PLAIN, "__index_level_0__": [0, 1, 2, 3]}, "",
                                      "needs a column of image bytes and one of labels"),
    "sizes alone": ({"image": PLAIN, "width": [4] * 4, "kind": list("abab")}, "",
                    "which column is the label, kind or width"),
    "row numbers alone": ({"image": PLAIN, "id": [1, 2, 3, 4]}, "", "column is the label, id"),
    "captions alone": ({"image": PLAIN, "text": list("wxyz")}, "", "column is the label, text"),
    "no such column": ({"image": PLAIN, "label": [0] * 4}, "?label=lable",
                       "has no label column 'lable'; there are label"),
    "no such option": ({"image": PLAIN, "label": [0] * 4}, "?labels=x",
                       "labels=…: the options are image and label"),
    "no label": ({"image": PLAIN}, "", "needs a column of image bytes and one of labels"),
    "no image": ({"label": [0] * 4}, "", "needs a column of image bytes and one of labels"),
    "pixels as lists": ({"image": [[1, 2]] * 4, "label": [0] * 4}, "", "needs a column of image"),
    "fractions": ({"image": PLAIN, "label": [0.5] * 4}, "", "needs a column of image bytes"),
    "a row without": ({"image": PLAIN, "label": [0, None, 1, 0]}, "", "1 rows have no label"),
    "unlabelled": ({"image": PLAIN, "label": [-1] * 4}, "", "label -1 is none of the"),
    "row numbers as labels": ({"image": PLAIN, "label": [0, 1, 2, 10**12]}, "",
                              "label 1,000,000,000,000 is no class"),
    "a label too high": ({"image": PLAIN, "label": [0, 1, 2, 0]}, "", "label 2 is none of the 2"),
    "no rows": ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "",
                "has no images in .*train.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_refused_in_one_line(tmp_path, case):
    columns, options, message = UNCLEAR[case]
    metadata = features(label={"names": ["cat", "dog"]}) if case == "a label too high" else {}
    write(tmp_path / "train.parquet", columns, metadata)
    with pytest.raises(ValueError, match=message) as error:
        ParquetFiles(f"{tmp_path}{options}", "train")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


# ----------------------------------------------------------------------------- the splits

SPLITS = {  # files with their labels → which held-out file is taken
    "test": ({"train-0.parquet": [0, 1], "test-0.parquet": [1, 1]}, "test-0.parquet"),
    "validation": ({"train-0.parquet": [0, 1], "validation-0.parquet": [1]},
                   "validation-0.parquet"),
    "both": ({"train-0.parquet": [0, 1], "val.parquet": [1], "test.parquet": [0]}, "test.parquet"),
    "test without labels": (
        {"train-0.parquet": [0, 1], "validation-0.parquet": [1], "test-0.parquet": [-1, -1]},
        "validation-0.parquet"),
    "capitals": ({"Train.PARQUET": [0, 1], "TEST.Parquet": [1]}, "TEST.Parquet"),
    "folders": ({"a/train/0000.parquet": [0, 1], "a/Testing/0000.parquet": [1]},
                "a/Testing/0000.parquet"),
    "underscores": ({"train_0.parquet": [0, 1], "test_0.parquet": [1]}, "test_0.parquet"),
    "downloads beside": (
        {"train.parquet": [0, 1], "test.parquet": [1], ".cache/test-1.parquet": [0],
         "._test-2.parquet": [0]}, "test.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLITS)
def test_a_split_is_the_files_called_after_it(tmp_path, case):
    files, taken = SPLITS[case]
    for i, (name, labels) in enumerate(files.items()):
        shades = [encoded((i, 0, 0))] * len(labels)
        write(tmp_path / name, {"image": shades, "label": labels})
    data = load_images(f"parquet:{tmp_path}", "test")
    assert data.labels.tolist() == files[taken] and data.classes == ("0", "1")
    assert set(data.images[:, 0, 0, 0].tolist()) == {list(files).index(taken)}
    assert len(load_images(f"parquet:{tmp_path}", "train")) == 2


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    for shade in (1, 2):
        write(tmp_path / "train.parquet", {"image": [encoded((shade, 0, 0))], "label": [0]})
        assert load_images(f"parquet:{tmp_path}", "train").images[0, 0, 0, 0] == shade


def test_classes_are_those_of_the_training_split(tmp_path):
    write(tmp_path / "train.parquet", {"image": PLAIN, "label": list("abca")})
    write(tmp_path / "test.parquet", {"image": PLAIN[:2], "label": ["c", "a"]})
    assert load_images(f"parquet:{tmp_path}", "test").labels.tolist() == [2, 0]
    write(tmp_path / "test.parquet", {"image": PLAIN[:2], "label": ["c", "d"]})
    with pytest.raises(ValueError, match="label 'd' is none of the 3 classes"):
        load_images(f"parquet:{tmp_path}", "test")
    write(tmp_path / "test.parquet", {"image": PLAIN[:2], "label": [0, 1]})
    with pytest.raises(ValueError, match="texts in one split and numbers in another"):
        load_images(f"parquet:{tmp_path}", "test")


def test_files_with_other_columns_are_refused(tmp_path):
    write(tmp_path / "train-0.parquet", {"image": PLAIN, "label": [0] * 4})
    write(tmp_path / "train-1.parquet", {"img": PLAIN, "label": [0] * 4})
    with pytest.raises(ValueError, match=r"train-1\.parquet has columns .*train-0\.parquet has"):
        ParquetFiles(tmp_path, "train")
    write(tmp_path / "train-1.parquet", {"image": PLAIN, "label": list("abcd")})
    with pytest.raises(ValueError, match="column 'label': Parquet cannot be read") as error:
        ParquetFiles(tmp_path, "train")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------- channels, and damage


@pytest.mark.parametrize("where", ["nowhere", "train", "test"])
def test_channels_are_decided_once_for_all_splits(tmp_path, where, monkeypatch):
    monkeypatch.setenv("VCQ_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(image_folder, "REMEMBERED", 20)
    for split in ("train", "test"):
        images = [encoded(7, "L")] * 40
        if where == split:
            images[37] = encoded((1, 2, 3))
        write(tmp_path / "p" / f"{split}.parquet", {"image": images, "label": [0, 1] * 20},
              row_group_size=10)  # fmt: skip
    name, expected = f"parquet:{tmp_path / 'p'}", 1 if where == "nowhere" else 3
    for split in ("train", "test", "train"):  # the third time as it is remembered
        assert load_images(name, split, 3).channels == expected
        assert open_source(name, split, 3, 4).channels == expected
    assert load_images(name, "test", 3, channels=1).images.shape[1] == 1
    assert len(list((tmp_path / "cache/channels").iterdir())) == 1


def test_damaged_files_and_rows_are_named(tmp_path):
    rows = [encoded(), b"no picture", None, encoded()[:-25]]
    path = tmp_path / "train.parquet"
    write(path, {"image": rows, "label": [0] * 4}, row_group_size=2)
    files = ParquetFiles(tmp_path, "train")
    assert files.channels == 3
    for i, message in ((1, "row group 0, row 1 is no image"), (2, "row group 1, row 0: no image"),
                       (3, "row group 1, row 1 is damaged")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"train\.parquet, {message}"):
            files.open(i)
    whole = path.read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"cannot be read.*train\.parquet"):
            ParquetFiles(tmp_path, "train")
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[len(whole) // 2 + 4 :])
    with pytest.raises(ValueError, match="cannot be read"):
        ParquetFiles(tmp_path, "train").open(0)


def test_a_path_may_hold_a_question_mark(tmp_path):
    write(tmp_path / "why?" / "train.parquet", {"image": PLAIN, "a": [0] * 4, "b": [0, 1, 2, 3]})
    assert len(load_images(f"parquet:{tmp_path}/why??label=b", "train").classes) == 4


def test_paths_alone_are_no_images(tmp_path):
    column = [{"bytes": None, "path": "a.png"}] * 2
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write(tmp_path / "train.parquet", {"image": pa.array(column, kind), "label": [0, 1]})
    with pytest.raises(ValueError, match="row group 0, row 0: no image bytes"):
        load_images(f"parquet:{tmp_path}", "train")


def test_a_set_in_memory_is_the_set_that_is_streamed(tmp_path):
    images = [encoded((i, 2 * i, 3 * i)) for i in range(20)]
    write(tmp_path / "train.parquet", {"image": images, "label": list(range(4)) * 5},
          row_group_size=3)  # fmt: skip
    name = f"parquet:{tmp_path}"
    for n in (None, 7):
        lazy, held = open_source(name, "train", n, 4), load_images(name, "train", n, image_size=4)
        assert torch.equal(lazy.read(range(len(lazy))), held.images)
        assert np.array_equal(lazy.labels, held.labels) and lazy.classes == held.classes
