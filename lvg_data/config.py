"""The dataset card: everything that decides what a dataset holds, checked when it is loaded.

The text below a field is what `manifests/README.md` says of it, and a type's `title` what it says of the type;
run `python -m lvg_data.card_docs` after a change.
"""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from lvg_data.errors import CardError
from lvg_data.strict_yaml import parse_yaml, read_yaml


def _parse_seconds(value: Any) -> Fraction:
    """Seconds as a number, "12.5", "1001/30", "m:ss" or "h:mm:ss.s"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError(f"a time is seconds or h:mm:ss, got {value!r}")
    fields = str(value).split(":")
    if len(fields) > 3:
        raise ValueError(f"a time is seconds, m:ss or h:mm:ss, got {len(fields)} numbers")
    seconds = Fraction(0)
    for field_text in fields:
        seconds = seconds * 60 + _parse_fraction(field_text)
    return seconds


#: longest text of a number, and what would write a number of a thousand digits and more
_MAX_NUMBER_CHARACTERS = 60
_HUGE_EXPONENT = re.compile(r"e[+-]?[\d_]{3,}", re.IGNORECASE)


def _parse_fraction(text: str) -> Fraction:
    if len(text) > _MAX_NUMBER_CHARACTERS or _HUGE_EXPONENT.search(text):
        raise ValueError(f"{text[:20]!r}... is no number of a size that can be meant")
    try:
        return Fraction(text)
    except ZeroDivisionError as err:
        raise ValueError(f"{text!r} divides by zero") from err


def _parse_rate(value: Any) -> Fraction | Literal["native"]:
    if value == "native":
        return "native"
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError(f"a frame rate is native or frames per second, got {value!r}")
    rate = _parse_fraction(str(value))
    if not 0 < rate <= 1000:
        raise ValueError(f"a frame rate lies between 0 and 1000 frames per second, got {value}")
    return rate


def _parse_assumed_rate(value: Any) -> Fraction:
    rate = _parse_rate(value)
    if rate == "native":
        raise ValueError("pictures have no frame rate of their own; give frames per second")
    return rate


def _check_address(text: str) -> str:
    """Refuses what looks like an address and cannot be taken apart, e.g. `http://[x`."""
    try:
        _ = urlsplit(text).port if "://" in text else None
    except ValueError:
        raise ValueError("no address: host and port cannot be told") from None
    return text


_as_text = PlainSerializer(str, return_type=str)
Seconds = Annotated[
    Fraction, BeforeValidator(_parse_seconds), _as_text, Field(title="seconds, m:ss or h:mm:ss.s")
]
FrameRate = Annotated[
    Fraction | Literal["native"],
    BeforeValidator(_parse_rate), _as_text, Field(title="`native`, or frames per second: 30, 29.97, 30000/1001"),
]  # fmt: skip
AssumedRate = Annotated[
    Fraction,
    BeforeValidator(_parse_assumed_rate), _as_text, Field(title="frames per second: 25, 29.97, 30000/1001"),
]  # fmt: skip
Share = Annotated[float, Field(ge=0, le=1, title="0 to 1")]
Level = Annotated[float, Field(ge=0, le=255, title="0 to 255")]
SplitName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,31}$", title="name of a split")]
VariantName = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,31}$", title="name")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", title="64 hex digits")]
_address = AfterValidator(_check_address)
VideoUrl = Annotated[str, Field(pattern="^https?://", title="`http(s)://` address"), _address]
UrlPattern = Annotated[
    str, Field(pattern=r"^https?://.*\{id\}", title="`http(s)://` address with `{id}` in it"), _address
]
Place = Annotated[str, Field(min_length=1), _address]


class Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=False,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class IntervalConfig(Model):
    """A stretch of a video: `[start, stop]`, or these fields."""

    start: Seconds
    """The first frame is the first one shown at this time or later."""
    stop: Seconds
    """Frames shown before this time are kept."""
    end_inclusive: bool = False
    """Keep a frame that is shown exactly at `stop` too."""

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if len(value) != 2:
                raise ValueError(f"an interval is [start, stop], got {len(value)} values")
            return {"start": value[0], "stop": value[1]}
        if not isinstance(value, dict | IntervalConfig):
            raise ValueError("an interval is [start, stop]")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> IntervalConfig:
        if self.start < 0 or self.stop <= self.start:
            raise ValueError(f"start {self.start} must be at least 0 and before stop {self.stop}")
        return self


class Expected(Model):
    """What a list must hold; a card whose list holds something else is refused, with both numbers."""

    videos: Annotated[int, Field(ge=1)] | None = None
    """Number of videos: files, ids or frame folders."""
    intervals: Annotated[int, Field(ge=1)] | None = None
    """Number of intervals or sequences in all of them."""


class ListedSource(Model):
    """Videos that a list names, one of the formats below."""

    list: Place
    """The list: a path relative to the card, or an `http(s)://`, `s3://` or `gs://` address. What was downloaded is
    kept in the store, until `lvg-data clean`."""
    sha256: Sha256 | None = None
    """What the list's content must hash to."""
    expect: Expected = Expected()
    """What the list must hold."""
    split: SplitName | None = None
    """The split of all its videos; else the list's own, else by the card's shares."""


