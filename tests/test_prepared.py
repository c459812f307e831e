"""Datasets that LongVideoGAN's release prepared: read safely, kept whole, copied bit for bit."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from lvg_data import ids, prepared, spans
from lvg_data.config import Card
from lvg_data.errors import CardError, Rejected
from lvg_data.fetch.desk import Desk
from lvg_data.prepared import ClipFrames, find_frames
from lvg_data.records import RenderedFrames, RenderedSpan, Source, Span
from lvg_data.sources.place import Place
from lvg_data.sources.prepared import list_sources
from lvg_data.store import Store
from lvg_data.timeline import Interval
from tests.builds import build_dataset, load_npy, small_card
from tests.test_pack import video

LOW, HIGH = (16, 32), (64, 128)


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3]: smooth colours that differ from number to number."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    waves = [np.sin(5 * x + number), np.cos(4 * y - number), np.sin(6 * (x + y) + 2 * number)]
    return np.stack([128 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def jpeg(number: int, size: tuple[int, int], **options: Any) -> bytes:
    """A frame as the release writes it: quality 100, 4:2:0."""
    file = io.BytesIO()
    Image.fromarray(picture(number, size)).save(file, "JPEG", **{"quality": 100, **options})
    return file.getvalue()


def frames(count: int, size: tuple[int, int], first: int = 0) -> list[bytes]:
    return [jpeg(first + number, size) for number in range(count)]


def name_of(frame: int) -> str:
    return f"frame_{frame:06d}.jpg"


def write_zip(path: Path, clips: dict[str, list[bytes]], listed: Any = None, **options: Any) -> Path:
    """A partition as the release writes it; `listed` stands in for what its `frame_paths.json` would say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {clip: [name_of(n) for n in range(len(jpegs))] for clip, jpegs in clips.items()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for clip, jpegs in clips.items():
            for name, data in zip(names[clip], jpegs, strict=True):
                archive.writestr(f"{clip}/{name}", data)
        text = listed if isinstance(listed, str) else json.dumps(names if listed is None else listed)
        archive.writestr("frame_paths.json", text)
    return path


def partition(root: Path, size: tuple[int, int], number: int = 0) -> Path:
    return root / f"{size[0]:04d}x{size[1]:04d}" / f"partition_{number:04d}.zip"


def card_of(**changes: Any) -> Card:
    source = {"kind": "longvideogan_zips", "path": "zips", "frame_rate": 25} | changes.pop("source", {})
    sizes = {
        role: {"height": size[0], "width": size[1]} for role, size in (("low", LOW), ("high", HIGH))
    }  # fmt: skip
    return Card.model_validate(small_card(sources=[source], **{**sizes, **changes}))


def listed(folder: Path, card: Card | None = None) -> list[Source]:
    """The Sources of the dataset in `folder`/zips."""
    card = card or card_of()
    place = Place(folder, Desk.of(card, Store(str(folder / "store"))))
    return list(list_sources(card.sources[0], card, place))


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Two partitions at both resolutions; the low ones are packed otherwise than the high ones."""
    lengths = {"-ab_C/0_10-0_20": 5, "-ab_C/0_40-0_55": 3, "xyz/deep/er": 4, "alone": 2}
    low, high = (
        {clip: frames(count, size, 10 * n) for n, (clip, count) in enumerate(lengths.items())}
        for size in (LOW, HIGH)
    )
    first, second = list(lengths)[:2], list(lengths)[2:]
    root = tmp_path / "zips"
    write_zip(partition(root, LOW, 0), {clip: low[clip] for clip in (*second, *first)})
    write_zip(partition(root, HIGH, 0), {clip: high[clip] for clip in first})
    write_zip(partition(root, HIGH, 1), {clip: high[clip] for clip in second})
    return tmp_path


# ------------------------------------------------------------------------------------------------------ listing


def test_each_clip_is_one_source_kept_whole_with_its_folder_as_the_group(both: Path):
    sources = listed(both)

    assert [s.origin for s in sources] == ["-ab_C/0_10-0_20", "-ab_C/0_40-0_55", "alone", "xyz/deep/er"]
    assert [s.group for s in sources] == ["-ab_C", "-ab_C", None, "xyz/deep"]
    root = both / "zips"
    assert sources[1] == Source(
        video_id=ids.video_id(["longvideogan_zips", "-ab_C/0_40-0_55"]),
        origin="-ab_C/0_40-0_55",
        media=(
            RenderedFrames(str(partition(root, LOW)), "-ab_C/0_40-0_55", "low", "25"),
            RenderedFrames(str(partition(root, HIGH)), "-ab_C/0_40-0_55", "high", "25"),
        ),
        licence="CC0-1.0",
        attribution="made in the test",
        group="-ab_C",
        intervals=(Interval(Fraction(0), Fraction(3, 25)),),
    )


@pytest.mark.parametrize(("size", "role"), [(LOW, "low"), (HIGH, "high")])
def test_one_resolution_is_enough(size: tuple[int, int], role: str, tmp_path: Path):
    write_zip(partition(tmp_path / "zips", size), {"v/a": frames(3, size)})

    (source,) = listed(tmp_path)

    assert [frames.role for frames in source.media] == [role]


def test_frame_names_may_hold_the_clips_path(tmp_path: Path):
    """The release lists names inside the clip's folder; lists of whole member names are read as well."""
    root = tmp_path / "zips"
    whole = {"v/a": [f"v/a/{name_of(n)}" for n in range(3)]}
    write_zip(partition(root, LOW), {"v/a": frames(3, LOW)}, listed=whole)
    write_zip(partition(root, HIGH), {"v/a": frames(3, HIGH)})

    (source,) = listed(tmp_path)

    names = [[m.name for m in clip.members] for clip in find_frames(source.media)]
    assert names == [[name_of(n) for n in range(3)]] * 2


def test_the_card_may_say_how_many_clips_there_must_be(both: Path):
    assert len(listed(both, card_of(source={"expect": {"videos": 4}}))) == 4
    with pytest.raises(CardError, match="test: zips holds 4 videos; the card expects 5"):
        listed(both, card_of(source={"expect": {"videos": 5}}))


def two_sizes(root: Path) -> None:
    write_zip(partition(root, (36, 64)), {"v/a": frames(2, (36, 64))})
    write_zip(partition(root, (144, 256)), {"v/a": frames(2, (144, 256))})


def one_in_low_only(root: Path) -> None:
    write_zip(partition(root, LOW), {"v/a": frames(2, LOW), "v/b": frames(2, LOW)})
    write_zip(partition(root, HIGH), {"v/a": frames(2, HIGH)})


def one_in_high_only(root: Path) -> None:
    write_zip(partition(root, LOW, 3), {"v/a": frames(2, LOW)})
    write_zip(partition(root, HIGH, 2), {"v/a": frames(2, HIGH), "v/b": frames(2, HIGH)})


def a_frame_less(root: Path) -> None:
    write_zip(partition(root, LOW), {"v/a": frames(3, LOW)})
    write_zip(partition(root, HIGH), {"v/a": frames(2, HIGH)})


def listed_twice(root: Path) -> None:
    for number in (0, 7):
        write_zip(partition(root, LOW, number), {"v/a": frames(2, LOW)})


def low_zip(**options: Any) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_zip(partition(root, LOW), {"v/a": frames(2, LOW)}, **options)

    return write


def low_bytes(data: bytes) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        partition(root, LOW).parent.mkdir(parents=True)
        partition(root, LOW).write_bytes(data)

    return write


def encrypted(root: Path) -> None:
    """Sets the flag of the first member in the archive's directory; zipfile cannot write such archives."""
    path = write_zip(partition(root, LOW), {"v/a": frames(2, LOW)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def no_list(root: Path) -> None:
    partition(root, LOW).parent.mkdir(parents=True)
    with zipfile.ZipFile(partition(root, LOW), "w") as archive:
        archive.writestr("v/a/frame_000000.jpg", b"")


BAD_DATASETS: dict[str, tuple[Callable[[Path], None], str]] = {
    "sizes that the card does not have": (
        two_sizes,
        r"zips holds 0036x0064, 0144x0256; the card has low 0016x0032 and high 0064x0128 \(height x width\)\. "
        r"Use --set low\.height=36 --set low\.width=64 --set high\.height=144 --set high\.width=256$",
    ),
    "one small size": (
        lambda root: write_zip(partition(root, (36, 64)), {}), r"--set low\.height=36 .* --set high\.width=256$",
    ),
    "one large size": (
        lambda root: write_zip(partition(root, (144, 256)), {}), r"--set low\.height=36 .* --set high\.width=256$",
    ),
    "nothing there": (lambda root: None, r"zips holds no folder <HHHH>x<WWWW>"),
    "a folder without archives": (
        lambda root: partition(root, LOW).parent.mkdir(parents=True), r"0016x0032 holds no partition_<NNNN>\.zip",
    ),
    "a clip in low only": (
        one_in_low_only, r"clip 'v/b' is in \S*0016x0032/partition_0000\.zip, but neither in "
        r"\S*0064x0128/partition_0000\.zip nor in another archive there; prepare both resolutions alike",
    ),
    "a clip in high only": (
        one_in_high_only, r"clip 'v/b' is in \S*0064x0128/partition_0002\.zip, but neither in \S*0016x0032/",
    ),
    "other frames in the two": (
        a_frame_less, r"clip 'v/a' has 3 frames in \S*0016x0032/partition_0000\.zip and 2 in "
        r"\S*0064x0128/partition_0000\.zip; the first that differs is frame_000002\.jpg and none; prepare both",
    ),
    "a clip in two partitions": (
        listed_twice, r"clip 'v/a' is in \S*partition_0000\.zip and in \S*partition_0007\.zip; remove",
    ),
    "compressed frames": (
        low_zip(compression=zipfile.ZIP_DEFLATED), r"partition_0000\.zip: frame_paths\.json is compressed; frames "
        r"are read in place.*`zip -0 -r`",
    ),
    "an encrypted frame": (encrypted, r"partition_0000\.zip: v/a/frame_000000\.jpg is encrypted; unpack it"),
    "no list": (no_list, r"partition_0000\.zip has no frame_paths\.json: not one of the release's"),
    "a list that is no JSON": (low_zip(listed="{"), r"partition_0000\.zip: frame_paths\.json is not JSON"),
    "a list nested without end": (low_zip(listed="[" * 100_000), r"frame_paths\.json is not JSON"),
    "a list of another form": (low_zip(listed={"v/a": "frame"}), r"frame_paths\.json must be \{clip path: \["),
    "a number for a name": (low_zip(listed={"v/a": [3]}), r"frame_paths\.json must be \{clip path: \["),
    "an absolute clip path": (low_zip(listed={"/etc/a": []}), r"has the name '/etc/a'; names are relative"),
    "a clip path that climbs": (low_zip(listed={"v/../../a": []}), r"has the name 'v/\.\./\.\./a'; names are"),
    "a frame that climbs": (low_zip(listed={"v/a": ["../b.jpg"]}), r"has the name '\.\./b\.jpg'; names are"),
    "control characters": (low_zip(listed={"v/\n": []}), r"has the name 'v/\\n'; names are relative, printable"),
    "no ZIP": (low_bytes(b"PK\x03\x04 but no more"), r"partition_0000\.zip is not a readable ZIP"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_a_dataset_that_cannot_be_used_is_refused_by_name(case: str, tmp_path: Path):
    make, message = BAD_DATASETS[case]
    (tmp_path / "zips").mkdir()
    make(tmp_path / "zips")

    with pytest.raises(CardError, match=message):
        listed(tmp_path)


def test_a_list_too_large_to_be_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_zip(partition(tmp_path / "zips", LOW), {"v/a": frames(2, LOW)})
    monkeypatch.setattr(prepared, "MAX_LIST_BYTES", 20)

    with pytest.raises(
        CardError, match=r"frame_paths\.json has 49 bytes, the limit is 20; use more partitions"
    ):
        listed(tmp_path)


def test_compressed_frames_beside_a_stored_list_are_refused_too(tmp_path: Path):
    path = partition(tmp_path / "zips", LOW)
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v/a/f.jpg", jpeg(0, LOW), zipfile.ZIP_DEFLATED)
        archive.writestr("frame_paths.json", '{"v/a": ["f.jpg"]}')

    with pytest.raises(CardError, match=r"v/a/f\.jpg is compressed"):
        listed(tmp_path)


# ---------------------------------------------------------------------------------------------------- frames


def read(clip: ClipFrames) -> list[bytes]:
    data = Path(clip.frames.archive).read_bytes()
    return [data[m.offset_bytes : m.offset_bytes + m.size_bytes] for m in clip.members]


def one_clip(path: Path, role: str = "low", clip: str = "v/a") -> RenderedFrames:
    return RenderedFrames(str(path), clip, role, "25")


def test_found_frames_are_the_bytes_of_the_jpegs(both: Path):
    source = listed(both)[0]

    low, high = find_frames(source.media)

    assert (low.role, high.role) == ("low", "high")
    assert read(low) == frames(5, LOW)
    assert read(high) == frames(5, HIGH)


def test_extra_fields_and_zip64_headers_are_stepped_over(tmp_path: Path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(zipfile.ZipInfo("v/a/large.jpg"), "w", force_zip64=True) as file:
            file.write(b"first")
        extra = zipfile.ZipInfo("v/a/extra.jpg")
        extra.extra = struct.pack("<HH6s", 0x7075, 6, b"sixers")
        archive.writestr(extra, b"second")
        archive.writestr("frame_paths.json", '{"v/a": ["extra.jpg", "large.jpg"]}')

    (clip,) = find_frames([one_clip(path)])

    assert read(clip) == [b"second", b"first"]


def test_of_members_with_one_name_the_last_counts(tmp_path: Path):
    """As for the release's reader; its tools append to what is there, so that a rerun leaves such pairs."""
    path = write_zip(tmp_path / "a.zip", {"v/a": [b"old", b"kept"]})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("v/a/frame_000000.jpg", b"new")
        archive.writestr("frame_paths.json", '{"v/a": ["frame_000000.jpg", "frame_000001.jpg"]}')

    (clip,) = find_frames([one_clip(path)])

    assert read(clip) == [b"new", b"kept"]


def test_an_archives_directory_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []
    real = zipfile.ZipFile
    path = write_zip(tmp_path / "a.zip", {"v/a": [b"a"], "v/b": [b"b"]})
    monkeypatch.setattr(zipfile, "ZipFile", lambda *a, **k: opened.append(a) or real(*a, **k))

    for clip in ("v/a", "v/b", "v/a"):
        find_frames([one_clip(path, clip=clip)])
    assert len(opened) == 1

    monkeypatch.setattr(zipfile, "ZipFile", real)
    write_zip(path, {"v/a": [b"longer"]})
    assert read(find_frames([one_clip(path)])[0]) == [b"longer"]


def missing_frames(path: Path) -> None:
    write_zip(path, {"v/a": [b"x"]}, listed={"v/a": [name_of(n) for n in range(3)]})


def patched(where: bytes, offset: int, value: bytes) -> Callable[[Path], None]:
    """An archive with bytes behind the first `where` overwritten; `PK 1 2` opens a row of its directory."""

    def write(path: Path) -> None:
        data = bytearray(write_zip(path, {"v/a": [b"x"]}).read_bytes())
        start = data.index(where) + offset
        data[start : start + len(value)] = value
        path.write_bytes(data)

    return write


ELSEWHERE = r"a\.zip: v/a/frame_000000\.jpg is not where the archive's directory says"
REJECTED: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no archive": (lambda path: None, "not_found", r"a\.zip: .*No such file"),
    "no ZIP any more": (lambda path: path.write_bytes(b"x"), "not_video", r"a\.zip is not a readable ZIP"),
    "the clip is gone": (
        lambda path: write_zip(path, {"v/b": []}), "not_found", r"a\.zip: v/a is not in frame_paths\.json any more",
    ),
    "missing frames": (
        missing_frames, "not_found", r"a\.zip: v/a: 2 of 3 listed frames are not there, the first frame_000001\.jpg",
    ),
    "a frame that begins elsewhere": (patched(b"PK\x01\x02", 42, b"\1"), "cut_off", ELSEWHERE),
    "no frame where one should begin": (patched(b"PK\x03\x04", 0, b"XX"), "cut_off", ELSEWHERE),
    "a frame larger than the archive": (patched(b"PK\x01\x02", 20, b"\0\1\0\0" * 2), "cut_off", ELSEWHERE),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_a_clip_that_is_not_whole_is_rejected(case: str, tmp_path: Path):
    make, cause, message = REJECTED[case]
    make(tmp_path / "a.zip")

    with pytest.raises(Rejected, match=message) as caught:
        find_frames([one_clip(tmp_path / "a.zip")])
    assert caught.value.cause == cause


def test_the_content_hash_knows_frames_order_and_role_but_no_names(tmp_path: Path):
    def hash_of(name: str, clip: str, jpegs: list[bytes], role: str = "low") -> str:
        path = write_zip(tmp_path / name, {"other": [b"z"], clip: jpegs})
        return prepared.content_hash([one_clip(path, role, clip)])

    expected = hash_of("a.zip", "v/a", [b"ab", b"c"])
    assert re.fullmatch("[0-9a-f]{64}", expected)
    assert hash_of("b.zip", "w", [b"ab", b"c"]) == expected
    others = {
        hash_of("c.zip", "v/a", [b"c", b"ab"]),
        hash_of("d.zip", "v/a", [b"a", b"bc"]),
        hash_of("e.zip", "v/a", [b"ab", b"c"], "high"),
        hash_of("f.zip", "v/a", [b"ab", b"d"]),
    }
    assert len(others | {expected}) == 5


def test_the_fingerprint_and_size_are_told_without_reading_frames(both: Path):
    media = listed(both)[0].media
    before = prepared.fingerprint(media)

    assert prepared.size_bytes(media) == sum(map(len, frames(5, LOW) + frames(5, HIGH)))
    assert json.loads(json.dumps(before)) == before == prepared.fingerprint(media)
    Path(media[0].archive).write_bytes(b"changed")
    assert prepared.fingerprint(media) != before
    Path(media[0].archive).unlink()
    with pytest.raises(Rejected, match=r"not_found: .*partition_0000\.zip: No such file"):
        prepared.fingerprint(media)


# ---------------------------------------------------------------------------------------------------- probing


def test_a_probe_tells_the_high_resolution_and_exact_times(both: Path, tmp_path: Path):
    media = tuple(replace(frames, frame_rate="30000/1001") for frames in listed(both)[1].media)

    found = prepared.probe(find_frames(media), tmp_path, 1 << 20)

    assert (found.width, found.height) == (128, 64)
    assert (found.container, found.codec, found.pixel_format) == ("longvideogan_zip", "mjpeg", "yuvj420p")
    assert (found.colour_matrix, found.colour_range) == ("bt601", "full")
    assert (found.rotation_degrees, found.sample_aspect_ratio, found.interlaced) == (0, "1", False)
    assert found.time_base == "1001/30000"
    packets = np.load(tmp_path / "packets.npy")
    assert packets["pts"].tolist() == packets["dts"].tolist() == [0, 1, 2]
    assert packets["key"].all() and packets["shown"].all()


def test_a_probe_of_the_low_resolution_alone_tells_that(tmp_path: Path):
    path = write_zip(partition(tmp_path, LOW), {"v/a": [jpeg(0, LOW, subsampling=0)]})
    found = prepared.probe(find_frames([one_clip(path)]), tmp_path, 1 << 20)
    assert (found.width, found.height, found.pixel_format) == (32, 16, "yuvj444p")


def test_a_long_comment_does_not_hide_a_frames_size(tmp_path: Path):
    data = [jpeg(0, LOW, comment=b"x" * 5000), jpeg(1, LOW)]
    path = write_zip(partition(tmp_path, LOW), {"v/a": data})
    assert prepared.probe(find_frames([one_clip(path)]), tmp_path, 1 << 20).width == 32


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.new("CMYK", LOW[::-1]).save(file, "JPEG")
    return file.getvalue()


UNUSABLE: dict[str, tuple[Callable[[], list[bytes]], str, str]] = {
    "no frame": (list, "no_frames", r"v/a lists no frame"),
    "no JPEG": (lambda: [b"<html>", jpeg(0, LOW)], "not_video", r"v/a/frame_000000\.jpg is no JPEG"),
    "a larger frame": (
        lambda: [jpeg(0, LOW), jpeg(1, LOW), jpeg(2, HIGH)], "mixed_sizes",
        r"v/a/frame_000002\.jpg is 0064x0128, not 0016x0032",
    ),
    "all of another size than their folder": (
        lambda: frames(2, HIGH), "mixed_sizes", r"v/a/frame_000000\.jpg is 0064x0128, not 0016x0032",
    ),
    "too large": (lambda: [jpeg(0, (100, 101))], "too_many_pixels", r"101x100 pixels; the limit is 10000"),
    "ink": (lambda: [cmyk()], "unsupported_colour", r"JPEGs of colour space CMYK|YCCK are not supported"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_clip_of_unusable_pictures_is_rejected(case: str, tmp_path: Path):
    make, cause, message = UNUSABLE[case]
    path = write_zip(partition(tmp_path, LOW), {"v/a": make()})

    with pytest.raises(Rejected, match=message) as caught:
        prepared.probe(find_frames([one_clip(path)]), tmp_path, 10_000)
    assert caught.value.cause == cause


# ---------------------------------------------------------------------------------------------------- copying


def job_of(wanted: list[tuple[int, int]], num_frames: int, grid_rate: str = "native") -> spans.SpanJob:
    row = replace(video("v", "train"), time_base="1/25", grid_rate=grid_rate, colour_range="full")
    return spans.span_job(Span(0, num_frames, tuple(wanted), 1.0), row, card_of())


def copy(media: list[RenderedFrames], job: spans.SpanJob, folder: Path) -> tuple[Any, spans.RenderedFrames]:
    folder.mkdir()
    result = prepared.copy_span(find_frames(media), job, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["high.jpgs", "index.npy", "low.u8"]
    span = RenderedSpan(0, job.span.stop, str(folder), **result)
    return result, spans.RenderedFrames([span], LOW)


def archives(folder: Path, low: list[bytes] | None, high: list[bytes] | None) -> list[RenderedFrames]:
    media = []
    for role, jpegs in (("low", low), ("high", high)):
        if jpegs is not None:
            media.append(one_clip(write_zip(folder / f"{role}.zip", {"v/a": jpegs}), role))
    return media


def test_both_resolutions_are_copied_bit_for_bit(tmp_path: Path):
    low, high = frames(4, LOW), frames(4, HIGH)

    result, copied = copy(archives(tmp_path, low, high), job_of([(0, 4)], 4), tmp_path / "out")

    everything = np.arange(4)
    assert result == {"num_frames": 4, "num_missing": 0}
    assert list(copied.high(everything)) == high
    np.testing.assert_array_equal(
        list(copied.low(everything)), [simplejpeg.decode_jpeg(data) for data in low]
    )
    assert copied.high_bytes(everything) == sum(map(len, high))


def test_without_a_low_archive_low_frames_are_resized_from_the_high_ones(tmp_path: Path):
    high = frames(2, HIGH)

    _, copied = copy(archives(tmp_path, None, high), job_of([(0, 2)], 2), tmp_path / "out")

    expected = [
        np.asarray(Image.fromarray(simplejpeg.decode_jpeg(data)).resize(LOW[::-1], Image.Resampling.LANCZOS))
        for data in high
    ]
    np.testing.assert_array_equal(list(copied.low(np.arange(2))), expected)
    assert list(copied.high(np.arange(2))) == high


def test_without_a_high_archive_high_frames_are_empty(tmp_path: Path):
    low = frames(3, LOW)

    _, copied = copy(archives(tmp_path, low, None), job_of([(0, 3)], 3), tmp_path / "out")

    assert list(copied.high(np.arange(3))) == [b""] * 3
    assert copied.high_bytes(np.arange(3)) == 0
    np.testing.assert_array_equal(
        list(copied.low(np.arange(3))), [simplejpeg.decode_jpeg(data) for data in low]
    )


@pytest.mark.parametrize("role", ["low", "high"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no JPEG"]
)
def test_a_frame_that_does_not_decode_is_left_out(
    role: str, damage: Callable[[bytes], bytes], tmp_path: Path
):
    jpegs = {"low": frames(4, LOW), "high": frames(4, HIGH)}
    jpegs[role][2] = damage(jpegs[role][2])

    result, copied = copy(archives(tmp_path, **jpegs), job_of([(0, 4)], 4), tmp_path / "out")

    assert result == {"num_frames": 3, "num_missing": 1}
    assert copied.find(np.arange(4))[1].tolist() == [True, True, False, True]
    assert list(copied.high(np.array([3]))) == [jpegs["high"][3]]


def test_only_wanted_frames_are_copied_and_each_once(tmp_path: Path):
    """At twice the rate, grid frames 2 to 6 show the frames 1, 1, 2, 2 and 3 of the clip."""
    high = frames(6, HIGH)

    result, copied = copy(archives(tmp_path, None, high), job_of([(2, 7)], 6, "50"), tmp_path / "out")

    assert copied.index["ordinal"].tolist() == [1, 2, 3]
    assert result == {"num_frames": 3, "num_missing": 0}
    assert list(copied.high(np.array([1, 2, 3]))) == high[1:4]


# --------------------------------------------------------------------------------------------- the whole pipeline


def test_a_prepared_dataset_is_built_with_its_jpegs_bit_for_bit(both: Path):
    """Clips of 5, 3, 2 and 4 frames; the card takes those of 4 and more."""
    card = small_card(
        sources=[{"kind": "longvideogan_zips", "path": "zips", "frame_rate": "30000/1001"}],
        low={"height": LOW[0], "width": LOW[1]},
        high={"height": HIGH[0], "width": HIGH[1]},
    )
    dataset = build_dataset(card, both, both / "out")

    origins = {row["video_id"]: row["origin"] for row in dataset.rows("videos")}
    clips = {row["clip_id"]: row for row in dataset.rows("clips")}
    assert {origins[c["video_id"]]: c["stop_frame"] for c in clips.values()} == {
        "-ab_C/0_10-0_20": 5,
        "xyz/deep/er": 4,
    }
    assert all(clip["frame_rate"] == "30000/1001" for clip in clips.values())
    assert {(r["cause"], r["level"]) for r in dataset.rows("rejects")} == {("too_short", "scene")}
    first = {"-ab_C/0_10-0_20": 0, "xyz/deep/er": 20}
    for part in (row for row in dataset.rows("parts") if row["role"] == "high"):
        members = dataset.members(part)
        number = first[origins[clips[part["clip_id"]]["video_id"]]] + part["start_frame"]
        count = part["stop_frame"] - part["start_frame"]
        assert [members[f"f{n:03d}.jpg"] for n in range(count)] == frames(count, HIGH, number)
        low = [simplejpeg.decode_jpeg(data) for data in frames(count, LOW, number)]
        np.testing.assert_array_equal(load_npy(members["low.npy"]), low)


def test_a_prepared_low_resolution_alone_gives_clips_in_low_only(tmp_path: Path):
    write_zip(partition(tmp_path / "zips", LOW), {"v/a": frames(6, LOW)})
    card = small_card(
        sources=[{"kind": "longvideogan_zips", "path": "zips"}],
        low={"height": LOW[0], "width": LOW[1]},
        high={"height": HIGH[0], "width": HIGH[1]},
    )
    dataset = build_dataset(card, tmp_path, tmp_path / "out")

    (clip,) = dataset.rows("clips")
    assert (clip["in_low"], clip["in_high"]) == (True, False)


def test_a_damaged_frame_rejects_its_clip(both: Path):
    low, high = frames(5, LOW), frames(5, HIGH)
    high[3] = high[3][:100]
    for size, jpegs in ((LOW, low), (HIGH, high)):
        write_zip(partition(both / "zips", size, 9), {"v/damaged": jpegs})
    card = small_card(
        sources=[{"kind": "longvideogan_zips", "path": "zips"}],
        low={"height": LOW[0], "width": LOW[1]},
        high={"height": HIGH[0], "width": HIGH[1]},
    )
    dataset = build_dataset(card, both, both / "out")

    rejects = {row["origin"]: row["cause"] for row in dataset.rows("rejects")}
    assert rejects["v/damaged"] == "decode_error"
