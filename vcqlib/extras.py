"""Which optional part of vcqlib brings a package that is not installed."""

from __future__ import annotations

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
}


def missing(error: ModuleNotFoundError) -> ImportError:
    """The error to raise in place of `error`: one line that names the extra, where there is one."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return error
    way = f"pip install 'vcqlib[{EXTRAS[package]}]'"
    return ImportError(f"this needs {package}, which is not installed: {way}", name=package)
