"""One video's rendered frames to scenes, clips and rejects: detectors propose, trimming decides."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lvg_data import ids, poses
from lvg_data.config import Card, ResolutionConfig
from lvg_data.cuts import find_cuts
from lvg_data.errors import Rejected
from lvg_data.records import Clip, Cut, CutVideo, Reject, RenderedSpan, RenderedVideo, Scene, Track, Video
from lvg_data.spans import RenderedFrames, crop_of, load_grid
from lvg_data.timeline import Grid, Interval, frames_in, gaps_of, runs_past_end, standard_rate
from lvg_data.trim import Qualities, judge, measure_qualities, trim_scene

#: raised when the same frames would be trimmed otherwise (for cuts see `cuts.VERSION`)
VERSION = 2
#: row type of each table that cutting a video fills
#: what ends a scene where frames of a folder are missing
GAP = "gap"
ROW_TYPES = {"scenes": Scene, "clips": Clip, "rejects": Reject}


@dataclass(frozen=True)
class _Footage:
    """A video's rendered frames on its grid."""

    video: Video
    grid: Grid
    frames: RenderedFrames
    spans: tuple[RenderedSpan, ...]
    card: Card
    tracks: tuple[Track, ...]

    def low(self, start: int, stop: int) -> Iterator[np.ndarray]:
        return self.frames.low(self.grid.ordinals[start:stop])

    def present(self, start: int, stop: int) -> np.ndarray:
        """int64: those of the grid frames [start, stop) that were rendered."""
        return start + np.flatnonzero(self.frames.find(self.grid.ordinals[start:stop])[1])

    @property
    def frame_rate(self) -> Fraction:
        native = self.video.grid_rate == "native"
        return Fraction(self.video.frame_rate if native else self.video.grid_rate)


def cut_video(rendered: RenderedVideo, card: Card) -> CutVideo:
    """Scenes, clips and rejects of one video.

    Without intervals, scenes are what lies between detected cuts. Given intervals are kept as given: cuts
    inside are counted, qualities measured, and only what is too short or did not decode is dropped.
    """
    probed = rendered.probed
    _, grid = load_grid(probed)
    with RenderedFrames(rendered.spans, (card.low.height, card.low.width)) as frames:
        footage = _Footage(probed.video, grid, frames, rendered.spans, card, probed.source.tracks)
        rejects: list[Reject] = []
        if probed.source.intervals is None:
            scenes, rejects = _found_scenes(footage)
        else:
            scenes, rejects = _given_scenes(footage, probed.source.intervals)
        clips = []
        for scene in scenes:
            try:
                clips.append(_clip_of(footage, scene))
            except Rejected as err:
                rejects.append(_scene_reject(footage.video, scene, err))
    return CutVideo(rendered, tuple(scenes), tuple(clips), tuple(rejects))


# ---- scenes ---------------------------------------------------------------------------------------


def _detect(footage: _Footage, start: int, stop: int) -> list[Cut]:
    """Cuts in grid frames [start, stop); frames that were not rendered are stepped over."""
    present = footage.present(start, stop)
    lows = footage.frames.low(footage.grid.ordinals[present])
    places = np.append(present, stop)
    cuts = find_cuts(lows, footage.frame_rate, footage.card.cuts)
    return [Cut(int(places[c.start_frame]), int(places[c.stop_frame]), c.detector) for c in cuts]


def _found_scenes(footage: _Footage) -> tuple[list[Scene], list[Reject]]:
    """What lies between cuts; the frames of a soft cut belong to no scene and are a reject."""
    scenes, rejects = [], []
    for run in _runs(footage):
        cuts = _detect(footage, run.start, run.stop)
        starts = [run.start, *(cut.stop_frame for cut in cuts)]
        stops = [*(cut.start_frame for cut in cuts), run.stop]
        ends = [*(cut.detector for cut in cuts), "end" if run.stop == len(footage.grid) else GAP]
        found = zip(starts, stops, ends, strict=True)
        scenes += [_scene(footage, "cut", a, b, end) for a, b, end in found if a < b]
        rejects += [_transition_reject(footage.video, c) for c in cuts if c.start_frame < c.stop_frame]
    return scenes, rejects


