"""Camera trajectories of ACID and RealEstate10K: a `tar.gz` of text files, one sequence of a video each.

A file is named `<anything>/{train,validation,test}/<sequence>.txt`; its first line is the video's YouTube
address, each further line a pose of 19 columns (see `poses`). The archive is read once, as a stream, and never
unpacked to disk: all poses go to one table in the store, `poses.npy`, with the place of each sequence in it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from lvg_data.config import Card, TrajectoriesSource
from lvg_data.errors import CardError
from lvg_data.poses import POSE
from lvg_data.records import Source, Track
from lvg_data.sources.lists import Host, has_controls, raise_problems
from lvg_data.sources.place import Place, file_sha256, is_remote, list_name
from lvg_data.sources.urls import youtube_id
from lvg_data.store import Artefact, Key
from lvg_data.timeline import Interval

#: raised when the table or the list of its sequences would be another
VERSION = 1
#: what an archive may unpack to: RealEstate10K has about 4 GB of text
MAX_UNPACKED_BYTES = 16 << 30
#: largest sequence file: 64 MiB are some 200,000 poses, two hours of video
MAX_SEQUENCE_BYTES = 64 << 20
#: longest name, or attributes together, of a member of the archive
MAX_NAME_BYTES = 64 << 10
_SHOWN_CHARACTERS = 100
#: listed times are rounded to microseconds, and Matroska's frame times to milliseconds: a frame that lies less
#: than this outside of a sequence is its first or last one
SLACK_S = Fraction(1, 1000)
#: latest timestamp, 115 days; whole nanoseconds of it are still exact
MAX_TIME_US = 10**13
SPLITS = ("train", "validation", "test")
_NUM_COLUMNS = 19


@dataclass(frozen=True)
class Sequence:
    """A sequence file, and where its poses are: rows [start_row, stop_row) of the table, in order of time."""

    name: str
    video_id: str
    split: str | None
    start_row: int
    stop_row: int
    first_us: int
    last_us: int


def list_sources(config: TrajectoriesSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a video, sorted by id, with an interval and a track for each of its sequences.

    An interval runs from a sequence's first to its last timestamp, and `SLACK_S` beyond both; a sequence of a
    single pose is kept as one. Intervals are ordered by time. The split is the name of the folder, if that is
    one of `SPLITS` and the card says no other.

    Raises:
      CardError: the list cannot be read, a file in it is malformed, or a video is in two of the list's splits.
    """
    if not is_remote(config.list) and place.path(config.list).is_dir():
        artefact = _parsed_folder(config, card, place)
    else:
        with place.open_list(config, card) as path:
            artefact = _parsed_archive(path, config, card, place)
    videos = defaultdict(list)
    for sequence in read_sequences(artefact):
        videos[sequence.video_id].append(sequence)
    if not videos:
        raise CardError(f"{card.name}: the list {list_name(config)} holds no sequence, a text file *.txt")
    if config.split is None:
        _check_splits(videos, config, card)
    host = Host.of(config, card, place)
    for video_id, sequences in sorted(videos.items()):
        sequences.sort(key=lambda s: (s.first_us, s.last_us, s.name))
        yield Source(
            video_id=video_id,
            origin=host.origin(video_id),
            media=host.address(video_id),
            licence=card.licence,
            attribution=card.attribution,
            split=config.split or sequences[0].split,
            intervals=tuple(_interval(s) for s in sequences),
            tracks=tuple(
                Track(s.name, f"{artefact.address}/poses.npy", s.start_row, s.stop_row, config.tolerance_s)
                for s in sequences
            ),
        )


def _interval(sequence: Sequence) -> Interval:
    first, last = (Fraction(us, 1_000_000) for us in (sequence.first_us, sequence.last_us))
    return Interval(max(Fraction(0), first - SLACK_S), last + SLACK_S, end_inclusive=True)


def _check_splits(videos: dict[str, list[Sequence]], config: TrajectoriesSource, card: Card) -> None:
    """A split never divides a video: the same scenery would be trained on and tested."""
    divided = {v: sorted({str(s.split) for s in found}) for v, found in videos.items()}
    divided = {video_id: splits for video_id, splits in sorted(divided.items()) if len(splits) > 1}
    if divided:
        video_id, splits = next(iter(divided.items()))
        raise CardError(
            f"{card.name}: the list {list_name(config)} divides {len(divided)} videos between splits, e.g. "
            f"{video_id} between {' and '.join(splits)}; give the source one `split`, or correct the list"
        )