class HostedSource(ListedSource):
    """A list of video ids, and where the videos themselves are."""

    url: UrlPattern = "https://www.youtube.com/watch?v={id}"
    """Address of a video, `{id}` in the place of its id; what is not a plain file goes through yt-dlp."""
    folder: Place | None = None
    """A folder or address of own copies, named `<id>.<any suffix>`; nothing is downloaded then."""


class FilesSource(Model):
    """Videos on disk or in a bucket: a file, a folder (searched whole) or a glob."""

    kind: Literal["files"]
    path: Place
    """Path relative to the card, or an `s3://` or `gs://` address."""
    split: SplitName | None = None
    """The split of all these videos; else by the card's shares."""
    intervals: dict[str, tuple[IntervalConfig, ...]] = {}
    """Stretches to keep as given, by file name; files that are not named are cut into scenes."""
    expect: Expected = Expected()
    """What must be found."""


class UrlItem(Model):
    """One video behind an address."""

    url: VideoUrl
    """Where it is: a file, or a page or stream that yt-dlp knows."""
    id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Its id; else a hash of the address."""
    sha256: Sha256 | None = None
    """What the content must hash to."""
    split: SplitName | None = None
    """Its split; else by the card's shares."""
    intervals: tuple[IntervalConfig, ...] | None = None
    """Stretches to keep as given; without any the video is cut into scenes."""


class UrlsSource(Model):
    """A few videos behind HTTP(S) addresses, written in the card itself."""

    kind: Literal["urls"]
    items: Annotated[tuple[UrlItem, ...], Field(min_length=1)]
    """The videos."""


class TableSource(ListedSource):
    """A list of addresses or paths: txt (one a line), CSV, JSONL or Parquet.

    Columns `url` or `path`, and as wanted `id`, `start`, `end`, `fps`, `split`, `sha256`; others are kept in
    the metadata. Rows of one video are its intervals.
    """

    kind: Literal["table"]


class ClipListSource(HostedSource):
    """A clip list of LongVideoGAN: JSON, `{id: ["m:ss m:ss", ...]}`, ends inclusive."""

    kind: Literal["clip_list"]


class TrajectoriesSource(HostedSource):
    """Camera trajectories of ACID or RealEstate10K: a `tar.gz` or folder of text files, one sequence each.

    A sequence becomes a clip from its first to its last timestamp, with its poses and intrinsics.
    """

    kind: Literal["trajectories"]
    tolerance_s: Annotated[float, Field(gt=0, le=1)] = 0.02
    """A listed pose belongs to the frame nearest in time, at most this far away."""