def _runs(footage: _Footage) -> list[range]:
    """The grid without the gaps that missing frames of a folder leave: no clip steps over one."""
    edges = [0, *(gaps_of(footage.grid) if footage.video.num_missing_frames else ()), len(footage.grid)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def _given_scenes(footage: _Footage, intervals: tuple[Interval, ...]) -> tuple[list[Scene], list[Reject]]:
    scenes: dict[tuple[int, int], Scene] = {}
    rejects = []
    for number, interval in enumerate(intervals):
        frames = frames_in(footage.grid, interval)
        span = (frames.start, frames.stop)
        cause = "outside_video" if not len(frames) else "duplicate" if span in scenes else None
        if cause:
            rejects.append(_interval_reject(footage.video, number, Rejected(cause, f"{interval}")))
        else:
            scenes[span] = _given_scene(footage, number, interval, *span)
    return list(scenes.values()), rejects


def _given_scene(footage: _Footage, number: int, interval: Interval, start: int, stop: int) -> Scene:
    num_cuts = len(_detect(footage, start, stop)) if footage.card.cuts.detector != "none" else 0
    clamped = runs_past_end(footage.grid, interval)
    given = _scene(footage, "given", start, stop, "interval", interval)
    return replace(given, clamped=clamped, num_cuts_inside=num_cuts, interval_number=number)


def _scene(
    footage: _Footage,
    kind: str,
    start: int,
    stop: int,
    ended_by: str,
    interval: Interval | None = None,
) -> Scene:
    return Scene(
        scene_id=ids.scene_id(footage.video.video_id, start, stop),
        video_id=footage.video.video_id,
        kind=kind,
        start_frame=start,
        stop_frame=stop,
        start_s=str(footage.grid.time_s(start)),
        stop_s=str(_end_s(footage, stop)),
        given_start_s=str(interval.start_s) if interval else None,
        given_stop_s=str(interval.stop_s) if interval else None,
        clamped=False,
        num_cuts_inside=0,
        interval_number=None,
        ended_by=ended_by,
    )


def _end_s(footage: _Footage, stop: int) -> Fraction:
    """When the frame before `stop` is no longer shown: the next one's time, or as long as the one before."""
    grid = footage.grid
    if footage.video.num_missing_frames and stop in gaps_of(grid):
        return grid.time_s(stop - 1) + grid.time_base  # one number
    if stop < len(grid):
        return grid.time_s(stop)
    last = grid.time_s(stop - 1)
    return last + (last - grid.time_s(stop - 2) if stop > 1 else 0)


# ---- clips ----------------------------------------------------------------------------------------


def _clip_of(footage: _Footage, scene: Scene) -> Clip:
    """The clip of a scene, trimmed and judged where the scene was found rather than given.

    Raises:
      Rejected: frames missing, too short, or of a quality that the card's trim policies drop.
    """
    start, stop = scene.start_frame, scene.stop_frame
    missing = stop - start - len(footage.present(start, stop))
    if missing:
        cause = _missing_cause(footage, start, stop)
        raise Rejected(cause, f"{missing} of {stop - start} frames did not decode", missing, 0)
    if stop == len(footage.grid) and footage.video.num_frames_cut_off:
        lost = footage.video.num_frames_cut_off
        raise Rejected("cut_off", f"the file ends {lost} frames early, inside this scene", lost, 0)
    trim = footage.card.trim
    if scene.kind == "given":
        qualities = measure_qualities(footage.low(start, stop), trim)
    else:
        guard = footage.card.cuts.guard_frames
        gaps = {edge for run in _runs(footage) for edge in (run.start, run.stop)}
        guards = (0 if start in gaps else guard, 0 if stop in gaps else guard)
        kept, qualities = trim_scene(range(start, stop), footage.low, trim, guards)
        start, stop = kept.start, kept.stop
    shortest = min(role.min_frames for role in _roles(footage, start, stop))
    if stop - start < shortest:
        text = f"{stop - start} frames; the shortest clip that is kept has {shortest}"
        raise Rejected("too_short", text, stop - start, shortest)
    if scene.kind != "given":
        judge(qualities, trim)
    return _clip(footage, scene, start, stop, qualities)


def _roles(footage: _Footage, start: int, stop: int) -> list[ResolutionConfig]:
    """Resolutions that hold the frames: of a prepared dataset it may be one."""
    card = footage.card
    has_high = footage.frames.high_bytes(footage.grid.ordinals[start:stop]) > 0
    return [card.low, card.high] if has_high else [card.low]


def _missing_cause(footage: _Footage, start: int, stop: int) -> str:
    """Why frames are missing: the cause of a span that was given up, else `decode_error`."""
    first, last = (int(footage.grid.ordinals[f]) for f in (start, stop - 1))
    causes = [s.cause for s in footage.spans if s.cause and s.start <= last and first < s.stop]
    return causes[0] if causes else "decode_error"


def _clip(footage: _Footage, scene: Scene, start: int, stop: int, qualities: Qualities) -> Clip:
    card, row = footage.card, footage.video
    ordinals = footage.grid.ordinals[start:stop]
    crop = crop_of(row, card)
    roles = _roles(footage, start, stop)
    in_low, in_high = (c in roles and stop - start >= c.min_frames for c in (card.low, card.high))
    track = (
        footage.tracks[scene.interval_number]
        if footage.tracks and scene.interval_number is not None
        else None
    )
    num_poses, num_matched = _count_poses(track, footage.grid, start, stop)
    low_bytes = (stop - start) * card.low.height * card.low.width * 3
    return Clip(
        clip_id=ids.clip_id(row.video_id, start, stop),
        scene_id=scene.scene_id,
        video_id=row.video_id,
        split=row.split,
        start_frame=start,
        stop_frame=stop,
        start_s=str(footage.grid.time_s(start)),
        stop_s=str(_end_s(footage, stop)),
        frame_rate=str(_clip_rate(footage.grid, start, stop) or footage.frame_rate),
        frames_expected=stop - start,
        frames_written=len(footage.present(start, stop)),
        crop_left=crop.left,
        crop_top=crop.top,
        crop_right=crop.right,
        crop_bottom=crop.bottom,
        black_share=qualities.black_share,
        frozen_share=qualities.frozen_share,
        bar_share=qualities.bar_share,
        overlay_share=qualities.overlay_share,
        in_low=in_low,
        in_high=in_high,
        low_bytes=low_bytes if in_low else 0,
        high_bytes=footage.frames.high_bytes(ordinals) if in_high else 0,
        has_poses=num_matched > 0,
        num_poses=num_poses,
        num_poses_matched=num_matched,
        track=track.name if track else None,
        interval_number=scene.interval_number,
    )


def _count_poses(track: Track | None, grid: Grid, start: int, stop: int) -> tuple[int, int]:
    """Listed poses of a clip's track, and how many of them belong to one of its frames."""
    if track is None:
        return 0, 0
    rows = poses.read_track(track)
    matched = poses.match(rows, grid.times_s(start, stop), track.tolerance_s)
    return len(rows), int((matched >= 0).sum())


def _clip_rate(grid: Grid, start: int, stop: int) -> Fraction | None:
    """Mean frame rate of a clip, by its usual name."""
    if stop - start < 2:
        return None
    return standard_rate((stop - 1 - start) / (grid.time_s(stop - 1) - grid.time_s(start)))


def _scene_reject(row: Video, scene: Scene, err: Rejected) -> Reject:
    return Reject(
        "scene", scene.scene_id, row.video_id, row.origin, err.cause, err.retryable,
        scene.start_frame, scene.stop_frame, err.value, err.threshold,
    )  # fmt: skip


def _transition_reject(row: Video, cut: Cut) -> Reject:
    subject = f"{row.video_id}@{cut.start_frame}"
    return Reject(
        "transition", subject, row.video_id, row.origin, "soft_cut", False, cut.start_frame, cut.stop_frame
    )


def _interval_reject(row: Video, number: int, err: Rejected) -> Reject:
    subject = f"{row.video_id}#{number}"
    return Reject("interval", subject, row.video_id, row.origin, err.cause, err.retryable)
