"""Reading anyone's token files as one integer matrix [N, T], with labels where they have them.

| path | what is read |
|---|---|
| `codes.npy` | one matrix [N, T]; memory-mapped |
| `codes.npz` | its matrix named `codes` or `tokens`, or its only one; `labels` if there |
| `codes.parquet` | a column of lists (`tokens`, `codes`, or the only one), or a column a position |
| `codes.jsonl` | RAR and TiTok: one `{"class_id": 3, "tokens": [...]}` a line |
| a folder of `.npy` | LlamaGen: a file an image, [1, crops, T], in numeric order; a row a crop |
| a folder with `codes.json` | the store of `vcqlib.data.code_store` |

Nothing is unpickled. A file that is damaged, cut short, or that would unfold to more than the
memory of this machine is refused with a ValueError of one line that names it.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..progress import bar

LABEL_NAMES = ("labels", "label", "class_id", "class_ids", "y")
CODE_NAMES = ("codes", "tokens")
SUFFIXES = (".npy", ".npz", ".parquet", ".jsonl")
ROWS = 1 << 13  # rows of a Parquet file decoded at once
PIECE = 1 << 21  # tokens gathered before they are narrowed to 16 or 32 bits

Blocks = Iterator[tuple[object, np.ndarray]]  # (name for errors, tokens [m, T])


@dataclass(frozen=True)
class Tokens:
    """codes: [N, T], any integer type; labels: [N] or None; sizes: K_1..K_T if recorded."""

    codes: np.ndarray
    labels: np.ndarray | None = None
    sizes: tuple[int, ...] | None = None


def read_tokens(path: str | Path) -> Tokens:
    """Read tokens in any of the formats above.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: damaged, ambiguous, ragged, not integers, or too large; one line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        return _read_folder(path)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower(), _read_jsonl if path.suffix in _JSONL else None)
    if reader is None:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(SUFFIXES)}")
    tokens = reader(path)
    if tokens.codes.ndim != 2:
        raise ValueError(f"{path}: needs a matrix [N, T], holds shape {tokens.codes.shape}")
    if tokens.labels is not None and len(tokens.labels) != len(tokens.codes):
        counts = f"{len(tokens.labels)} labels for {len(tokens.codes)} sequences"
        raise ValueError(f"{path}: {counts}")
    return tokens