class FrameFoldersSource(Model):
    """Videos as folders of JPEG or PNG frames, at any depth; the frame's number ends its name."""

    kind: Literal["frame_folders"]
    path: Annotated[str, Field(min_length=1)]
    """The folder above them, relative to the card."""
    frame_rate: AssumedRate
    """Frames per second that they are taken to have."""
    splits: dict[str, SplitName] = {}
    """Split by the name of the uppermost folder, e.g. `{sky_train: train, sky_test: test}`."""
    expect: Expected = Expected()
    """What must be found."""


class PreparedSource(Model):
    """Datasets that the LongVideoGAN release prepared: `<HHHH>x<WWWW>/partition_<NNNN>.zip`, JPEGs copied."""

    kind: Literal["longvideogan_zips"]
    path: Annotated[str, Field(min_length=1)]
    """The folder that holds the folders of one or both of the card's resolutions, relative to the card."""
    frame_rate: AssumedRate = Fraction(30000, 1001)
    """Frames per second that they are taken to have."""
    split: SplitName | None = None
    """The split of all of them; else by the card's shares."""
    expect: Expected = Expected()
    """What must be found."""


class PackageSource(Model):
    """Videos that an installed Python package brings."""

    kind: Literal["package"]
    package: Annotated[str, Field(min_length=1)]
    """Name of the package."""
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the videos inside it."""
    split: SplitName | None = None
    """The split of all these videos; else by the card's shares."""


class RidesSource(Model):
    """The generated first-person rides of `lvg-data demo-videos`, made once and kept in the user's cache."""

    kind: Literal["rides"]
    seed: int = 0
    """Another number makes other rides."""


SOURCE_KINDS: dict[str, type[Model]] = {
    "files": FilesSource, "urls": UrlsSource, "table": TableSource, "clip_list": ClipListSource,
    "trajectories": TrajectoriesSource, "frame_folders": FrameFoldersSource,
    "longvideogan_zips": PreparedSource, "package": PackageSource, "rides": RidesSource,
}  # fmt: skip
SourceConfig = Annotated[
    FilesSource
    | UrlsSource
    | TableSource
    | ClipListSource
    | TrajectoriesSource
    | FrameFoldersSource
    | PreparedSource
    | PackageSource
    | RidesSource,
    Field(discriminator="kind"),
]
Pixels = Annotated[int, Field(ge=8, le=2048)]


class ResolutionConfig(Model):
    """One resolution of the dataset."""

    height: Pixels
    """Of a picture, in pixels."""
    width: Pixels
    """Of a picture, in pixels."""
    min_frames: Annotated[int, Field(ge=1)]
    """Shorter clips are left out of this resolution; left out of both, they are rejected."""
    window_frames: Annotated[int, Field(ge=1)]
    """The longest window that streaming finds whole in one part: parts overlap by one frame less."""
    part_frames: Annotated[int, Field(ge=1, le=10_000)]
    """A longer clip is stored as several parts, each a sample of up to so many frames."""

    @model_validator(mode="after")
    def _window_fits(self) -> ResolutionConfig:
        if self.part_frames < self.window_frames:
            raise ValueError(
                f"part_frames {self.part_frames} must be at least window_frames {self.window_frames}"
            )
        return self


class LowConfig(ResolutionConfig):
    """Long clips at low resolution, stored raw: what stage 1 learns from."""

    height: Pixels = 64
    width: Pixels = 64
    min_frames: Annotated[int, Field(ge=1)] = 128
    window_frames: Annotated[int, Field(ge=1)] = 128
    part_frames: Annotated[int, Field(ge=1, le=10_000)] = 1024


