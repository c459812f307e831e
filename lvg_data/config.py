"""The dataset card: everything that decides what a dataset holds, checked when it is loaded."""

from __future__ import annotations

import difflib
import importlib.resources
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from lvg_data.errors import CardError


def _parse_seconds(value: Any) -> Fraction:
    """Seconds as a number, "12.5", "1001/30", "m:ss" or "h:mm:ss.s"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError(f"a time is seconds or h:mm:ss, got {value!r}")
    seconds = Fraction(0)
    for field_text in str(value).split(":"):
        seconds = seconds * 60 + _parse_fraction(field_text)
    return seconds


def _parse_fraction(text: str) -> Fraction:
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


_as_text = PlainSerializer(str, return_type=str)
Seconds = Annotated[Fraction, BeforeValidator(_parse_seconds), _as_text]
FrameRate = Annotated[Fraction | Literal["native"], BeforeValidator(_parse_rate), _as_text]
Share = Annotated[float, Field(ge=0, le=1)]
SplitName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,31}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, arbitrary_types_allowed=True)


class IntervalConfig(Model):
    """`[start, stop]` in seconds or h:mm:ss; `end_inclusive` keeps a frame exactly at the end."""

    start: Seconds
    stop: Seconds
    end_inclusive: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if len(value) != 2:
                raise ValueError(f"an interval is [start, stop], got {len(value)} values")
            return {"start": value[0], "stop": value[1]}
        return value

    @model_validator(mode="after")
    def _ordered(self) -> IntervalConfig:
        if self.start < 0 or self.stop <= self.start:
            raise ValueError(f"start {self.start} must be at least 0 and before stop {self.stop}")
        return self


class FilesSource(Model):
    """Local videos: a file, a folder (searched whole) or a glob, relative to the card."""

    kind: Literal["files"]
    path: Annotated[str, Field(min_length=1)]
    split: SplitName | None = None
    intervals: dict[str, tuple[IntervalConfig, ...]] = {}


class UrlItem(Model):
    url: Annotated[str, Field(pattern="^https?://")]
    id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    sha256: Sha256 | None = None
    split: SplitName | None = None
    intervals: tuple[IntervalConfig, ...] | None = None


class UrlsSource(Model):
    """Videos behind plain HTTP(S) addresses."""

    kind: Literal["urls"]
    items: Annotated[tuple[UrlItem, ...], Field(min_length=1)]


class PackageSource(Model):
    """Videos that an installed Python package brings, by their names inside it."""

    kind: Literal["package"]
    package: Annotated[str, Field(min_length=1)]
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    split: SplitName | None = None


class RidesSource(Model):
    """The generated first-person rides of `lvg-data demo-videos`, made once and kept in the user's cache."""

    kind: Literal["rides"]
    seed: int = 0


SOURCE_KINDS: dict[str, type[Model]] = {
    "files": FilesSource, "urls": UrlsSource, "package": PackageSource, "rides": RidesSource,
}  # fmt: skip
SourceConfig = Annotated[FilesSource | UrlsSource | PackageSource | RidesSource, Field(discriminator="kind")]
Pixels = Annotated[int, Field(ge=8, le=2048)]


class ResolutionConfig(Model):
    """One resolution of the dataset.

    A clip of at least `min_frames` goes to it, as parts of up to `part_frames` frames that overlap by
    `window_frames` - 1, so that every window of up to `window_frames` lies whole in one part.
    """

    height: Pixels
    width: Pixels
    min_frames: Annotated[int, Field(ge=1)]
    window_frames: Annotated[int, Field(ge=1)]
    part_frames: Annotated[int, Field(ge=1, le=10_000)]

    @model_validator(mode="after")
    def _window_fits(self) -> ResolutionConfig:
        if self.part_frames < self.window_frames:
            raise ValueError(
                f"part_frames {self.part_frames} must be at least window_frames {self.window_frames}"
            )
        return self


class LowConfig(ResolutionConfig):
    height: Pixels = 64
    width: Pixels = 64
    min_frames: Annotated[int, Field(ge=1)] = 128
    window_frames: Annotated[int, Field(ge=1)] = 128
    part_frames: Annotated[int, Field(ge=1, le=10_000)] = 1024


class HighConfig(ResolutionConfig):
    height: Pixels = 256
    width: Pixels = 256
    min_frames: Annotated[int, Field(ge=1)] = 12
    window_frames: Annotated[int, Field(ge=1)] = 12
    part_frames: Annotated[int, Field(ge=1, le=10_000)] = 40
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 100


class CutConfig(Model):
    """How scenes are found where no intervals are given."""

    detector: Literal["adaptive", "content", "hash", "histogram", "transnetv2", "none"] = "adaptive"
    threshold: float | None = None
    fade_threshold: Annotated[float, Field(ge=0, le=255)] | None = 8.0
    guard_frames: Annotated[int, Field(ge=0, le=1000)] = 2


class TrimConfig(Model):
    """Quality policies for scenes that were found; given intervals are measured, never dropped for these.

    A level is 0 to 255. Each `max_*_share` is the largest share that is kept; 1 keeps everything.
    """

    black_level: Annotated[float, Field(ge=0, le=255)] = 16.0
    max_black_share: Share = 0.1
    frozen_difference: Annotated[float, Field(ge=0, le=255)] = 0.2
    max_frozen_share: Share = 0.5
    letterbox: Literal["crop", "reject", "keep"] = "crop"
    bar_level: Annotated[float, Field(ge=0, le=255)] = 20.0
    max_bar_share: Share = 0.04
    max_overlay_share: Share = 0.006


