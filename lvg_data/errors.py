"""What can go wrong with data, by name."""

from __future__ import annotations

import sys

#: cause code -> (what it means, whether another attempt at the same input may succeed: later, or with
#: higher limits; such a reject is never remembered in the store)
CAUSES: dict[str, tuple[str, bool]] = {
    # fetching
    "not_found": ("the file or address does not exist", False),
    "gone": ("the server says that it was removed", False),
    "private": ("its owner keeps it private", False),
    "login_required": ("only for those who are logged in: age, membership or payment", False),
    "blocked": ("refused from here: by country, or as a robot", True),
    "forbidden": ("the server refuses access", False),
    "rate_limited": ("the server asks to come back later", True),
    "network": ("the connection failed, stalled or was cut off", True),
    "no_space": ("no room for the download on this disk or in limits.cache_bytes", True),
    "drm": ("encrypted for players that hold a key", False),
    "live": ("a broadcast that has not ended", True),
    "no_format": ("no format that the card's download fields allow", False),
    "private_address": (
        "an address of this machine or of a private network; --allow-private-addresses allows it",
        True,
    ),
    "unsupported_site": ("no way is known from this address to one video", False),
    "site_error": ("yt-dlp failed on this site in a way of its own; another version may not", True),
    "too_large": ("larger than the card's limits.file_bytes", True),
    "hash_mismatch": ("the content is not what the card's sha256 promises", False),
    # probing and decoding
    "not_video": ("no container that the decoder knows, or nothing in it that is a picture", False),
    "no_video_stream": ("a container without a video stream", False),
    "no_decoder": ("a video stream of a kind for which this FFmpeg has no decoder", False),
    "mixed_sizes": ("frames of one folder or archive that differ in size", False),
    "no_frames": ("a video stream without one frame that can be shown", False),
    "broken_times": ("presentation times with gaps that no camera makes", False),
    "too_many_frames": ("more frames at the card's frame_rate than one video may have", False),
    "hdr": ("high dynamic range (PQ or HLG), which would need tone mapping", False),
    "unsupported_colour": ("a colour matrix or pixel format with no conversion here", False),
    "too_many_pixels": ("frames larger than the card's limits.frame_pixels", False),
    "decode_error": ("frames that the container promises did not decode", False),
    "cut_off": ("the file ends before its own index says, inside this scene", False),
    "decode_crashed": ("the decoder died", True),
    "decode_timeout": ("the decoder ran past the card's limits.decode_wall_s", True),
    "memory_limit": ("the decoder needed more than the card's limits.decode_memory_bytes", True),
    "cpu_limit": ("the decoder used more CPU time than the card's limits.decode_wall_s", True),
    "output_limit": ("the decoder wrote more than frames of these sizes can take", True),
    # intervals, scenes and clips
    "outside_video": ("the interval holds no frame of the video", False),
    "duplicate": ("the same rows or the same frames are listed already", False),
    "soft_cut": ("frames of a fade or dissolve, which belong to no scene", False),
    "too_short": ("fewer frames than either resolution takes", False),
    "black": ("dark for too large a share of its frames", False),
    "frozen": ("repeats the previous frame for too large a share of its frames", False),
    "letterboxed": ("dark bars at the edges", False),
    "static_overlay": ("a logo or text that stays in place over moving pictures", False),
}


#: causes that a file has which was fetched badly: to try again is to fetch again
ABOUT_CONTENT = frozenset(
    (
        "hash_mismatch",
        "not_video",
        "no_video_stream",
        "no_decoder",
        "no_frames",
        "broken_times",
        "decode_error",
        "cut_off",
    )
)


def printable(text: str) -> str:
    """A text as a terminal may have it: of control characters, direction marks and the like their escapes.

    Names and values in messages come from strangers. Line breaks stay: some messages have several lines.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class Rejected(Exception):
    """Data that is dropped and counted; every other exception stops the run.

    Args:
      cause: a key of `CAUSES`.
      message: what was wrong with what, for people; goes to the run's journal, never into a table.
      value: the measured figure that decided, if there is one; kept as a float, as tables have it, and beyond
        all floats as the largest one.
      threshold: the figure that it was compared with, likewise.
      attempts: how often it was tried, where it was tried more than once or not at all; for the journal too.
    """

    def __init__(
        self,
        cause: str,
        message: str,
        value: float | None = None,
        threshold: float | None = None,
        attempts: int | None = None,
    ) -> None:
        if cause not in CAUSES:
            raise ValueError(f"unknown cause {cause!r}; known: {', '.join(CAUSES)}")
        message, value, threshold = printable(message), _as_float(value), _as_float(threshold)
        super().__init__(cause, message, value, threshold, attempts)  # all of them, so that it can be pickled
        self.cause, self.message, self.value, self.threshold = cause, message, value, threshold
        self.attempts = attempts

    def __str__(self) -> str:
        return f"{self.cause}: {self.message}"

    @property
    def retryable(self) -> bool:
        return CAUSES[self.cause][1]


def _as_float(figure: float | None) -> float | None:
    if figure is None:
        return None
    try:
        return float(figure)
    except OverflowError:  # an int of more digits; JSON has no infinity
        return sys.float_info.max if figure > 0 else -sys.float_info.max


class MachineError(RuntimeError):
    """The machine or a store failed, not the data: no space, no rights, files gone. The text says what and where."""


class CardError(ValueError):
    """A dataset card that cannot be used; the text names file, field, value and what to do.

    Of a path that is meant as an address, `//user:password@host/x?token=y`, it shows what may be shown.
    """

    def __init__(self, text: str) -> None:
        from lvg_data.fetch.addresses import hide_network_paths  # which needs this file

        super().__init__(printable(hide_network_paths(text)))


class DatasetError(RuntimeError):
    """A dataset folder that is not what it says; the text names the file and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))
