"""What training asks of the processor: how it multiplies, what memory it keeps, a compiler."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


@contextmanager
def fast_products() -> Iterator[None]:
    """Products of fp32 matrices by oneDNN on processors with AVX-512, all in fp32.

    MKL, which torch calls otherwise, uses half of the width of a processor that is not Intel's.
    torch turns to oneDNN if bf16 is allowed, for which oneDNN has no kernels without AMX: where
    there is AMX the precision would change, and nothing is done.
    """
    matmul, capability = torch.backends.mkldnn.matmul, torch.backends.cpu.get_cpu_capability()
    before = matmul.fp32_precision
    if capability == "AVX512" and not torch.cpu._is_amx_tile_supported():
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def keep_memory() -> None:
    """Keep up to 512 MiB of what is freed (glibc): to ask the system anew in each step is slow."""
    with suppress(OSError, AttributeError, TypeError):  # no glibc: nothing to set
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**29)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, its largest value


def need_compiler(device: torch.device) -> None:
    """Raise ValueError if torch.compile has no compiler to call."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++", "cl"]
    if device.type == "cuda":
        names = [os.environ.get("CC"), "cc", "gcc", "clang", "cl"]  # Triton builds its launchers
    if not any(name and shutil.which(name) for name in names):
        raise ValueError("compile=True needs a C++ compiler (g++ or clang++) and found none: "
                         "install one, or leave compile off: the model is the same")  # fmt: skip
