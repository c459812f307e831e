"""What the adapters of lists share: ids, the places of hosted videos, and malformed entries told together."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import fsspec

from lvg_data.config import Card, HostedSource
from lvg_data.errors import CardError
from lvg_data.fetch.addresses import hide_addresses
from lvg_data.records import Address
from lvg_data.sources.place import Place, is_remote

#: names that a folder is searched for; a file or glob may have any
VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
                  ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m")  # fmt: skip
MAX_ID_CHARACTERS = 200
#: malformed entries of a list that are told before the rest is only counted
_PROBLEMS_SHOWN = 5


def raise_problems(card: Card, name: str, problems: Sequence[str]) -> None:
    """Raises: CardError, where a list has malformed entries; the first few are told, the rest counted."""
    if not problems:
        return
    more = len(problems) - _PROBLEMS_SHOWN
    lines = [f"{card.name}: the list {name}: {text}" for text in problems[:_PROBLEMS_SHOWN]]
    if more > 0:
        lines.append(f"{card.name}: the list {name}: {more} more malformed entries")
    raise CardError(hide_addresses("\n".join(lines)))


def id_problem(text: str) -> str | None:
    """Why a text cannot be the id of a video, or None. Ids are never used as paths, so most can be."""
    if not text or text != text.strip():
        return f"{text!r} is no id: empty, or with space around it"
    if len(text) > MAX_ID_CHARACTERS:
        return f"{text[:20]!r}... is no id: {len(text)} characters, at most {MAX_ID_CHARACTERS}"
    return f"{text!r} is no id: it holds control characters" if has_controls(text) else None


def has_controls(text: str) -> bool:
    """Whether a text holds control characters, breaks of lines, or bytes that are no text (surrogates)."""
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


# ---- hosted videos --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """Where the videos of a list of ids are.

    Attributes:
      url: of a video, `{id}` in the place of its id.
      folder: of own copies, local or remote.
      copies: their names by the id before the suffix; None where there is no such folder.
    """

    url: str
    folder: str = ""
    copies: dict[str, list[str]] | None = None

    @classmethod
    def of(cls, config: HostedSource, card: Card, place: Place) -> Host:
        """Raises: CardError, where the card's folder of own copies is none."""
        if config.folder is None:
            return cls(config.url)
        folder = config.folder if is_remote(config.folder) else str(place.path(config.folder).absolute())
        copies = defaultdict(list)
        for name in _names_in(folder, card):
            copies[name.rpartition(".")[0]].append(name)
        return cls(config.url, folder.rstrip("/"), dict(copies))

    def origin(self, video_id: str) -> str:
        """The video's address for people: of a query only what holds the id, the rest may be secret."""
        parts = urlsplit(self.url)
        query = "&".join(field for field in parts.query.split("&") if "{id}" in field)
        url = urlunsplit((parts.scheme, parts.hostname or "", parts.path, query, ""))
        return url.replace("{id}", quote(video_id, safe=""))

    def address(self, video_id: str) -> Address:
        """Where to fetch a video.

        The address of a missing copy is one that is not there, so that its row is rejected as `not_found`
        rather than the whole list.

        Raises:
          CardError: there are several copies, and not one of them alone is a video by its suffix.
        """
        if self.copies is None:
            return Address(self.url.replace("{id}", quote(video_id, safe="")))
        names = self.copies.get(video_id, [])
        videos = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES)]
        if len(names) > 1 and len(videos) != 1:
            found = ", ".join(sorted(names))
            raise CardError(f"{self.folder}: several files could be the copy of {video_id}: {found}")
        # beside `<id>.mp4`, yt-dlp leaves `<id>.jpg` and `<id>.description`
        name = (videos or names or [quote(video_id, safe="") + ".missing"])[0]
        return Address(f"{self.folder}/{name}")


def _names_in(folder: str, card: Card) -> list[str]:
    try:
        if not is_remote(folder):
            return [entry.name for entry in os.scandir(folder) if entry.is_file()]
        fs, path = fsspec.url_to_fs(folder)
        return [Path(entry["name"]).name for entry in fs.ls(path, detail=True) if entry["type"] == "file"]
    except OSError as err:
        raise CardError(f"{card.name}: the folder of copies {folder} cannot be listed: {err}") from err