class HighConfig(ResolutionConfig):
    """Short clips at high resolution, stored as JPEG beside their low-res frames: what stage 2 learns from."""

    height: Pixels = 256
    width: Pixels = 256
    min_frames: Annotated[int, Field(ge=1)] = 12
    window_frames: Annotated[int, Field(ge=1)] = 12
    part_frames: Annotated[int, Field(ge=1, le=1000)] = 40
    """A longer clip is stored as several parts, each a sample of up to so many frames, named f000 to f999."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 100
    """Quality of the stored pictures."""


class CutConfig(Model):
    """How scenes are found where no intervals are given."""

    detector: Literal["adaptive", "content", "hash", "histogram", "transnetv2", "none"] = "adaptive"
    """What finds cuts: PySceneDetect's first four, a network (extra `neural`), or nothing: a video is one scene."""
    threshold: float | None = None
    """The detector's own; null is 3 (adaptive), 27 (content), 0.4 (hash), 0.5 (histogram, transnetv2)."""
    fade_threshold: Level | None = 8.0
    """Frames of a lower mean level are the dark middle of a fade; null looks for no fades."""
    guard_frames: Annotated[int, Field(ge=0, le=1000)] = 2
    """Frames that a scene loses beside each cut."""


class TrimConfig(Model):
    """Quality policies for scenes that were found; given intervals are measured, never dropped for these.

    A level is 0 to 255. Each `max_*_share` is the largest share that is kept; 1 keeps everything.
    """

    black_level: Level = 16.0
    """A frame of a lower mean level is black."""
    max_black_share: Share = 0.1
    """Share of the frames that are black; those at the ends of a scene are taken off first."""
    frozen_difference: Level = 0.2
    """A frame that differs less than this from the one before, on average, repeats it."""
    max_frozen_share: Share = 0.5
    """Share of the frames that repeat the one before."""
    letterbox: Literal["crop", "reject", "keep"] = "crop"
    """Dark bars at the edges of a video: cut off, or its scenes rejected, or left."""
    bar_level: Level = 20.0
    """A pixel of a lower level may belong to a bar."""
    max_bar_share: Share = 0.04
    """Share of the picture that bars still take after the crop."""
    max_overlay_share: Share = 0.006
    """Share of the picture that a logo or text takes, fixed over moving pictures."""


class ShardsConfig(Model):
    """The files of the dataset."""

    target_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 40)] = 256 << 20
    """A shard is at most this large, and rarely less than half of it."""
    seed: int = 0
    """Another number shuffles the clips over the shards differently."""


class DownloadConfig(Model):
    """Which of several formats of a video is downloaded."""

    height_margin: Annotated[float, Field(ge=1, le=16)] = 2.0
    """The smallest format is taken whose height is at least high.height times this."""
    max_frame_rate: Annotated[float, Field(gt=0)] = 61
    """Formats with more frames per second are left out."""


class LimitsConfig(Model):
    """What one video may cost, and how fast hosts are asked. They never change what a good video gives."""

    file_bytes: Annotated[int, Field(ge=1)] = 64 << 30
    """Largest file that is fetched."""
    frame_pixels: Annotated[int, Field(ge=64 * 64)] = 8192 * 4320
    """Largest picture that is decoded."""
    decode_wall_s: Annotated[float, Field(gt=0)] = 3600
    """Seconds on the clock for one stretch of decoding."""
    decode_memory_bytes: Annotated[int, Field(ge=64 << 20)] = 1536 << 20
    """Memory of one decoder, beside what its libraries take."""
    fetch_wall_s: Annotated[float, Field(gt=0)] = 7200
    """Seconds on the clock to fetch one video, attempts and pauses included."""
    fetch_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    """Attempts to fetch one video."""
    downloads_per_hour: Annotated[float, Field(gt=0)] = 300
    """Videos an hour that each worker process asks of one host through yt-dlp."""
    requests_per_s: Annotated[float, Field(gt=0)] = 20
    """Requests a second of each worker process to one host of plain files."""
    host_failures: Annotated[int, Field(ge=1)] = 5
    """After so many refusals in a row ("come back later") a host is not asked again in this run."""
    cache_bytes: Annotated[int, Field(ge=1)] = 1 << 40
    """Downloaded files that are kept; those that this run does not use make room for new ones."""
    free_bytes: Annotated[int, Field(ge=0)] = 2 << 30
    """Free disk space that a download must leave."""