def read_labels(path: str | Path, n: int) -> np.ndarray:
    """Read n labels: `.npy` or `.npz` of shape [n], or a folder of one `.npy` per image.

    A folder or file with fewer labels is spread evenly if n is a multiple (crops of one image).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        labels = _folder_labels(path)
    elif path.suffix == ".npz":
        named = read_npz(path)
        if len(named) != 1:
            raise ValueError(f"{path}: needs one array of labels, holds {sorted(named)}")
        labels = next(iter(named.values()))
    else:
        labels = read_npy(path)
    if labels.ndim != 1 or not len(labels) or n % len(labels):
        raise ValueError(f"{path}: labels of shape {labels.shape} do not fit {n} sequences")
    return np.repeat(labels, n // len(labels))


def read_npy(path: str | Path) -> np.ndarray:
    """Memory-map a `.npy` file, after checking that the file is as long as its header says."""
    path = Path(path)
    with open(path, "rb") as file:
        shape, fortran, dtype = _npy_header(file, path)
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    needed = offset + _bytes(shape, dtype)
    if size < needed:
        raise ValueError(f"{path}: cut short: {size} bytes, its header promises {needed}")
    if 0 in shape:
        raise ValueError(f"{path}: empty: shape {shape}")
    order = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", offset=offset, shape=shape, order=order)


def _npy_header(file: IO[bytes], name: object) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(file)
        else:
            header = np.lib.format.read_array_header_2_0(file)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{name}: not a .npy array: {_line(error)}") from None
    if header[2].hasobject:
        raise ValueError(f"{name}: holds Python objects; unpickling is refused: save integers")
    return header


def _read_npy(path: Path) -> Tokens:
    return Tokens(read_npy(path))


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz`, each held against its header and the memory before it is read.

    Raises ValueError naming the file if it is damaged, holds objects, or would not fit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for info in archive.infolist():
                name = f"{path}:{info.filename}"
                with archive.open(info) as file:
                    shape, fortran, dtype = _npy_header(file, name)
                    needed = _bytes(shape, dtype)
                    if file.tell() + needed != info.file_size:
                        raise ValueError(f"{name}: cut short or padded: its header does not fit")
                    _check_memory(needed, name)
                    flat = np.frombuffer(file.read(needed), dtype)
                array = flat.reshape(shape, order="F" if fortran else "C")
                arrays[info.filename.removesuffix(".npy")] = array
            return arrays
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path}: damaged .npz: {_line(error)}") from None
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{path}: damaged .npz: {_line(error)}") from None  # zlib.error


def _read_npz(path: Path) -> Tokens:
    arrays = read_npz(path)
    matrices = {name: a for name, a in arrays.items() if a.ndim == 2}
    named = [name for name in CODE_NAMES if name in matrices] or list(matrices)
    if len(named) != 1 and not set(named) & set(CODE_NAMES):
        held = {name: a.shape for name, a in arrays.items()}
        raise ValueError(f"{path}: needs one matrix, or one named `codes`; holds {held}")
    labels = next((arrays[name] for name in LABEL_NAMES if name in arrays), None)
    return Tokens(matrices[named[0]], labels)


def _read_folder(path: Path) -> Tokens:
    if (path / "codes.json").exists():
        from .code_store import open_codes

        store = open_codes(path)
        return Tokens(store.codes, store.labels, store.sizes)
    images: list[int] = []

    def blocks() -> Blocks:
        for file in bar(_numbered(path), "reading", delay=2):
            one = np.asarray(read_npy(file))
            one = one.reshape(-1, one.shape[-1] if one.ndim else 1)
            images.append(len(one))
            yield file, one

    codes = _gather(blocks(), path)
    beside = path.with_name(path.name.removesuffix("_codes") + "_labels")
    if beside == path or not beside.is_dir():
        return Tokens(codes)
    labels = _folder_labels(beside)
    if len(labels) != len(images):
        raise ValueError(f"{beside}: {len(labels)} labels for the {len(images)} files of {path}")
    return Tokens(codes, np.repeat(labels, images))


def _folder_labels(path: Path) -> np.ndarray:
    return np.concatenate([read_npy(file).reshape(-1) for file in _numbered(path)])


def _numbered(path: Path) -> list[Path]:
    """The `.npy` files of a folder: by number if they are numbered, else by name."""
    files = sorted(path.glob("*.npy"))
    if not files:
        raise ValueError(f"{path}: no .npy files in this folder")
    if all(file.stem.isdecimal() for file in files):
        files.sort(key=lambda file: int(file.stem))
    return files


_JSONL = (".jsonl", ".json", ".ndjson")


def _read_jsonl(path: Path) -> Tokens:
    labels: list[Any] = []

    def blocks() -> Blocks:
        with open(path, "rb") as file:
            for number, line in enumerate(bar(file, "reading", unit=" lines", delay=2), start=1):
                if not line.strip():
                    continue
                name = f"{path}, line {number}"
                try:
                    record = json.loads(line)
                    tokens = np.array(record["tokens"]).reshape(1, -1)
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    what = f"no {error}" if isinstance(error, KeyError) else _line(error)
                    raise ValueError(f"{name}: {what}") from None
                labels.append(record.get("class_id"))
                yield name, tokens

    codes = _gather(blocks(), path)
    missing = sum(label is None for label in labels)
    if missing and missing < len(labels):
        raise ValueError(f"{path}: {missing} of {len(labels)} sequences lack class_id")
    return Tokens(codes, None if missing else np.array(labels))


def _read_parquet(path: Path) -> Tokens:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow (pip install pyarrow)") from None
    labels: list[np.ndarray] = []
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns, label = _parquet_columns(schema, path)
            wanted = [*columns, *([label] if label else [])]
            meta = file.metadata
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            leaves = sum(g.column(j).num_values for g in groups for j in range(g.num_columns))
            _check_memory(2 * leaves, path)  # two bytes a token is the least that is kept

            def blocks() -> Blocks:
                batches = file.iter_batches(ROWS, columns=wanted)
                row = 0
                for batch in bar(batches, "reading", total=-(-meta.num_rows // ROWS), delay=2):
                    if label:
                        labels.append(batch.column(label).to_numpy(zero_copy_only=False))
                    name = f"{path}, rows from {row}"
                    row += len(batch)
                    yield name, _batch_tokens(name, [batch.column(c) for c in columns])

            codes = _gather(blocks(), path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged Parquet: {_line(error)}") from None
    return Tokens(codes, np.concatenate(labels) if labels else None)


def _batch_tokens(name: str, columns: list[Any]) -> np.ndarray:
    """The tokens of one batch, from one column of lists or a column for each position."""
    if hasattr(columns[0], "flatten") and hasattr(columns[0], "value_lengths"):
        lengths = columns[0].value_lengths().unique().to_pylist()
        if len(lengths) != 1:
            raise ValueError(f"{name}: sequences of different lengths: {lengths[:5]}")
        parts = [columns[0].flatten()]
    else:
        parts, lengths = columns, [len(columns)]
    if columns[0].null_count or any(part.null_count for part in parts):
        raise ValueError(f"{name}: has missing tokens (null)")
    arrays = [part.to_numpy(zero_copy_only=False) for part in parts]
    return np.stack(arrays, axis=-1).reshape(-1, lengths[0])


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _parquet_columns(schema: Any, path: Path) -> tuple[list[str], str | None]:
    """The token column(s) and the label column."""
    import pyarrow as pa

    label = next((name for name in LABEL_NAMES if name in schema.names), None)
    lists = [field.name for field in schema if _is_list(pa, field.type)]
    lists = [name for name in CODE_NAMES if name in lists][:1] or lists
    if len(lists) > 1:
        raise ValueError(f"{path}: needs one column of lists, or one named `tokens`; has {lists}")
    whole = [f.name for f in schema if pa.types.is_integer(f.type) and f.name != label]
    if not (lists or whole):
        raise ValueError(f"{path}: no column of integers or lists of integers in {schema.names}")
    return lists or whole, label


def _gather(blocks: Blocks, path: Path) -> np.ndarray:
    """Stack named blocks [m, T] of equal T into one matrix, narrowed piece by piece."""
    pieces: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    length = kept = entries = 0

    def narrow() -> None:
        nonlocal kept, entries
        piece = np.concatenate(waiting)
        waiting.clear()
        if int(piece.min()) >= 0:
            fits = [d for d in (np.uint16, np.uint32) if int(piece.max()) <= np.iinfo(d).max]
            piece = piece.astype(fits[0]) if fits else piece
        pieces.append(piece)
        kept, entries = kept + piece.nbytes, 0
        _check_memory(2 * kept, path)  # pieces and, at the end, their concatenation

    for name, block in blocks:
        if block.dtype.kind not in "iu":
            raise ValueError(f"{name}: tokens must be integers, got {block.dtype}")
        length = length or block.shape[1]
        if block.shape[1] != length or not length:
            raise ValueError(f"{name}: {block.shape[1]} tokens where others have {length}")
        waiting.append(block)
        entries += block.size
        if entries >= PIECE:
            narrow()
    if waiting:
        narrow()
    if not pieces:
        raise ValueError(f"{path}: holds no sequences")
    return np.concatenate(pieces)


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    count = 1
    for extent in shape:  # Python integers: a forged shape cannot overflow
        count *= int(extent)
    return count * dtype.itemsize


def _check_memory(needed: int, name: object) -> None:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, AttributeError, OSError):
        return
    if needed > memory:
        raise ValueError(
            f"{name}: unfolds to {needed / 2**30:.1f} GiB, this machine has {memory / 2**30:.1f}; "
            "store it as .npy, which is read in place"
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
