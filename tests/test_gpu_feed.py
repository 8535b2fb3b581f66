"""What is read from the disk, counted: each group once, each picture decoded once."""

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vcqlib.data.batches import Batches, ImageSource
from vcqlib.data.readers import WINDOW, Readers

ROWS = 10  # of a group


class Files:
    """Pictures in groups, as a Parquet set has them; counts how often one is opened."""

    classes, channels = ("a",), 3

    def __init__(self, n):
        self.labels, self.groups = np.zeros(n, np.int64), np.arange(n) // ROWS
        self.opened = []

    def open(self, i):
        self.opened.append(i)
        return Image.new("RGB", (20, 16), (i % 256, 0, 0))


def read(n, batch, processes, workers, accumulate, steps, start=0):
    """Rows of each part by reader, and how many rows the readers fetch, a group at a time."""
    source = ImageSource(Files(n), 8)
    readers = Readers(batch, accumulate, processes, workers)
    fetched, used = 0, []

    def order(seed, epoch):
        return source.order(seed, epoch, readers)

    for rank in range(processes):
        held = [OrderedDict() for _ in range(workers)]  # as the readers' own cache keeps them
        plan = Batches(n, batch, 3, start, steps, accumulate, rank, processes, order)
        for number, part in enumerate(plan):
            used.append(part.rows)
            mine = held[number % workers]
            for group in (part.rows // ROWS).tolist():
                fetched += ROWS * (group not in mine)
                mine[group] = mine.pop(group, True)
                if len(mine) > WINDOW:
                    mine.popitem(last=False)
    return torch.cat(used), fetched


@pytest.mark.parametrize(
    ("processes", "workers", "accumulate"), [(8, 16, 1), (8, 4, 4), (2, 3, 2), (1, 8, 1)]
)
def test_readers_fetch_hardly_more_than_is_used(processes, workers, accumulate):
    n, batch = 128 * 40 * ROWS, 256
    rows, fetched = read(n, batch, processes, workers, accumulate, n // batch)
    assert len(rows.unique()) == len(rows) == n // batch * batch  # each picture once an epoch
    assert fetched <= 1.2 * len(rows)


def test_without_groups_of_their_own_readers_fetch_many_times_as_much():
    """The count can fail: the order for one reader, read by eight processes of four workers."""
    n, source = 32 * 20 * ROWS, None
    source = ImageSource(Files(n), 8)
    order = Readers(256, 1, 1, 1).dealt(source.files.groups, 3, 0)
    rows = order[: n // 256 * 256].view(-1, 8, 32)  # step, process, row
    groups = {(rank, step % 4, int(g)) for step in range(len(rows)) for rank in range(8)
              for g in rows[step, rank] // ROWS}  # fmt: skip
    assert len(groups) * ROWS > 4 * n


def test_a_resumed_run_sees_the_rows_that_it_would_have_seen():
    arguments = 640 * ROWS, 256, 2, 3, 2
    whole, _ = read(*arguments, steps=20)
    late, _ = read(*arguments, steps=20, start=7)
    each = len(whole) // 2
    assert torch.equal(torch.cat([whole[7 * 128 : each], whole[each + 7 * 128 :]]), late)


def test_an_epoch_is_a_permutation_even_where_groups_do_not_divide():
    groups = np.repeat(np.arange(37), np.arange(37) % 5 + 1)
    for epoch in (0, 1):
        order = Readers(8, 1, 2, 3).dealt(groups, 0, epoch)
        assert sorted(order.tolist()) == list(range(len(groups)))
    assert not torch.equal(order, Readers(8, 1, 2, 3).dealt(groups, 0, 0))


def test_the_ten_crops_of_a_picture_decode_it_once():
    files = Files(7)
    source = ImageSource(files, 8, "ten")
    crops = source.read(range(70))
    assert crops.shape == (70, 3, 8, 8) and files.opened == list(range(7))
    assert crops[:, 0].flatten(1).float().mean(1).tolist() == [float(i // 10) for i in range(70)]
    some = SimpleNamespace(rows=[5, 25, 26])
    assert source.read(some.rows).shape[0] == 3 and files.opened[7:] == [0, 2]