class ExecutionConfig(Model):
    """How the work is done; no field changes a byte of the dataset."""

    workers: Annotated[int, Field(ge=1)] | None = None
    """Videos or stretches of them that are worked on at a time; null is one a core."""
    span_megapixels: Annotated[float, Field(gt=0)] = 1000.0
    """Longest stretch decoded in one go, in millions of pixels; a longer video is split at key frames."""


class Card(Model):
    """A dataset card. `sources` says what goes in, the rest what is made of it."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", title="a-z, 0-9, `_` and `-`")]
    """The dataset's name."""
    title: str = ""
    """Its name for people."""
    licence: Annotated[str, Field(min_length=1)]
    """Under which the videos may be used; it goes into every sample."""
    attribution: Annotated[str, Field(min_length=1)]
    """Who is to be named; it goes into every sample."""
    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Where the videos come from; several sources may be of several kinds."""
    frame_rate: FrameRate = "native"
    """`native` keeps every frame; else the frame nearest in time to each tick is taken."""
    crop: Literal["center_crop", "squash"] = "center_crop"
    """The largest middle part of the right shape, or the whole picture pressed into it."""
    low: LowConfig = LowConfig()
    """The low resolution; of the same shape as the high one, at most half its height."""
    high: HighConfig = HighConfig()
    """The high resolution."""
    cuts: CutConfig = CutConfig()
    """How scenes are found."""
    trim: TrimConfig = TrimConfig()
    """Which scenes are good enough."""
    split: dict[SplitName, Share] = {}
    """Share of the videos in each held-out split, e.g. `{val: 0.1}`, by a hash of their ids; the rest trains."""
    download: DownloadConfig = DownloadConfig()
    """Which format of a video is downloaded."""
    shards: ShardsConfig = ShardsConfig()
    """How large the files are."""
    max_reject_share: Share = 0.5
    """With a larger share of the source rows rejected `build` exits with status 3; the dataset is complete."""
    limits: LimitsConfig = LimitsConfig()
    """What one video may cost."""
    execution: ExecutionConfig = ExecutionConfig()
    """How the work is done."""
    variants: dict[VariantName, Annotated[dict[str, Any], Field(title="fields of a card")]] = {}
    """What `--variant NAME` lays over the card, e.g. `{wide: {low: {height: 36}, high: {height: 144}}}`."""

    @model_validator(mode="after")
    def _whole_card(self) -> Card:
        if "train" in self.split:
            raise ValueError("split names the held-out shares only; train is what they leave")
        if sum(self.split.values()) >= 1:
            raise ValueError(f"split shares sum to {sum(self.split.values())}; nothing is left for train")
        if self.low.height * self.high.width != self.low.width * self.high.height:
            raise ValueError(
                f"low {self.low.height}x{self.low.width} and high {self.high.height}x{self.high.width} "
                "must have one aspect ratio, or they would show different pictures"
            )
        if self.high.height < 2 * self.low.height:
            raise ValueError(
                f"high {self.high.height}x{self.high.width} must be at least twice low "
                f"{self.low.height}x{self.low.width}, which is made from it"
            )
        return self

    @field_validator("variants")
    @classmethod
    def _flat_variants(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if any("variants" in fields for fields in variants.values()):
            raise ValueError("a variant cannot have variants of its own")
        return variants


def recipe(card: Card) -> dict[str, Any]:
    """The fields of a card that decide the dataset's bytes, as plain JSON values."""
    apart = {"execution", "limits", "sources", "max_reject_share", "variants"}
    return card.model_dump(mode="json", exclude=apart)