# ---- parsing, once ----------------------------------------------------------------------------------


def _parsed_archive(path: Path, config: TrajectoriesSource, card: Card, place: Place) -> Artefact:
    sha256 = config.sha256 or file_sha256(path)  # a promised one has been checked
    return _parsed(sha256, lambda: _archive_files(path, config, card), config, card, place)


def _parsed_folder(config: TrajectoriesSource, card: Card, place: Place) -> Artefact:
    """The same for an unpacked archive, which is known by the hash of its files' names and contents."""
    folder = place.path(config.list)
    if config.sha256 is not None:
        raise CardError(
            f"{card.name}: {config.list} is a folder, which has no sha256; name the tar.gz instead"
        )
    paths = sorted(folder.rglob("*.txt"))
    named = [(path.relative_to(folder).as_posix(), path) for path in paths]
    digest = hashlib.sha256()
    for name, path in named:
        digest.update(f"{len(name)} {name} {file_sha256(path)}\n".encode("utf-8", "surrogateescape"))
    files = ((name, path.read_bytes()) for name, path in named)
    return _parsed(digest.hexdigest(), lambda: files, config, card, place)


def _parsed(
    sha256: str,
    files: Callable[[], Iterable[tuple[str, bytes]]],
    config: TrajectoriesSource,
    card: Card,
    place: Place,
) -> Artefact:
    def make(folder: Path) -> dict[str, int]:
        problems: list[str] = []
        sequences = write_tables(files(), folder, problems)
        raise_problems(card, list_name(config), problems)
        return {"num_sequences": len(sequences), "num_rows": sequences[-1].stop_row if sequences else 0}

    return place.desk.store.get_or_make(Key("poses", VERSION, None, (sha256,)), make)


def write_tables(files: Iterable[tuple[str, bytes]], folder: Path, problems: list[str]) -> list[Sequence]:
    """Writes `poses.npy`, POSE [N], and `sequences.json`; what is malformed is added to `problems`.

    Args:
      files: name and content of each sequence file.
    """
    sequences: list[Sequence] = []
    names: set[str] = set()
    num_rows = 0
    with open(folder / "poses.npy", "wb") as file:
        header_bytes = _write_header(file, 0)
        for name, data in files:
            try:
                sequence, rows = _parsed_file(name, data, num_rows, names)
            except ValueError as err:
                problems.append(f"{name!r}: {err}")
                continue
            file.write(rows.tobytes())
            sequences.append(sequence)
            num_rows = sequence.stop_row
        file.seek(0)
        assert _write_header(file, num_rows) == header_bytes, "numpy leaves room for a growing first axis"
    (folder / "sequences.json").write_text(json.dumps([list(asdict(s).values()) for s in sequences]))
    return sequences


def _parsed_file(name: str, data: bytes, start_row: int, names: set[str]) -> tuple[Sequence, np.ndarray]:
    """Raises: ValueError, where its content is malformed, or its name is among `names` or cannot be shown."""
    if name in names or has_controls(name):
        raise ValueError("it is there twice" if name in names else "its name holds control characters")
    names.add(name)
    video_id, rows = parse_sequence(data)
    folder = PurePosixPath(name).parent.name
    sequence = Sequence(
        name=name.removesuffix(".txt"),
        video_id=video_id,
        split=folder if folder in SPLITS else None,
        start_row=start_row,
        stop_row=start_row + len(rows),
        first_us=int(rows["time_us"][0]),
        last_us=int(rows["time_us"][-1]),
    )
    return sequence, rows


