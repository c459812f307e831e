"""Raw long videos to multi-resolution WebDataset shards: the code that needs neither Beam nor torch.

`lvg_data.open(DATASET)` reads a finished dataset, see `lvg_data.reader`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvg_data.reader import open_dataset as open

__all__ = ["open"]


def __getattr__(name: str) -> Any:
    """Loads the reader, and with it numpy, only for those who open a dataset."""
    if name != "open":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lvg_data.reader import open_dataset

    return open_dataset
