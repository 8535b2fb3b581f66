"""Images read as they are needed: the right pixels, in an order that no worker changes."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vcqlib.data.batches import Batches, Part, open_images, open_source, stream
from vcqlib.data.image_sets import load_images
from vcqlib.data.parquet import ParquetFiles

N, SIZE = 40, 12


def picture(i, width=16, height=SIZE):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = i, np.arange(width) * 5
    return Image.fromarray(pixels)


def encoded(image):
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(folder, name, ids, rows=4, plain=False):
    images = [encoded(picture(i)) for i in ids]
    column = images if plain else [{"bytes": b, "path": f"{i}"} for i, b in enumerate(images)]
    table = pa.table({"image": column, "label": pa.array([i % 4 for i in ids])})
    features = {"info": {"features": {"label": {"names": ["a", "b", "c", "d"]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name, row_group_size=rows)


@pytest.fixture
def parquet(tmp_path):
    write_parquet(tmp_path / "p/data", "train-00000-of-00002.parquet", range(24))
    write_parquet(tmp_path / "p/data", "train-00001-of-00002.parquet", range(24, N))
    write_parquet(tmp_path / "p/data", "validation-00000-of-00001.parquet", range(100, 110))
    return f"parquet:{tmp_path / 'p'}"


@pytest.fixture
def folder(tmp_path):
    for i in range(N):
        path = tmp_path / f"f/train/class{i % 4}/{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    (tmp_path / "f/val/class0").mkdir(parents=True)
    picture(0).save(tmp_path / "f/val/class0/0.png")
    return f"folder:{tmp_path / 'f'}"


def number(images):
    """Which picture it is: its red value."""
    return images[:, 0, 0, 0].tolist()


def test_parquet_holds_images_labels_classes_and_splits(parquet, tmp_path):
    train = open_source(parquet, "train", image_size=SIZE)
    assert len(train) == N and train.classes == ("a", "b", "c", "d") and train.channels == 3
    assert train.labels.tolist() == [i % 4 for i in range(N)]
    assert number(train.read(range(N))) == list(range(N))
    test = load_images(parquet, "test", image_size=SIZE, at_most=6)
    assert len(test) == 6 and set(number(test.images)) <= set(range(100, 110))
    write_parquet(tmp_path / "q/test", "0.parquet", range(5), plain=True)
    assert len(ParquetFiles(tmp_path / "q", "test").labels) == 5


def test_an_epoch_of_parquet_is_a_permutation_that_stays_near_its_row_groups(tmp_path):
    write_parquet(tmp_path, "train.parquet", [0] * 384)
    files = ParquetFiles(tmp_path, "train")
    a, b, again = files.order(0, 0), files.order(0, 1), files.order(0, 0)
    assert sorted(a.tolist()) == list(range(384)) and torch.equal(a, again)
    assert not torch.equal(a, b) and not torch.equal(a, files.order(1, 0))
    groups = a.view(-1, 64) // 4  # 16 groups of 4 rows make a window
    assert all(len(window.unique()) == 16 for window in groups[:6])
    assert not torch.equal(a.sort().values, a)


def test_a_folder_is_streamed_as_it_would_be_loaded(folder):
    data = load_images(folder, "train", image_size=SIZE)
    source = open_source(folder, "train", image_size=SIZE)
    assert torch.equal(source.read(range(N)), data.images)
    assert torch.equal(torch.from_numpy(source.labels), data.labels)
    some, few = open_source(folder, "train", 10, SIZE), load_images(folder, "train", 10,
                                                                    image_size=SIZE)  # fmt: skip
    assert torch.equal(some.read(range(10)), few.images)
    assert sorted(some.order(0, 0).tolist()) == list(range(10))
    assert isinstance(open_images(folder, None, SIZE), type(data))  # small: in memory


@pytest.mark.parametrize("name", ["parquet", "folder"])
def test_workers_and_a_restart_change_nothing(name, request):
    source = open_source(request.getfixturevalue(name), "train", None, 8, "random")
    plan = Batches(N, 8, seed=3, start=0, steps=8, accumulate=2, order=source.order)
    alone = list(stream(source, plan, 3))
    assert len(alone) == 16 and alone[0].shape == (4, 3, 8, 8)
    shared = list(stream(source, plan, 3, workers=2))
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    later = Batches(N, 8, seed=3, start=5, steps=8, accumulate=2, order=source.order)
    rest = list(stream(source, later, 3, workers=1))
    assert all(torch.equal(a, b) for a, b in zip(alone[10:], rest, strict=True))
    epoch = torch.cat(alone[:10])
    assert sorted(number(epoch)) == list(range(N))  # every picture once
    again = {n: x for n, x in zip(number(torch.cat(alone[10:])), torch.cat(alone[10:]),
                                  strict=True)}  # fmt: skip
    before = {n: x for n, x in zip(number(epoch), epoch, strict=True) if n in again}
    assert any(not torch.equal(before[n], again[n]) for n in again)  # other crops in epoch 2


def test_ten_crops_are_corners_centre_and_their_mirrors(folder):
    size = 8
    source = open_source(folder, "train", None, size, "ten")
    assert len(source) == 10 * N and source.labels[:12].tolist() == [0] * 12
    crops = source.read(range(10)).float()
    green = crops[:, 1, 0]  # rises with the column of the wide picture
    for j in range(5):
        assert torch.equal(crops[j], crops[j + 5].flip(-1))
    assert green[0, 0] < green[4, 0] < green[1, 0]  # left, centre, right
    assert sorted(source.order(0, 0).tolist()) == list(range(10 * N))


def test_random_crops_are_mirrored_half_of_the_time(folder):
    source = open_source(folder, "train", None, 8, "random")
    rising = [
        (x[1, 0, -1] > x[1, 0, 0]).item() for s in range(5) for x in source.read(range(N), (s,))
    ]
    assert 0.35 < np.mean(rising) < 0.65


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_whoever_decodes_it(tmp_path, workers):
    write_parquet(tmp_path, "train.parquet", range(8))
    table = pq.read_table(tmp_path / "train.parquet")
    rows = table.to_pylist()
    rows[6]["image"]["bytes"] = rows[6]["image"]["bytes"][:60]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=4)
    with pytest.raises(ValueError, match=r"^\S*train.parquet, row group 1, row 2 is damaged"):
        source = open_source(f"parquet:{tmp_path}", "train", None, 8)
        list(stream(source, [Part(0, torch.arange(8))], workers=workers))


def test_wrong_sources_are_refused(tmp_path, parquet):
    with pytest.raises(ValueError, match="give image_size"):
        open_source(parquet, "train")
    with pytest.raises(ValueError, match="n_images=41 but .* has 40 images"):
        open_source(parquet, "train", 41, 8)
    with pytest.raises(ValueError, match="no Parquet file whose name starts with train"):
        (tmp_path / "empty").mkdir()
        open_source(f"parquet:{tmp_path / 'empty'}", "train", None, 8)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_source("parquet:/no/such", "train", None, 8)
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "p/data/train-9.parquet")
    with pytest.raises(ValueError, match="train-9.parquet: needs a column of image bytes"):
        open_source(parquet, "train", None, 8)
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "other/train.parquet")
    with pytest.raises(ValueError, match="needs a column of image bytes and one of labels"):
        open_source(f"parquet:{tmp_path / 'other'}", "train", None, 8)
    with pytest.raises(ValueError, match="unknown crop"):
        open_source("digits", "train", 5, crop="middle")


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 6 does not divide into 2 processes x 2"):
        Batches(6, 8, 0, 0, 1, accumulate=2, processes=2)


def test_processes_share_each_batch_between_them():
    whole = [p.rows for p in Batches(20, 8, 0, 0, 4)]
    parts = [list(Batches(20, 8, 0, 0, 4, accumulate=2, rank=r, processes=2)) for r in (0, 1)]
    for step, rows in enumerate(whole):
        seen = [p.rows for rank in parts for p in rank if p.step == step]
        assert sorted(torch.cat(seen).tolist()) == sorted(rows.tolist()) and len(seen) == 4
