"""Every noun that is a row: frozen dataclasses whose fields are the columns of the tables.

Times are rational strings ("1001/30000") where they must be exact. Frame numbers of scenes, clips and
parts count the frames of the dataset (the video's grid, see `timeline`), not those of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvg_data.timeline import Interval

# ---- what a source adapter hands over -------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """A video to fetch: a local path (used in place) or a URL.

    Attributes:
      url: absolute local path, `http(s)://`, `s3://` or `gs://`.
      sha256: what the content must hash to, when the card promises it.
    """

    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class FrameFolder:
    """Pictures of one video on disk, ordered by the number that ends their names.

    Attributes:
      path: absolute path of the folder.
      frame_rate: frames per second that they are taken to have, a rational.
    """

    path: str
    frame_rate: str


@dataclass(frozen=True)
class RenderedFrames:
    """JPEG frames of one clip that have a known resolution already and are copied, not rendered.

    Attributes:
      archive: absolute path of the stored ZIP that holds them.
      clip: their key in its `frame_paths.json`.
      role: "low" or "high".
      frame_rate: frames per second that they are taken to have, a rational.
    """

    archive: str
    clip: str
    role: str
    frame_rate: str


Media = Address | FrameFolder | tuple[RenderedFrames, ...]


@dataclass(frozen=True)
class Track:
    """Where the camera poses of one interval are: rows [start_row, stop_row) of a pose table in a store.

    Attributes:
      name: of the sequence in the list.
      address: of the table, see `poses`; its name in the store depends on the list's content alone.
      tolerance_s: a pose belongs to the frame nearest in time, at most this far away.
    """

    name: str
    address: str
    start_row: int
    stop_row: int
    tolerance_s: float


@dataclass(frozen=True)
class Source:
    """One input row of a dataset.

    Attributes:
      video_id: declared by the card or list, else a hash of the row.
      origin: what the card says, without anything secret or local (see `sources`); shown to users.
      group: videos of one group go to one split; by itself a video is its own group.
      intervals: stretches to keep as given; None asks for scene cuts.
      tracks: poses of each interval, or nothing.
      frame_rate: frames per second to resample to, a rational, instead of the card's.
      extra: JSON object of further columns, carried to the metadata of every part.
      interval_extras: the same of each interval, where a list has a row for each; or nothing.
    """

    video_id: str
    origin: str
    media: Media
    licence: str
    attribution: str
    split: str | None = None
    group: str | None = None
    intervals: tuple[Interval, ...] | None = None
    tracks: tuple[Track, ...] = ()
    frame_rate: str | None = None
    extra: str = "{}"
    interval_extras: tuple[str, ...] = ()


# ---- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Video:
    """A fetched and probed file.

    Attributes:
      width, height: of the coded picture, in pixels; `bar_*` are dark edges in the same pixels.
      num_frames: frames that the file holds and shows.
      num_leading_frames_dropped: frames before the first key frame, which nothing can decode.
      num_frames_cut_off: frames that the container's index promises behind the end of the file.
      num_grid_frames: frames at the card's frame rate.
      times_counted: the file has no usable presentation times, so that its frames were counted.
      num_missing_frames: frames that a folder's numbering leaves out.
      grid_rate: "native", or the frames per second that the dataset resamples the video to.
      downloaded_format: JSON object, what yt-dlp chose: format_id, codecs, width, height, fps; else "{}".
    """

    TABLE: ClassVar[str] = "videos"
    video_id: str
    origin: str
    split: str
    licence: str
    attribution: str
    sha256: str
    size_bytes: int
    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation_degrees: int
    sample_aspect_ratio: str
    interlaced: bool
    colour_matrix: str
    colour_range: str
    time_base: str
    num_frames: int
    num_leading_frames_dropped: int
    num_frames_cut_off: int
    num_missing_frames: int
    duration_s: float
    frame_rate: str
    variable_frame_rate: bool
    times_counted: bool
    grid_rate: str
    num_grid_frames: int
    bar_top: int
    bar_bottom: int
    bar_left: int
    bar_right: int
    has_intervals: bool
    num_intervals: int
    downloaded_format: str
    extra: str


@dataclass(frozen=True)
class Cut:
    """A change of scene. Hard: start_frame == stop_frame, the first frame of the new scene.

    Soft (fade, dissolve): frames [start_frame, stop_frame) belong to no scene.
    """

    start_frame: int
    stop_frame: int
    detector: str


@dataclass(frozen=True)
class Scene:
    """A span between cuts, or a given interval.

    Attributes:
      kind: "cut" (found between cuts) or "given" (an interval of the source).
      clamped: the given interval ran past the end of the video.
      num_cuts_inside: cuts that the detector sees in a given interval, which is not cut there.
      interval_number: of the source's intervals, counted from 0, where one was given.
    """

    TABLE: ClassVar[str] = "scenes"
    scene_id: str
    video_id: str
    kind: str
    start_frame: int
    stop_frame: int
    start_s: str
    stop_s: str
    given_start_s: str | None
    given_stop_s: str | None
    clamped: bool
    num_cuts_inside: int
    interval_number: int | None
    ended_by: str


@dataclass(frozen=True)
class Clip:
    """A trimmed scene: the unit of training data.

    Attributes:
      frames_expected: frames that the span of the clip holds; equal to `frames_written` in every row.
      crop_*: the stretch of the coded picture that was kept, in coded pixels.
      *_share, bar_share, overlay_share: the measured qualities, see `trim`.
      low_bytes, high_bytes: stored size of the frames at each resolution; 0 where it has no part.
      track: name of its camera track, if it has one; `num_poses_matched` of its `num_poses` listed poses belong
        to one of the clip's frames.
    """

    TABLE: ClassVar[str] = "clips"
    clip_id: str
    scene_id: str
    video_id: str
    split: str
    start_frame: int
    stop_frame: int
    start_s: str
    stop_s: str
    frame_rate: str
    frames_expected: int
    frames_written: int
    crop_left: int
    crop_top: int
    crop_right: int
    crop_bottom: int
    black_share: float
    frozen_share: float
    bar_share: float
    overlay_share: float
    in_low: bool
    in_high: bool
    low_bytes: int
    high_bytes: int
    has_poses: bool
    num_poses: int
    num_poses_matched: int
    track: str | None
    interval_number: int | None

    @property
    def num_frames(self) -> int:
        return self.stop_frame - self.start_frame


@dataclass(frozen=True)
class Member:
    """A file inside a shard: its name after the key, and where its bytes are."""

    name: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class Part:
    """At most N consecutive frames of a clip: one WebDataset sample. Frames count from the clip's first.

    The part owns the window starts [owned_start, owned_stop) for windows of the resolution's
    `window_frames`; for shorter ones see `timeline.owned_starts`.
    """

    TABLE: ClassVar[str] = "parts"
    role: str
    key: str
    clip_id: str
    part_index: int
    start_frame: int
    stop_frame: int
    owned_start: int
    owned_stop: int
    shard: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Shard:
    TABLE: ClassVar[str] = "shards"
    role: str
    name: str
    split: str
    num_parts: int
    num_frames: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Reject:
    """What was dropped, where and why.

    Attributes:
      level: "source", "interval", "scene" or "transition": what was dropped whole.
      subject: id of what was dropped: of the video; of the video and the interval's number; of the scene; of
        the video and the transition's first frame.
      retryable: another attempt may succeed without a change of the input.
      value, threshold: the figure that decided and what it was compared with.
    """

    TABLE: ClassVar[str] = "rejects"
    level: str
    subject: str
    video_id: str
    origin: str
    cause: str
    retryable: bool
    start_frame: int | None = None
    stop_frame: int | None = None
    value: float | None = None
    threshold: float | None = None


TABLES = (Video, Scene, Clip, Part, Shard, Reject)


# ---- between the steps of a build: records and store addresses, never pictures ----------------------


@dataclass(frozen=True)
class Fetched:
    """A source whose bytes are at hand.

    Attributes:
      address: of the file: a local path, or one in the store.
      sha256: of its content; names the content in later keys.
      downloaded_format: see `Video`.
    """

    source: Source
    address: str
    sha256: str
    size_bytes: int
    downloaded_format: str = "{}"


@dataclass(frozen=True)
class Probed:
    """A probed video: its row, its file and the artefact with its packets."""

    video: Video
    fetched: Fetched
    probe: str

    @property
    def source(self) -> Source:
        return self.fetched.source


@dataclass(frozen=True)
class Span:
    """Frames of one video that are decoded in one go.

    Attributes:
      start, stop: ordinals in the file, in presentation order; `start` is a key frame.
      wanted: ranges [start, stop) of grid frames to render.
      cost: decode cost in megapixels, for the order of work.
    """

    start: int
    stop: int
    wanted: tuple[tuple[int, int], ...]
    cost: float


@dataclass(frozen=True)
class RenderedSpan:
    """Where a span's rendered frames are in the store, and how many of those wanted are not there.

    `cause` says why none are there, when the decode of the whole span was given up.
    """

    start: int
    stop: int
    address: str
    num_frames: int
    num_missing: int
    cause: str | None = None


@dataclass(frozen=True)
class RenderedVideo:
    probed: Probed
    spans: tuple[RenderedSpan, ...]


@dataclass(frozen=True)
class CutVideo:
    """Everything that cutting and trimming decided about one video."""

    rendered: RenderedVideo
    scenes: tuple[Scene, ...]
    clips: tuple[Clip, ...]
    rejects: tuple[Reject, ...]


@dataclass(frozen=True)
class PlannedPart:
    """A part before it is written."""

    key: str
    clip: Clip
    part_index: int
    start_frame: int
    stop_frame: int
    owned_start: int
    owned_stop: int


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is written: its parts in order, and the videos that they are cut from."""

    role: str
    split: str
    name: str
    parts: tuple[PlannedPart, ...]
    videos: tuple[RenderedVideo, ...]


@dataclass(frozen=True)
class WrittenShard:
    """A shard in the store, to be put in its place; its rows of the parts table lie beside it."""

    shard: Shard
    address: str
