"""Which optional part of vcqlib brings a package that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# import name -> extra in pyproject.toml; a test holds the two and the library's imports together
EXTRAS = {
    "torch": "models",
    "torchvision": "models",
    "sklearn": "models",
    "safetensors": "models",
    "filelock": "models",
    "yaml": "models",
    "rich": "models",
    "pyarrow": "images",
    "dask": "distributed",
    "tiktoken": "text",
    "tokenizers": "text",
    "torch_fidelity": "metrics",
    "wandb": "wandb",
}


@contextmanager
def needed() -> Iterator[None]:
    """Inside, a package that is not installed is an ImportError that names the extra, if any."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        way = f"pip install 'vcqlib[{EXTRAS[package]}]'"
        text = f"this needs {package}, which is not installed: {way}"
        raise ImportError(text, name=package) from None
