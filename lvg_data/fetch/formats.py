"""Which of a video's formats is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lvg_data import ids

#: how a format's pieces come, as yt-dlp names it, from the plainest; others need a program that we do not start
PROTOCOLS = ("https", "http", "http_dash_segments", "m3u8_native", "m3u8")
#: from the cheapest to decode; others are last
_CODECS = ("avc", "h264", "vp9", "vp09", "av01", "hev", "hvc")
_DESCRIBED = ("format_id", "vcodec", "width", "height", "fps", "ext", "protocol")


def choose(
    formats: Sequence[Mapping[str, Any]], min_height: int, max_frame_rate: float
) -> Mapping[str, Any] | None:
    """The format that costs least and shows enough, or None.

    Of those with pictures, standard dynamic range and at most `max_frame_rate`: the smallest at least
    `min_height` high (of upright pictures the width counts, which is their short side); where all are
    smaller, the highest; where no height is known, the last, which yt-dlp holds for the best. Of equal
    height, one without sound is preferred, then the plainest protocol, then the cheapest codec.
    """
    usable = [(i, f) for i, f in enumerate(formats) if _is_usable(f, max_frame_rate)]
    if not usable:
        return None
    return min(usable, key=lambda item: (_distance(item[1], min_height), *_cost(item[1]), -item[0]))[1]


def _is_usable(fmt: Mapping[str, Any], max_frame_rate: float) -> bool:
    return (
        fmt.get("vcodec") != "none"
        and fmt.get("dynamic_range") in (None, "SDR")
        and (fmt.get("fps") or 0) <= max_frame_rate
        and fmt.get("protocol") in PROTOCOLS
        and not fmt.get("has_drm")
    )


def _distance(fmt: Mapping[str, Any], min_height: int) -> tuple[int, int]:
    height = min(fmt.get("height") or 0, fmt.get("width") or fmt.get("height") or 0)
    if height >= min_height:
        return 0, height
    return (1, -height) if height else (2, 0)


def _cost(fmt: Mapping[str, Any]) -> tuple[bool, int, int]:
    codec = fmt.get("vcodec") or ""
    rank = next((i for i, name in enumerate(_CODECS) if codec.startswith(name)), len(_CODECS))
    return fmt.get("acodec") != "none", PROTOCOLS.index(fmt["protocol"]), rank


def describe_format(fmt: Mapping[str, Any]) -> str:
    """Canonical JSON of what was chosen, without what is not known."""
    return ids.canonical_json({name: fmt[name] for name in _DESCRIBED if fmt.get(name) is not None})
