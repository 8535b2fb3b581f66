"""vcqlib: the entropy cliff of discrete image tokenizers, and variable codebooks.

Names are loaded on first use, so that `import vcqlib` is fast and does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "cliff_position": "theory.cliff",
    "cumulative_capacity": "theory.cliff",
    "steepest_entropy": "theory.cliff",
    "expected_conditional_entropy": "theory.cliff",
    "expected_distinct_prefixes": "theory.cliff",
    "codebook_sizes": "theory.schedules",
    "conditional_entropy": "entropy.estimates",
    "ConditionalEntropy": "entropy.estimates",
    "diagnose": "entropy.diagnosis",
    "VariableCodebookQuantizer": "models.quantizer",
    "Tokenizer": "models.tokenizer",
    "TokenizerConfig": "models.tokenizer",
    "ARModel": "models.autoregressive",
    "ARConfig": "models.autoregressive",
    "Configuration": "study.configuration",
    "Experiment": "study.experiment",
    "load_pretrained": "study.pretrained",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vcqlib' has no attribute {name!r}")
    from .extras import needed

    with needed():
        value = getattr(import_module(f"vcqlib.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