class ShardsConfig(Model):
    target_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 40)] = 256 << 20
    seed: int = 0


class LimitsConfig(Model):
    """What one video may cost. They bound the work and never change what a good video gives."""

    file_bytes: Annotated[int, Field(ge=1)] = 64 << 30
    frame_pixels: Annotated[int, Field(ge=64 * 64)] = 8192 * 4320
    decode_wall_s: Annotated[float, Field(gt=0)] = 3600
    decode_memory_bytes: Annotated[int, Field(ge=64 << 20)] = 1536 << 20
    fetch_wall_s: Annotated[float, Field(gt=0)] = 7200
    fetch_attempts: Annotated[int, Field(ge=1, le=100)] = 4


class ExecutionConfig(Model):
    """How the work is done; no field changes a byte of the dataset."""

    workers: Annotated[int, Field(ge=1)] | None = None
    span_megapixels: Annotated[float, Field(gt=0)] = 1000.0


class Card(Model):
    """A dataset card. `sources` says what goes in, the rest what is made of it."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
    title: str = ""
    licence: Annotated[str, Field(min_length=1)]
    attribution: Annotated[str, Field(min_length=1)]
    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    frame_rate: FrameRate = "native"
    crop: Literal["center_crop", "squash"] = "center_crop"
    low: LowConfig = LowConfig()
    high: HighConfig = HighConfig()
    cuts: CutConfig = CutConfig()
    trim: TrimConfig = TrimConfig()
    split: dict[SplitName, Share] = {}
    shards: ShardsConfig = ShardsConfig()
    max_reject_share: Share = 0.5
    limits: LimitsConfig = LimitsConfig()
    execution: ExecutionConfig = ExecutionConfig()

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


def recipe(card: Card) -> dict[str, Any]:
    """The fields of a card that decide the dataset's bytes, as plain JSON values."""
    return card.model_dump(mode="json", exclude={"execution", "limits", "sources", "max_reject_share"})


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
    near = difflib.get_close_matches(name_or_path, bundled, n=1)
    hint = f"did you mean {near[0]}?" if near else f"bundled cards: {', '.join(bundled)}"
    raise CardError(f"card {name_or_path!r} is neither a file nor a bundled card; {hint}")


def load_card(path: Path, overrides: tuple[str, ...] = ()) -> Card:
    """Reads and checks a card; `overrides` are `field.subfield=value` texts, the value in YAML.

    Raises:
      CardError: the file is no YAML mapping, a field is unknown, or a value is impossible. The text
        names the file, the field, the value and the nearest field that exists.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise CardError(f"{path}: not a readable YAML file: {err}") from err
    if not isinstance(data, dict):
        raise CardError(f"{path}: a card is a mapping of fields, got {type(data).__name__}")
    for text in overrides:
        _override(data, text)
    try:
        return Card.model_validate(data)
    except ValidationError as err:
        raise CardError("\n".join(_explain(path, data, e) for e in _innermost(err))) from err


def _override(data: dict[str, Any], text: str) -> None:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise CardError(f"--set {text!r}: write it as field=value, e.g. --set high.jpeg_quality=95")
    *parents, last = name.split(".")
    for parent in parents:
        node = data.setdefault(parent, {})
        if not isinstance(node, dict):
            raise CardError(f"--set {text!r}: {parent} has no fields to set")
        data = node
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise CardError(f"--set {text!r}: the value is not YAML: {err}") from err


def _innermost(err: ValidationError) -> list[Any]:
    """The problems without those that only follow from one deeper in the same field."""
    errors = err.errors()
    paths = [e["loc"] for e in errors]
    return [
        e for e in errors if not any(p[: len(e["loc"])] == e["loc"] and len(p) > len(e["loc"]) for p in paths)
    ]


def _explain(path: Path, data: dict[str, Any], error: Any) -> str:
    """One line for one problem: file, field, value, what to do."""
    where = [part for i, part in enumerate(error["loc"]) if not (i == 2 and part in SOURCE_KINDS)]
    name = ".".join(str(part) for part in where) or "(card)"
    if error["type"] == "extra_forbidden":
        known = _fields_beside(where, data)
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"fields here: {', '.join(known)}"
        return f"{path}: {name}: unknown field (value {error['input']!r}); {hint}"
    if error["type"] == "missing":
        return f"{path}: {name}: missing; every card needs it"
    message = error["msg"].removeprefix("Value error, ")
    value = "" if error["loc"] == () else f" (got {error['input']!r})"
    return f"{path}: {name}: {message}{value}"


def _fields_beside(where: list[str | int], data: dict[str, Any]) -> list[str]:
    """Names of the fields that may stand where an unknown one was found."""
    models: dict[str, type[Model]] = {
        "low": LowConfig, "high": HighConfig, "cuts": CutConfig, "trim": TrimConfig, "shards": ShardsConfig,
        "limits": LimitsConfig, "execution": ExecutionConfig, "items": UrlItem, "intervals": IntervalConfig,
    }  # fmt: skip
    parents = [part for part in where[:-1] if isinstance(part, str)]
    if not parents:
        return list(Card.model_fields)
    if parents == ["sources"]:
        return list(SOURCE_KINDS[data["sources"][where[1]]["kind"]].model_fields)
    return list(models[next(p for p in reversed(parents) if p in models)].model_fields)