def models_in(annotation: Any) -> list[type[Model]]:
    """The models inside a field's type, e.g. of `dict[str, tuple[IntervalConfig, ...]]`."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


# ---- finding and loading ----------------------------------------------------------------------------


def bundled_cards() -> dict[str, Path]:
    """Cards that come with the package, by name."""
    folder = Path(str(importlib.resources.files("manifests")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_card(name_or_path: str) -> Path:
    """The file of a card that is named by path or by bundled name.

    Raises:
      CardError: it is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    bundled = bundled_cards()
    if name_or_path in bundled:
        return bundled[name_or_path]
    hint = _nearest(name_or_path, bundled, "bundled cards")
    raise CardError(f"card {name_or_path!r} is neither a file nor a bundled card; {hint}")


def folder_of(card: Path) -> Path:
    """What the relative paths of a card are relative to: its own folder; of a bundled card, the current one."""
    bundled = {path.resolve() for path in bundled_cards().values()}
    return Path.cwd() if card.resolve() in bundled else card.parent


def load_card(path: Path, overrides: tuple[str, ...] = (), variant: str | None = None) -> Card:
    """Reads and checks a card.

    Args:
      overrides: `field.subfield=value` texts, the value in YAML; list items by their number, from 0.
      variant: one of the card's `variants`, laid over it before the overrides.

    Raises:
      CardError: the file is no YAML mapping, a field is unknown or given twice, a value is impossible, or the
        card has no such variant. The text names the file, the field, the value and the nearest field that exists.
    """
    try:
        data = read_yaml(path)
    except (OSError, ValueError) as err:
        raise CardError(f"{path}: not a readable YAML file: {_hidden(str(err))}") from err
    if not isinstance(data, dict):
        raise CardError(f"{path}: a card is a mapping of fields, got {type(data).__name__}")
    _check_variants(str(path), data)
    chosen = _with_variant(str(path), data, variant)
    for text in overrides:
        _override(chosen, text)
    return _checked(str(path), chosen)


def _checked(where: str, data: dict[str, Any]) -> Card:
    try:
        return Card.model_validate(data)
    except ValidationError as err:
        raise CardError("\n".join(f"{where}: {_explain(data, e)}" for e in _innermost(err))) from err


def _nearest(name: object, known: Iterable[str], what: str) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]}?" if near else f"{what}: {', '.join(known)}"


# ---- variants and overrides -------------------------------------------------------------------------


def _check_variants(where: str, data: dict[str, Any]) -> None:
    """Every variant must be a good card, also one that nobody chose; where the card itself is good as it stands."""
    try:
        variants = Card.model_validate(data).variants if data.get("variants") else {}
    except ValidationError:
        return
    for name in variants:
        _checked(f"{where} with variant {name}", _with_variant(where, data, name))


def _with_variant(where: str, data: dict[str, Any], variant: str | None) -> dict[str, Any]:
    variants = data.get("variants")
    known = variants if isinstance(variants, dict) else {}
    if variant is not None and variant not in known:
        hint = _nearest(variant, known, "variants") if known else "it has none"
        raise CardError(f"{where}: the card has no variant {variant!r}; {hint}")
    fields = known[variant] if variant is not None else {}
    return _merged(data, fields if isinstance(fields, dict) else {})


def _merged(base: Any, over: Any) -> Any:
    """`over` laid on `base`: mappings field by field, all else whole. A copy, also of what an alias repeats."""
    if isinstance(over, dict):
        below = base if isinstance(base, dict) else {}
        return {name: _merged(below.get(name), over.get(name, below.get(name))) for name in {**below, **over}}
    return [_merged(None, value) for value in over] if isinstance(over, list) else over