def _write_header(file: BinaryIO, num_rows: int) -> int:
    header = {"descr": np.lib.format.dtype_to_descr(POSE), "fortran_order": False, "shape": (num_rows,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def read_sequences(artefact: Artefact) -> list[Sequence]:
    with artefact.local("sequences.json") as path:
        return [Sequence(*values) for values in json.loads(path.read_text())]


def parse_sequence(data: bytes) -> tuple[str, np.ndarray]:
    """The video's id and POSE [N], N at least 1, of a sequence file.

    Lines that are out of order are put in order of time; equal times stay as they are.

    Raises:
      ValueError: no YouTube address, no pose, or a line that is not 19 finite numbers.
    """
    first, _, body = data.partition(b"\n")
    url = first.decode("utf-8", "replace").strip()
    video_id = youtube_id(url)
    if video_id is None:
        raise ValueError(f"its first line is no address of a YouTube video: {url[:80]!r}")
    lines = body.split(b"\n")
    widths = [len(line.split()) for line in lines]
    odd = next((n for n, width in enumerate(widths) if width not in (0, _NUM_COLUMNS)), None)
    if odd is not None:
        raise ValueError(f"line {odd + 2} has {widths[odd]} columns, not {_NUM_COLUMNS}")
    if not any(widths):
        raise ValueError("it holds no pose")
    table = _numbers(body).reshape(-1, _NUM_COLUMNS)
    if not np.isfinite(table).all():
        raise ValueError("a number is not finite")
    times = table[:, 0]
    if (times != np.rint(times)).any() or times.min() < 0 or times.max() > MAX_TIME_US:
        raise ValueError(f"a timestamp is no whole number of microseconds from 0 to {MAX_TIME_US}")
    rows = np.empty(len(table), POSE)
    rows["time_us"] = times
    rows["intrinsics"] = table[:, 1:5]
    rows["pose"] = table[:, 7:].reshape(-1, 3, 4)
    return video_id, rows[np.argsort(rows["time_us"], kind="stable")]


def _numbers(text: bytes) -> np.ndarray:
    """float64 of all numbers of a text, at C's speed: a list has tens of millions."""
    try:
        return np.array(text.split(), np.float64)
    except ValueError as err:
        raise ValueError(f"a column is no number: {err}") from err


# ---- the archive ------------------------------------------------------------------------------------


def _archive_files(path: Path, config: TrajectoriesSource, card: Card) -> Iterator[tuple[str, bytes]]:
    """Name and content of each `.txt` of a tar or tar.gz, in the archive's order; other files are no sequences.

    Raises:
      CardError: it is no such archive, unpacks to more than it may, or holds a link or a name that leads out.
    """
    name = list_name(config)
    try:
        with open(path, "rb") as raw:
            packed: Any = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
            raw.seek(0)
            limited = _Limited(packed, MAX_UNPACKED_BYTES)
            with tarfile.open(fileobj=limited, mode="r|", tarinfo=_TarInfo) as tar:
                yield from _members(tar)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as err:
        raise CardError(f"{card.name}: the list {name} is no whole tar.gz of sequences: {err}") from err


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    refused: list[str] = []
    for member in tar:
        inner = PurePosixPath(member.name)
        if member.issparse():  # a block of it can stand for gigabytes
            raise ValueError(f"{member.name[:_SHOWN_CHARACTERS]} is a file with holes")
        if not (member.isfile() or member.isdir()) or inner.is_absolute() or ".." in inner.parts:
            refused.append(member.name[:_SHOWN_CHARACTERS])
            continue
        if not member.isfile() or inner.suffix != ".txt":
            continue
        if member.size > MAX_SEQUENCE_BYTES:
            raise ValueError(
                f"{member.name[:_SHOWN_CHARACTERS]} has {member.size} bytes; "
                f"a sequence at most {MAX_SEQUENCE_BYTES}"
            )
        content = tar.extractfile(member)
        assert content is not None, "a regular file"
        yield inner.as_posix(), content.read()
    if refused:
        raise ValueError(f"links, devices or paths that lead out of it: {', '.join(refused[:5])}")


class _TarInfo(tarfile.TarInfo):
    """Refuses long names and attributes that are longer than any: tarfile reads them whole."""

    _TEXTS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
              tarfile.SOLARIS_XHDTYPE)  # fmt: skip

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in self._TEXTS and self.size > MAX_NAME_BYTES:
            raise ValueError(f"a name or attribute of {self.size} bytes; at most {MAX_NAME_BYTES}")
        return super()._proc_member(tar)  # type: ignore[misc]


class _Limited(io.RawIOBase):
    """A stream that fails where more is read from it than it may hold."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self.file, self.left, self.max_bytes = file, max_bytes, max_bytes

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {self.max_bytes} bytes")
        return data
