"""What both networks of the super-res stage share: which frame sizes they take, and their precision."""

from __future__ import annotations

import torch

MIN_WIDTH, MAX_WIDTH = 8, 1024
NUM_REDUCED_RESOLUTIONS = (
    4  # the highest ones; Karras et al. 2020, "Training GANs with Limited Data", appendix D
)

# precision policy -> dtype of the highest resolutions on CUDA; on the CPU it is always float32
REDUCED_DTYPES = {"reference": torch.float32, "fast": torch.float16}


def check_frame_sizes(low_size: tuple[int, int], high_size: tuple[int, int]) -> None:
    """Both sizes are (height, width).

    Raises:
      ValueError: the super-res stage does not take these sizes, alone or together.
    """
    for name, (height, width) in (("low-res", low_size), ("high-res", high_size)):
        if not 1 <= height <= width or not MIN_WIDTH <= width <= MAX_WIDTH or width & (width - 1):
            raise ValueError(
                f"the super-res stage takes {name} frames that are square or wide, and whose width is a power"
                f" of two from {MIN_WIDTH} to {MAX_WIDTH}; got {height}x{width}"
            )
    (low_height, low_width), (height, width) = low_size, high_size
    if low_width >= width or low_height * width != height * low_width:
        raise ValueError(
            "the high-res frames must be larger than the low-res ones by one factor,"
            f" got {low_height}x{low_width} and {height}x{width}"
        )


def dtype_at(resolution: int, long_edge: int, precision: str, device: torch.device) -> torch.dtype:
    """The dtype of activations at `resolution`, of a network for frames of `long_edge` pixels.

    Raises:
      ValueError: there is no such precision policy.
    """
    if precision not in REDUCED_DTYPES:
        raise ValueError(f"precision must be one of {', '.join(REDUCED_DTYPES)}; got {precision!r}")
    is_reduced = device.type == "cuda" and resolution * 2**NUM_REDUCED_RESOLUTIONS > long_edge
    return REDUCED_DTYPES[precision] if is_reduced else torch.float32
