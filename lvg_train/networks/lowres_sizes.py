"""Which frame sizes and widths the two networks of the low-res stage take."""

from __future__ import annotations

LONG_EDGES = (16, 32, 64, 128)


def check_frame_size(height: int, width: int) -> int:
    """The long edge of a frame.

    Raises:
      ValueError: the low-res stage does not take this size.
    """
    edge = max(height, width)
    if edge not in LONG_EDGES or min(height, width) < 1:
        raise ValueError(
            f"the low-res stage takes frames with a long edge of {', '.join(map(str, LONG_EDGES))} pixels,"
            f" got {height}x{width}"
        )
    return edge


def scale_channels(channels: int, channel_scale: float) -> int:
    """`channels` of the paper's network in one that is `channel_scale` as wide, at least 1."""
    return max(1, round(channels * channel_scale))
