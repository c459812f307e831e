"""Videos as folders of pictures, e.g. SkyTimelapse: `sky_train/<youtube id>/<clip>/<...>_00086552.jpg`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lvg_data import ids
from lvg_data.config import Card, FrameFoldersSource
from lvg_data.errors import CardError
from lvg_data.pictures import NUMBERED
from lvg_data.records import FrameFolder, Source
from lvg_data.sources.place import Place


def list_sources(config: FrameFoldersSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a folder that holds frames, sorted by path; its id is a hash of that path below the card's.

    `splits` says which split the uppermost folder means. The one below it, or else the uppermost, is the group,
    so that the clips of one long video are never divided between splits:

        sky_train / 07wDt3zYDSk / 07wDt3zYDSk_1 / 07wDt3zYDSk_frames_00086552.jpg
        split       group         the video

    Raises:
      CardError: no folder there holds frames, one cannot be listed, or `splits` names a folder that is not there.
    """
    root = place.path(config.path)
    if not root.is_dir():
        raise CardError(f"{card.name}: {config.path} is no folder (searched from {place.folder})")
    try:
        found = sorted(find_frame_folders(root))
    except OSError as err:
        raise CardError(f"{card.name}: {config.path} cannot be searched: {err}") from err
    if not found:
        raise CardError(
            f"{card.name}: no folder in {config.path} holds frames, .jpg or .png files whose names end in a number"
        )
    unknown = sorted(config.splits.keys() - {parts[0] for parts in found if parts})
    if unknown:
        raise CardError(
            f"{card.name}: splits names {unknown[0]!r}, which {config.path} does not hold with frames"
        )
    for parts in found:
        name = str(PurePosixPath(*parts))
        split = config.splits.get(parts[0]) if parts else None
        below = parts[1:] if config.splits else parts
        yield Source(
            video_id=ids.video_id(["frame_folders", name]),
            origin=name,
            media=FrameFolder(str(root.absolute().joinpath(*parts)), str(config.frame_rate)),
            licence=card.licence,
            attribution=card.attribution,
            split=split,
            group=below[0] if below else None,
        )


def find_frame_folders(root: Path) -> Iterator[tuple[str, ...]]:
    """The folders at or below `root` that hold frames, as names from `root` down, in no order.

    A folder is listed no further than to its first frame, so that a million frames cost as little as the folders
    that hold them; what lies below a folder of frames is therefore not looked for. Hidden names are left out.
    A link that leads back to a folder above itself is not followed.
    """
    pending: list[tuple[tuple[str, ...], frozenset[tuple[int, int]]]] = [((), frozenset())]
    while pending:
        parts, above = pending.pop()
        folder = root.joinpath(*parts)
        stat = os.stat(folder)
        identity = (stat.st_dev, stat.st_ino)
        if identity in above:
            continue
        below = _folders_in(folder)
        if below is None:
            yield parts
        else:
            pending.extend(((*parts, name), above | {identity}) for name in below)


def _folders_in(folder: Path) -> list[str] | None:
    """Names of the folders in a folder, or None where it holds a frame."""
    below = []
    with os.scandir(folder) as entries:  # the kind of an entry comes with its name: nothing is looked up
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(entry.name)
            elif NUMBERED.search(entry.name):
                return None
    return below
