"""Datasets that the LongVideoGAN release prepared, at one or both resolutions: clips that stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath

from lvg_data import ids
from lvg_data.config import Card, PreparedSource
from lvg_data.errors import CardError
from lvg_data.prepared import ArchiveError, folder_of_size, open_archive, size_of_folder
from lvg_data.records import RenderedFrames, Source
from lvg_data.sources.place import Place, check_expected
from lvg_data.timeline import Interval

#: pixels of a folder that is proposed as the low resolution when it is the only one
_LOW_PIXELS = 128 * 128


def list_sources(config: PreparedSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a clip path, sorted. A clip's id is a hash of its path; those of one folder are a group.

    Raises:
      CardError: no archive of a size that the card has, one that cannot be read, or resolutions that do not
        hold the same clips and frames.
    """
    root = place.path(config.path).absolute()
    folders = _folders_by_role(root, card)
    clips = {role: _archive_of_each_clip(card, folder) for role, folder in folders.items()}
    _check_same_clips(card, folders, clips)
    names = sorted(next(iter(clips.values())))
    check_expected(card, place.name(root), config.expect, len(names), len(names))
    for name in names:
        media = tuple(RenderedFrames(clips[r][name], name, r, str(config.frame_rate)) for r in clips)
        num_frames = len(_frame_names(media[0].archive, name))
        group = str(PurePosixPath(name).parent)
        yield Source(
            video_id=ids.video_id(["longvideogan_zips", name]),
            origin=name,
            media=media,
            licence=card.licence,
            attribution=card.attribution,
            split=config.split,
            group=None if group == "." else group,
            # one that lists no frame is rejected when it is probed
            intervals=(Interval(Fraction(0), max(1, num_frames) / config.frame_rate),),
        )


def _folders_by_role(root: Path, card: Card) -> dict[str, Path]:
    """Folders of the card's resolutions, "low" first; at least one."""
    asked = {role: (size.height, size.width) for role, size in (("low", card.low), ("high", card.high))}
    folders = {role: root / folder_of_size(*size) for role, size in asked.items()}
    there = {role: folder for role, folder in folders.items() if folder.is_dir()}
    if len(there) == 2:
        return there
    sizes = [size_of_folder(p.name) for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    found = sorted((size for size in sizes if size), key=lambda size: size[0] * size[1])
    if there and len(found) == 1:
        return there
    if not found:
        raise CardError(
            f"{card.name}: {root} holds no folder <HHHH>x<WWWW> of a dataset that LongVideoGAN's release prepared"
        )
    held = ", ".join(folder_of_size(*size) for size in found)
    wanted = " and ".join(f"{role} {folder_of_size(*size)}" for role, size in asked.items())
    raise CardError(
        f"{card.name}: {root} holds {held}; the card has {wanted} (height x width). Use {_overrides(found)}"
    )


def _overrides(found: list[tuple[int, int]]) -> str:
    """The `--set` options that fit a card to the sizes that were found, smallest first."""
    low, high = found[0], found[-1]
    if low == high and low[0] * low[1] <= _LOW_PIXELS:
        high = (4 * low[0], 4 * low[1])
    elif low == high:
        low = (high[0] // 4, high[1] // 4)
    fields = {"low.height": low[0], "low.width": low[1], "high.height": high[0], "high.width": high[1]}
    return " ".join(f"--set {name}={pixels}" for name, pixels in fields.items())


def _archive_of_each_clip(card: Card, folder: Path) -> dict[str, str]:
    """Path of the archive that holds a clip, by clip path."""
    archives = sorted(folder.glob("*.zip"))  # as the release's reader finds them
    if not archives:
        raise CardError(f"{card.name}: {folder} holds no partition_<NNNN>.zip")
    where: dict[str, str] = {}
    for path in map(str, archives):
        try:
            clips = open_archive(path).clips
        except (ArchiveError, OSError) as err:
            raise CardError(f"{card.name}: {err}") from err
        for clip in clips:
            if clip in where:
                raise CardError(
                    f"{card.name}: clip {clip!r} is in {where[clip]} and in {path}; "
                    "remove the archives of an earlier preparation"
                )
            where[clip] = path
    return where


def _frame_names(archive: str, clip: str) -> tuple[str, ...]:
    return open_archive(archive).clips[clip]


def _check_same_clips(card: Card, folders: dict[str, Path], clips: dict[str, dict[str, str]]) -> None:
    """Both resolutions must list the same clips, each with the same frames."""
    if len(clips) < 2:
        return
    remedy = "prepare both resolutions alike, or take one of the folders away"
    for role, other in (("low", "high"), ("high", "low")):
        for clip in sorted(clips[role].keys() - clips[other].keys()):
            archive = Path(clips[role][clip])
            raise CardError(
                f"{card.name}: clip {clip!r} is in {archive}, but neither in {folders[other] / archive.name} "
                f"nor in another archive there; {remedy}"
            )
    for clip in sorted(clips["low"]):
        archives = clips["low"][clip], clips["high"][clip]
        low, high = (_frame_names(archive, clip) for archive in archives)
        if low != high:
            raise CardError(
                f"{card.name}: clip {clip!r} has {len(low)} frames in {archives[0]} and {len(high)} in "
                f"{archives[1]}; {_first_difference(low, high)}; {remedy}"
            )


def _first_difference(low: tuple[str, ...], high: tuple[str, ...]) -> str:
    padded = [*low, *[None] * (len(high) - len(low))], [*high, *[None] * (len(low) - len(high))]
    a, b = next((a, b) for a, b in zip(*padded, strict=True) if a != b)
    return f"the first that differs is {a or 'none'} and {b or 'none'}"
