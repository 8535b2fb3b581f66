"""Files that are whole or absent, and that know when a byte of them has changed.

Written to a temporary name, then renamed. Records and tensors carry a format number and a SHA-256
of their own content, so that a flipped byte is an error that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checks import one_line

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of records and tensor files; raised when an older reader would misread them
SEAL, VERSION = "sha256", "format"
PATIENCE = 10.0  # seconds: the data workers of a killed process hold its folder for up to 5


def user_path(path: str | Path, instead: str = "give the path in full") -> Path:
    """`path` with ~ expanded; ValueError, which says what to do `instead`, if there is no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: this user has no home directory for ~: {instead}") from None


def existing_path(path: str | Path) -> Path:
    """As `user_path`; FileNotFoundError if there is nothing."""
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return path


@contextmanager
def scratch_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, gone at the end unless it was renamed.

    Raises OSError with one line that names `path` if there is no space or no permission.
    """
    path = Path(path)
    real = Path(os.path.realpath(path))  # a link stays a link
    place = Path(tempfile.gettempdir()) if _is_device(path) else real.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=place)
    except OSError as error:
        raise Unwritten(path, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    except Unwritten:  # another file's
        raise
    except Exception as error:  # safetensors has its own type for a full disk
        ours = isinstance(error, OSError) and error.filename in (None, name, temporary)
        if ours or "SafetensorError" in type(error).__name__:
            raise Unwritten(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """As `scratch_path`; the file is renamed to `path` if the block succeeds."""
    with scratch_path(path) as temporary:
        yield temporary
        put(temporary, Path(path))


def put(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file, readable for all; copy it into a pipe or a terminal."""
    if _is_device(path):
        with open(temporary, "rb") as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target)
        return
    temporary.chmod(0o644)
    temporary.replace(os.path.realpath(path))


def _is_device(path: Path) -> bool:
    """Whether this takes bytes but is no file to replace: `/dev/stdout`, a pipe, a terminal."""
    special = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return path.exists() and (special or not (path.is_file() or path.is_dir()))


class Unwritten(OSError):
    """A file could not be written; what was there before is kept."""

    def __init__(self, path: Path, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or one_line(error)
        super().__init__(f"{path} could not be written ({reason}); what was there before is kept")
        self.errno = getattr(error, "errno", None)


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Keep a folder, made if need be, for this process; the lock ends with it, however it ends.

    A thread that has it may take it again. Raises ValueError, saying who has it, after PATIENCE
    seconds.
    """
    from filelock import FileLock, Timeout

    path = Path(folder).resolve() / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, is_singleton=True)
    outermost = not lock.is_locked
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        holder = path.read_text(encoding="utf-8") if path.exists() else ""
        raise ValueError(
            f"{folder} is in use by {holder or 'another process'}: wait, or take another folder"
        ) from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        with suppress(OSError):  # a full disk: the lock holds, and does not say whose it is
            path.write_text(f"process {os.getpid()} on {platform.node()} since {since}")
        yield
    finally:
        if outermost:
            with suppress(OSError):
                path.unlink()
        lock.release()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as sorted, indented JSON; NaN and infinity are refused."""
    text = _text(value)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON; a damaged file is a ValueError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; ValueError that names it if it does not.

    Tags, which could run code, are refused.
    """
    import yaml

    try:
        content = yaml.safe_load(existing_path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, not {type(content).__name__}")
    return content


def _text(value: Any) -> str:
    """Sorted and indented; a list of numbers takes one line."""
    # no string holds a raw line break, so a match begins at a list
    lists = re.compile(r'\[\n([^][{}"]*)\]')
    return lists.sub(lambda found: f"[{' '.join(found[1].split())}]", _lines(value))


def _lines(value: Any) -> str:
    """What the SHA-256 is taken of: every entry on a line of its own."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def rounded(value: Any, digits: int) -> Any:
    """Lists and mappings with every float to so many significant digits: what a record keeps."""
    if isinstance(value, Mapping):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def write_record(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its format number and the SHA-256 of all the rest.

    Raises ValueError if it has an entry of its own under one of these names.
    """
    if taken := {VERSION, SEAL} & value.keys():
        raise ValueError(f"{path}: {min(taken)!r} is the record's own entry: name it otherwise")
    value = {**value, VERSION: FORMAT}
    write_json(path, {**value, SEAL: _digest(value)})


def read_record(path: str | Path) -> dict[str, Any]:
    """What `write_record` wrote, without format and SHA-256.

    Raises ValueError naming the file if a byte of it changed, or it has another format. Records
    of before 2026-11-27 have every number of a list on a line of its own.
    """
    raw = Path(path).read_bytes()
    value = read_json(path)
    check_format(path, value)
    layouts = {layout(value).encode() for layout in (_text, _lines)}
    if raw not in layouts or value.pop(SEAL, None) != _digest(value):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the recorded one")
    del value[VERSION]
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(_lines(value).encode()).hexdigest()


def check_format(path: str | Path, value: Any, version: int = FORMAT) -> None:
    """Refuse a record of another format number, with the way out."""
    found = value.get(VERSION) if isinstance(value, dict) else None
    if found != version or isinstance(found, bool):
        newer = isinstance(found, int) and found > version
        out = "update vcqlib" if newer else "remove it and compute it again"
        raise ValueError(f"{path} has format {found!r}, this vcqlib reads {version}: {out}")


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    info: Mapping[str, str] | None = None,
    version: int = FORMAT,
) -> None:
    """Write tensors as safetensors, with `info`, a format number and a SHA-256 in the header."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {**(info or {}), VERSION: str(version)}
    header[SEAL] = _tensor_digest(whole, header)
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata=header)
        _sort_header(temporary)


def _sort_header(path: Path) -> None:
    """Bring the header, which safetensors writes in any order, into one: equal files are equal."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        file.seek(8)
        file.write(text.encode().ljust(size))


def load_tensors(
    path: str | Path, version: int | None = FORMAT
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the `info` of a file that `save_tensors` wrote.

    With version None the format number is left in `info` for the caller to judge.

    Raises ValueError naming the file if it is no such file, a byte changed, or its format is
    another; FileNotFoundError if there is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            info = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, PermissionError):
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from None
    if not {SEAL, VERSION} & info.keys():
        raise ValueError(f"{path} has no format number and no SHA-256: not a file of this vcqlib")
    if info.pop(SEAL, None) != _tensor_digest(tensors, info):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the recorded one")
    if version is not None:
        number = info.pop(VERSION, "")
        check_format(path, {VERSION: int(number) if number.isdecimal() else number}, version)
    return tensors, info


def load_foreign(path: str | Path) -> dict[str, Tensor]:
    """The tensors of someone else's `torch.save` file, and nothing else that it may hold.

    Raises ValueError naming the file if it is damaged or holds more than tensors;
    FileNotFoundError if there is none.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # a damaged file fails in as many ways as there are readers
        raise ValueError(f"{path} is damaged, or no file of weights alone") from None


def tensors_digest(path: str | Path) -> str:
    """The SHA-256 in the header of a file that `save_tensors` wrote: equal for equal tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {})[SEAL]
    except (SafetensorError, KeyError):
        raise ValueError(f"{path} is damaged: its header gives no SHA-256") from None


def _tensor_digest(tensors: Mapping[str, Tensor], info: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes, values and the header's other entries."""
    import torch

    seen = hashlib.sha256(_text(dict(info)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        seen.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        seen.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of the bytes of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