def _override(data: dict[str, Any], text: str) -> None:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise CardError(f"--set {_shown(text)}: write it as field=value, e.g. --set high.jpeg_quality=95")
    try:
        parsed = parse_yaml(value)
    except ValueError as err:
        raise CardError(f"--set {_shown(text)}: the value is not YAML: {_hidden(str(err))}") from err
    *parents, last = name.split(".")
    node: Any = data
    for i, parent in enumerate(parents):
        key = _key(node, parent, ".".join(parents[:i]), text)
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict | list):
            raise CardError(f"--set {_shown(text)}: {'.'.join(parents[: i + 1])} has no fields to set")
    node[_key(node, last, ".".join(parents), text)] = parsed


def _key(node: dict[str, Any] | list[Any], part: str, name: str, text: str) -> Any:
    """What a part of a dotted name stands for in a mapping or a list."""
    if isinstance(node, dict):
        return part
    if part not in map(str, range(len(node))):
        items = f"{len(node)} item{'s' if len(node) != 1 else ''}"
        raise CardError(
            f"--set {_shown(text)}: {name} is a list of {items}, counted from 0; it has no {part!r}"
        )
    return int(part)


# ---- explaining -------------------------------------------------------------------------------------


def _innermost(err: ValidationError) -> list[Any]:
    """The problems without those that only follow from one deeper in the same field."""
    errors = err.errors()
    paths = [e["loc"] for e in errors]
    return [
        e for e in errors if not any(p[: len(e["loc"])] == e["loc"] and len(p) > len(e["loc"]) for p in paths)
    ]


#: pydantic's problem -> ours, where its words are those of Python
_PLAIN_MESSAGES = {
    "tuple_type": "a list is needed, [a, b] or one `- item` a line",
    "dict_type": "fields are needed, {name: value} or one a line",
    "model_type": "fields are needed, {name: value} or one a line",
    "model_attributes_type": "fields are needed, {name: value} or one a line",
    "string_type": "text is needed; quote what YAML would read as something else",
}


def _explain(data: dict[str, Any], error: Any) -> str:
    """One line for one problem: field, value, what to do."""
    is_source = error["loc"][:1] == ("sources",)
    where = [p for i, p in enumerate(error["loc"]) if not (is_source and i == 2 and p in SOURCE_KINDS)]
    if error["type"].startswith("union_tag"):
        where.append("kind")
    name = ".".join(str(part) for part in where if part != "[key]") or "(card)"
    if error["type"] == "extra_forbidden":
        hint = _nearest(where[-1], _fields_beside(where, data), "fields here")
        return f"{name}: unknown field (value {_shown(error['input'])}); {hint}"
    if error["type"] == "missing":
        return f"{name}: missing; {'every card needs it' if len(where) == 1 else 'it has no default'}"
    if error["type"] == "union_tag_not_found":
        return f"{name}: missing; kinds: {', '.join(SOURCE_KINDS)}"
    if error["type"] == "union_tag_invalid":
        kind = error["ctx"]["tag"]
        return f"{name}: no kind of source is {kind!r}; {_nearest(kind, SOURCE_KINDS, 'kinds')}"
    message = _PLAIN_MESSAGES.get(error["type"], error["msg"].removeprefix("Value error, "))
    value = "" if error["loc"] == () else f" (got {_shown(error['input'])})"
    return f"{name}: {message}{value}"


def _shown(value: Any) -> str:
    text = _hidden(repr(value)[:2000])
    return text if len(text) <= 200 else f"{text[:200]}..."


def _hidden(text: str) -> str:
    from lvg_data.fetch.addresses import hide_addresses  # which needs this file

    return hide_addresses(text)


def _fields_beside(where: list[str | int], data: dict[str, Any]) -> list[str]:
    """Names of the fields that may stand where an unknown one was found."""
    model: type[Model] = Card
    for i, part in enumerate(where[:-1]):
        if part == "sources" and i == 0:
            model = SOURCE_KINDS[data["sources"][where[1]]["kind"]]
        elif part in model.model_fields:
            model = next(iter(models_in(model.model_fields[str(part)].annotation)), model)
    return list(model.model_fields)
