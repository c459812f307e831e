"""What a file is, by its first bytes, as far as it decides how it is fetched."""

from __future__ import annotations

import codecs
from typing import Literal

#: enough to tell
HEAD_BYTES = 1024

Kind = Literal["file", "page", "playlist", "empty"]


def kind_of(head: bytes) -> Kind:
    """A page of markup, a playlist (HLS or DASH) of the file's pieces, or a file to keep.

    No container of video begins with a `<`.
    """
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"#EXTM3U") or (text.startswith(b"<") and b"<MPD" in text):
        return "playlist"
    if not text:
        return "empty"
    return "page" if text.startswith(b"<") else "file"
