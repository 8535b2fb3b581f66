"""The two training loops, and what surrounds them."""

# Modules on which trained weights depend, for the keys of cached stages.
SOURCES = (
    "training.tokenizer", "training.autoregressive", "training.inference", "training.run",
    "training.recipe", "data.order", "training.average", "training.losses",
    "training.checkpoints", "training.distributed",
)  # fmt: skip
