"""Generated first-person rides with their truth: data to try everything on, and the cut benchmark's input.

A `Ride` is a timeline of scenes joined by transitions:

    scenes      |---- A ----|        |---- B ----|---- C ----|
    transition               dissolve             hard (0 frames)
    frames      0...........n........m...........p...........num_frames

The frames of a dissolve or fade belong to the transition, and both its scenes go on moving in it. Everything
is drawn from the ride's fields with numpy and Pillow, so the same ride gives the same frames, and the truth
needs no detector.

A frame is painted on a canvas a little larger than itself: backdrop panoramas down to the horizon, below it
the ground sampled through per-row texture coordinates, then roadside props from far to near. Pixels are
packed RGBA in a uint32, so that sampling costs one gather; shake and roll are one more, from canvas to frame.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av import VideoStream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Progress = Callable[[str, int, int], None]

#: raised when the same ride would give other frames
VERSION = 1
EFFECT_KINDS = ("flash", "pan", "shake", "frozen")
TRANSITION_KINDS = ("hard", "dissolve", "fade")
MOUNTS = ("helmet", "handlebar")
BLACK = "black"

CAMERA_HEIGHT_M = 1.6
TEXTURE_SIZE_M = (41.0, 33.0)  # along the trail, across it; the ground repeats after this
PROP_SPACING_M = 2.5
NUM_PROPS = 64
MAX_ROLL_RAD = 0.05
MAX_SHIFT = 0.06  # of the frame's height, in y; half of it, of the width, in x
FADE_SHARE = 0.4  # of a fade's frames that darken, and that brighten; the rest are black
OPAQUE = np.uint32(0xFF000000)
FIXED_BITS = 16
# With mbtree, x264 core 165 gives new bytes each time if the width is no multiple of 128: it reads memory
# that it never set (seen at 160, 192 and 320; gone with asm=0). Drop the option when that is mended.
X264_OPTIONS = {"preset": "veryfast", "crf": "25", "bf": "3", "mbtree": "0"}
CONTAINER_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class Look:
    """Palette, terrain and time of day. Each ground zone has a dark and a light colour."""

    sky: tuple[Colour, Colour]  # zenith, horizon
    hills: tuple[Colour, Colour]  # far, near
    ground: tuple[Colour, Colour]
    trail: tuple[Colour, Colour]
    leaf: Colour
    props: tuple[str, ...]
    clouds: float = 0.5  # 0 clear, 1 overcast
    ridge: float = 0.2  # height of the far hills, of the frame's height


# fmt: off
LOOKS = {
    "alpine": Look(
        ((52, 106, 190), (188, 214, 236)), ((112, 132, 158), (52, 84, 60)), ((44, 74, 24), (128, 158, 66)),
        ((112, 88, 62), (196, 172, 132)), (30, 78, 38), ("conifer", "conifer", "post", "rock"), 0.45, 0.26),
    "forest": Look(
        ((150, 160, 160), (204, 210, 202)), ((96, 116, 104), (28, 52, 30)), ((26, 36, 16), (92, 92, 44)),
        ((52, 38, 26), (124, 98, 70)), (24, 56, 26), ("conifer", "conifer", "broadleaf"), 1.0, 0.12),
    "desert": Look(
        ((66, 70, 136), (252, 172, 104)), ((158, 92, 92), (122, 66, 44)), ((128, 68, 36), (222, 150, 88)),
        ((164, 106, 66), (240, 196, 140)), (92, 104, 52), ("rock", "post", "shrub"), 0.3, 0.16),
    "autumn": Look(
        ((96, 140, 186), (230, 222, 202)), ((150, 124, 110), (140, 80, 30)), ((82, 56, 18), (200, 140, 44)),
        ((78, 56, 42), (160, 128, 96)), (196, 108, 24), ("broadleaf", "broadleaf", "post"), 0.6, 0.14),
    "snow": Look(
        ((86, 132, 196), (226, 236, 246)), ((176, 190, 212), (196, 206, 220)),
        ((190, 202, 222), (252, 252, 255)), ((150, 158, 174), (214, 220, 230)),
        (44, 72, 62), ("conifer", "post", "rock"), 0.3, 0.3),
    "night": Look(
        ((6, 8, 20), (26, 32, 56)), ((14, 18, 30), (8, 12, 12)), ((10, 16, 10), (58, 70, 42)),
        ((36, 32, 28), (120, 110, 92)), (16, 34, 18), ("conifer", "post", "broadleaf"), 0.2, 0.18),
    "coast": Look(
        ((70, 150, 214), (214, 236, 244)), ((84, 140, 176), (104, 132, 92)),
        ((120, 124, 70), (206, 198, 132)), ((168, 156, 126), (236, 228, 200)),
        (74, 112, 54), ("shrub", "post", "rock"), 0.5, 0.06),
    "dawn": Look(
        ((92, 96, 152), (246, 204, 182)), ((150, 132, 160), (78, 82, 92)), ((54, 72, 40), (150, 158, 98)),
        ((98, 80, 66), (190, 162, 136)), (52, 78, 46), ("broadleaf", "post", "shrub"), 0.7, 0.2),
}
# fmt: on


# ---- the timeline


@dataclass(frozen=True)
class Effect:
    """Something inside a scene that is no cut; its frames are counted from the scene's first own frame.

    flash: white; pan: the camera looks aside and back; shake: violent; frozen: all its frames are identical.
    """

    kind: str
    start_frame: int
    stop_frame: int
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in EFFECT_KINDS:
            raise ValueError(f"effect kind must be one of {EFFECT_KINDS}, got {self.kind!r}")


@dataclass(frozen=True)
class RideScene:
    """One place seen in one take. `seed` chooses the place: one look with two seeds is similar, not equal."""

    look: str
    seed: int
    length_frames: int
    effects: tuple[Effect, ...] = ()
    letterbox: float = 0.0  # height of each black bar, of the frame's height
    logo: str = ""

    def __post_init__(self) -> None:
        if self.look != BLACK and self.look not in LOOKS:
            raise ValueError(f"look must be {BLACK!r} or one of {sorted(LOOKS)}, got {self.look!r}")
        for effect in self.effects:
            if not 0 <= effect.start_frame < effect.stop_frame <= self.length_frames:
                raise ValueError(f"{effect} is outside of its scene of {self.length_frames} frames")
        ordered = sorted(self.effects, key=lambda effect: effect.start_frame)
        for first, second in pairwise(ordered):
            if second.start_frame < first.stop_frame:
                raise ValueError(f"{first} and {second} overlap; a scene has one effect at a time")


@dataclass(frozen=True)
class Transition:
    """How one scene turns into the next. A hard cut has 0 frames; a fade goes through black."""

    kind: str = "hard"
    length_frames: int = 0

    def __post_init__(self) -> None:
        if self.kind not in TRANSITION_KINDS:
            raise ValueError(f"transition kind must be one of {TRANSITION_KINDS}, got {self.kind!r}")
        if (self.kind == "hard") != (self.length_frames == 0):
            raise ValueError(f"a hard cut has 0 frames and the others have some, got {self}")


@dataclass(frozen=True)
class Ride:
    """One video: scenes, and the transitions between them (one fewer)."""

    name: str
    seed: int
    width: int
    height: int
    frame_rate: Fraction
    scenes: tuple[RideScene, ...]
    transitions: tuple[Transition, ...] = ()
    mount: str = "helmet"  # a camera on the handlebar's stem sees the bar

    def __post_init__(self) -> None:
        if len(self.transitions) != len(self.scenes) - 1:
            raise ValueError(
                f"{len(self.scenes)} scenes need one transition fewer, got {len(self.transitions)}"
            )
        if self.width % 2 or self.height % 2:
            raise ValueError(f"width and height must be even, got {self.width}x{self.height}")
        if self.mount not in MOUNTS:
            raise ValueError(f"mount must be one of {MOUNTS}, got {self.mount!r}")
        if any(
            self.scenes[i + k].look == BLACK and t.kind != "hard"
            for i, t in enumerate(self.transitions)
            for k in (0, 1)
        ):
            raise ValueError(f"ride {self.name}: a black scene needs a hard cut on both sides")

    @property
    def num_frames(self) -> int:
        return sum(s.length_frames for s in self.scenes) + sum(t.length_frames for t in self.transitions)


def scene_spans(ride: Ride) -> list[tuple[int, int]]:
    """The frames [start, stop) in which each scene alone is seen; the gaps are the soft transitions."""
    spans, start = [], 0
    for scene, transition in zip(ride.scenes, (*ride.transitions, Transition()), strict=True):
        spans.append((start, start + scene.length_frames))
        start += scene.length_frames + transition.length_frames
    return spans


def mix_weights(transition: Transition) -> np.ndarray:
    """Shares of the scenes before and after in each frame: float64 [num_frames, 2], whole 256ths.

        dissolve  before \\/ after        fade  before \\__/ after
                         /\\
    """
    progress = np.arange(1, transition.length_frames + 1) / (transition.length_frames + 1)
    if transition.kind == "dissolve":
        shares = np.stack([1 - progress, progress], axis=1)
    else:
        shares = np.stack([1 - progress / FADE_SHARE, 1 - (1 - progress) / FADE_SHARE], axis=1)
    return np.rint(256 * shares.clip(0, 1)) / 256


# ---- the truth


def ride_truth(ride: Ride) -> dict:
    """One entry of truth.json's `videos`: what is in the video. All spans are half-open, in frames.

    A hard cut has start_frame == stop_frame == the first frame of the new scene. A soft transition holds the
    frames that are no scene's own. `letterbox` and `logos` span a transition where both its scenes agree.
    """
    return {
        "path": f"{ride.name}.mp4",
        "frame_rate": f"{ride.frame_rate.numerator}/{ride.frame_rate.denominator}",
        "num_frames": ride.num_frames,
        "width": ride.width,
        "height": ride.height,
        "transitions": _transition_truth(ride),
        "flashes": _effect_truth(ride, "flash"),
        "pans": _effect_truth(ride, "pan"),
        "shakes": _effect_truth(ride, "shake"),
        "letterbox": _label_truth(ride, [_bars_label(ride, scene) for scene in ride.scenes]),
        "logos": _label_truth(ride, [_logo_label(ride, scene) for scene in ride.scenes]),
        "frozen": _effect_truth(ride, "frozen"),
        "black": _black_truth(ride),
    }


def _span(start_frame: int, stop_frame: int, **values: object) -> dict:
    return {"start_frame": start_frame, "stop_frame": stop_frame, **values}


def _transition_truth(ride: Ride) -> list[dict]:
    stops = [stop for _, stop in scene_spans(ride)]
    return [
        {"kind": t.kind, **_span(stop, stop + t.length_frames)}
        for t, stop in zip(ride.transitions, stops[:-1], strict=True)
    ]


def _effect_truth(ride: Ride, kind: str) -> list[dict]:
    return [
        _span(start + effect.start_frame, start + effect.stop_frame)
        for (start, _), scene in zip(scene_spans(ride), ride.scenes, strict=True)
        for effect in scene.effects
        if effect.kind == kind
    ]


def _bars_label(ride: Ride, scene: RideScene) -> dict | None:
    bar = _bar_height(ride, scene)
    return {"top": bar, "bottom": bar} if bar else None


def _logo_label(ride: Ride, scene: RideScene) -> dict | None:
    return {"box": list(_logo_box(ride.width, ride.height, scene.logo))} if scene.logo else None


def _label_truth(ride: Ride, labels: list[dict | None]) -> list[dict]:
    """Spans of frames with one label, given each scene's own."""
    merged: list[dict] = []
    previous = None
    for (start, stop), label in zip(scene_spans(ride), labels, strict=True):
        if label and label == previous:
            merged[-1]["stop_frame"] = stop
        elif label:
            merged.append(_span(start, stop, **label))
        previous = label
    return merged


def _black_truth(ride: Ride) -> list[dict]:
    """Black scenes, and the middle of each fade."""
    spans = scene_spans(ride)
    black = [_span(*span) for span, scene in zip(spans, ride.scenes, strict=True) if scene.look == BLACK]
    for transition, (_, stop) in zip(ride.transitions, spans[:-1], strict=True):
        dark = np.flatnonzero(mix_weights(transition).sum(axis=1) == 0)
        if len(dark):
            black.append(_span(stop + int(dark[0]), stop + int(dark[-1]) + 1))
    return sorted(black, key=lambda span: span["start_frame"])


# ---- painting


@dataclass(frozen=True)
class _Lens:
    """Geometry of a ride's canvas: the frame with a margin for shake and roll. Its horizon is level."""

    width: int
    height: int

    @property
    def margin_y(self) -> int:
        return math.ceil(MAX_ROLL_RAD * self.width / 2 + MAX_SHIFT * self.height) + 2

    @property
    def margin_x(self) -> int:
        return math.ceil(MAX_ROLL_RAD * self.height / 2 + MAX_SHIFT / 2 * self.width) + 2

    @property
    def canvas_shape(self) -> tuple[int, int]:
        return self.height + 2 * self.margin_y, self.width + 2 * self.margin_x

    @property
    def focal_px(self) -> float:
        return self.width / 2  # 90 degrees across, as action cameras have

    @property
    def horizon_row(self) -> int:
        return self.margin_y + round(0.42 * self.height)

    @property
    def panorama_width(self) -> int:
        return round(3.2 * self.width)

    def ground_distances_m(self) -> np.ndarray:
        """Float64 [rows below the horizon]: how far the ground is in each."""
        rows = np.arange(self.canvas_shape[0] - self.horizon_row)
        return CAMERA_HEIGHT_M * self.focal_px / (rows + 0.5)


def _pack(rgb: np.ndarray, opaque: np.ndarray | bool = True) -> np.ndarray:
    """[..., 3] of any type in 0..255, and where it is opaque, to packed uint32 [...]."""
    rgba = np.empty((*rgb.shape[:-1], 4), np.uint8)
    rgba[..., :3] = np.clip(rgb, 0, 255)
    rgba[..., 3] = np.where(opaque, 255, 0)
    return rgba.view("<u4")[..., 0]


def _unpack(packed: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]. One channel at a time is 7 times as fast as copying `[..., :3]`."""
    rgba = packed.view(np.uint8).reshape(*packed.shape, 4)
    rgb = np.empty((*packed.shape, 3), np.uint8)
    for channel in range(3):
        rgb[..., channel] = rgba[..., channel]
    return rgb


def _stamp(target: np.ndarray, patch: np.ndarray) -> None:
    """Puts the opaque pixels of `patch` on `target`; both packed, of one shape."""
    np.copyto(target, patch, where=patch >= OPAQUE)


def _blend(dark: Colour, light: Colour, share: np.ndarray) -> np.ndarray:
    """Float32 [..., 3]: the colours between two, share 0 giving the first."""
    first, second = np.asarray(dark, np.float32), np.asarray(light, np.float32)
    return first + (second - first) * np.asarray(share, np.float32)[..., None]


def _noise(
    rng: np.random.Generator, shape: tuple[int, int], exponent: float, stretch: float = 1.0
) -> np.ndarray:
    """Float32 in [0, 1], periodic in both axes, all octaves: white noise with a 1/f**exponent spectrum.

    `stretch` above 1 draws the pattern out along the rows.
    """
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], stretch * np.fft.rfftfreq(width)[None, :])
    frequency = np.maximum(frequency, 1 / min(shape))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape, np.float32))
    spectrum *= (frequency**-exponent).astype(np.float32)
    noise = np.fft.irfft2(spectrum, s=shape)
    noise *= 0.22 / noise.std()
    return (noise + 0.5).clip(0, 1)


def _wave(rng: np.random.Generator, length: int, exponent: float, lowest: int = 1) -> np.ndarray:
    """Float64 [length] in [0, 1], periodic: a skyline."""
    frequency = np.arange(length // 2 + 1, dtype=np.float64)
    frequency[:lowest] = np.inf
    phases = rng.uniform(0, 2 * np.pi, len(frequency))
    wave = np.fft.irfft(frequency**-exponent * np.exp(1j * phases), length)
    return (wave - wave.min()) / np.ptp(wave)


def _trail_centre_m(z_m: np.ndarray | float) -> np.ndarray:
    """Where the trail runs, across, at a distance along it; periodic with the ground texture."""
    turn = 2 * np.pi * np.asarray(z_m) / TEXTURE_SIZE_M[0]
    return 1.1 * np.sin(turn) + 0.35 * np.sin(2 * turn + 1.0)


@dataclass(frozen=True)
class _GroundBank:
    """Colourless ground of a ride, shared by its scenes: uint8 [rows, columns] per mip level, halving.

    Bits 0 to 5 are noise, bits 6 and 7 the zone: 0 ground, 1 verge, 2 trail, 3 rut.
    """

    levels: tuple[np.ndarray, ...]


def _make_ground_bank(seed: int, width: int) -> _GroundBank:
    rng = np.random.default_rng([seed, 1])
    columns = 2 ** max(7, round(math.log2(1.6 * width)))
    noise = _noise(rng, (2 * columns, columns), 1.0)
    levels = []
    while noise.shape[1] >= 16:
        levels.append((noise * 63).astype(np.uint8) | (_ground_zones(noise) << 6))
        noise = noise.reshape(noise.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    return _GroundBank(tuple(levels))


def _ground_zones(noise: np.ndarray) -> np.ndarray:
    rows, columns = noise.shape
    z_m = (np.arange(rows, dtype=np.float32) + 0.5) * (TEXTURE_SIZE_M[0] / rows)
    x_m = (np.arange(columns, dtype=np.float32) + 0.5) * (TEXTURE_SIZE_M[1] / columns) - TEXTURE_SIZE_M[1] / 2
    aside_m = np.abs(x_m[None, :] - _trail_centre_m(z_m).astype(np.float32)[:, None])
    aside_m += noise * np.float32(0.9) - np.float32(0.45)
    zones = (aside_m < 1.5).astype(np.uint8)
    zones += aside_m < 0.95
    zones += np.abs(aside_m - np.float32(0.45)) < 0.12
    return zones


@dataclass(frozen=True)
class _Band:
    """Neighbouring ground rows that share a texture: a mip level, coloured and hazed for their distance."""

    start_row: int
    stop_row: int
    texture: np.ndarray  # packed, [rows, columns], both powers of two


def _ground_bands(look: Look, lens: _Lens, bank: _GroundBank) -> list[_Band]:
    distance_m = lens.ground_distances_m()
    texel_m = TEXTURE_SIZE_M[1] / bank.levels[0].shape[1]
    across = distance_m / lens.focal_px / texel_m
    along = distance_m**2 / (CAMERA_HEIGHT_M * lens.focal_px) / texel_m
    half_levels = np.floor(2 * np.log2(np.sqrt(across * along))).clip(0, 2 * len(bank.levels) - 1).astype(int)
    textures: dict[tuple[int, float], np.ndarray] = {}
    bands = []
    for half_level in np.unique(half_levels)[::-1]:
        rows = np.flatnonzero(half_levels == half_level)
        haze = round(14 * (1 - math.exp(-distance_m[rows].mean() / 90))) / 24
        key = (half_level // 2, haze if half_level > 1 else 0.0)
        if key not in textures:
            textures[key] = _ground_palette(look, key[1])[bank.levels[key[0]]]
        bands.append(
            _Band(lens.horizon_row + int(rows[0]), lens.horizon_row + int(rows[-1]) + 1, textures[key])
        )
    return bands


def _ground_palette(look: Look, haze: float) -> np.ndarray:
    """Packed [256]: the colour of each value of the ground bank."""
    share = np.linspace(0, 1, 64)
    ground, trail = _blend(*look.ground, share), _blend(*look.trail, share)
    colours = np.concatenate([ground, 0.6 * ground + 0.4 * trail, trail, 0.72 * trail])
    return _pack(colours + (np.asarray(look.sky[1], np.float32) - colours) * haze)


class _Ground:
    """Paints the plane below the horizon; keeps its index buffers."""

    def __init__(self, look: Look, lens: _Lens, bank: _GroundBank) -> None:
        self.lens = lens
        self.bands = _ground_bands(look, lens, bank)
        self.distance_m = lens.ground_distances_m()
        self.columns = np.arange(lens.canvas_shape[1], dtype=np.int32) - lens.canvas_shape[1] // 2
        shape = (max(b.stop_row - b.start_row for b in self.bands), lens.canvas_shape[1])
        self.buffers = np.empty((2, *shape), np.int32)

    def paint(self, canvas: np.ndarray, x_m: float, z_m: float, yaw_rad: float) -> None:
        for band in self.bands:
            self._paint_band(canvas[band.start_row : band.stop_row], band, x_m, z_m, yaw_rad)

    def _paint_band(self, target: np.ndarray, band: _Band, x_m: float, z_m: float, yaw_rad: float) -> None:
        """Texture coordinates are linear along a row: start + slope * column, in fixed point."""
        rows, columns = band.texture.shape
        forward_m = self.distance_m[
            band.start_row - self.lens.horizon_row : band.stop_row - self.lens.horizon_row
        ]
        step_m = forward_m / self.lens.focal_px
        sin, cos = math.sin(yaw_rad), math.cos(yaw_rad)
        across, along = columns / TEXTURE_SIZE_M[1], rows / TEXTURE_SIZE_M[0]
        u, v = self.buffers[:, : len(forward_m)]
        _fill_linear(
            u, (x_m + sin * forward_m) * across + columns / 2, cos * step_m * across, self.columns, columns
        )
        _fill_linear(v, (z_m + cos * forward_m) * along, -sin * step_m * along, self.columns, rows)
        u >>= FIXED_BITS
        u &= columns - 1
        v >>= FIXED_BITS - (columns.bit_length() - 1)
        v &= (rows - 1) * columns
        v |= u
        np.take(band.texture.reshape(-1), v, out=target, mode="clip")


def _fill_linear(
    out: np.ndarray, start: np.ndarray, slope: np.ndarray, columns: np.ndarray, period: int
) -> None:
    """out = start modulo period + slope * column, int32 with FIXED_BITS binary places, [rows, columns]."""
    scale = 1 << FIXED_BITS
    np.multiply((slope * scale).astype(np.int32)[:, None], columns[None, :], out=out)
    out += (start % period * scale).astype(np.int32)[:, None]


@dataclass(frozen=True)
class _Layer:
    """A panorama, repeated far enough that any slice of a canvas's width is one slice."""

    pixels: np.ndarray  # packed [rows, panorama width + canvas width]
    top_row: int
    period: int
    parallax: float

    def paint(self, canvas: np.ndarray, turn_px: float) -> None:
        start = int(turn_px * self.parallax) % self.period
        rows = slice(self.top_row, self.top_row + len(self.pixels))
        _stamp(canvas[rows], self.pixels[:, start : start + canvas.shape[1]])


def _make_layer(lens: _Lens, rgb: np.ndarray, opaque: np.ndarray | bool, parallax: float) -> _Layer:
    """A layer that ends at the horizon, from float [rows, panorama width, 3]."""
    packed = _pack(rgb, opaque)
    pixels = np.concatenate([packed, packed[:, : lens.canvas_shape[1]]], axis=1)
    return _Layer(pixels, lens.horizon_row - len(rgb), rgb.shape[1], parallax)


def _paint_backdrop(look: Look, lens: _Lens, rng: np.random.Generator) -> list[_Layer]:
    """Sky, far hills, near hills, and a line of woods, back to front."""
    return [
        _sky_layer(look, lens, rng),
        _hill_layer(lens, rng, look.ridge, look.hills[0], look.sky[1], 2.0, 1.0),
        _hill_layer(lens, rng, look.ridge * 0.55, look.hills[1], look.hills[0], 1.5, 1.25),
        _hill_layer(lens, rng, 0.05, look.leaf, look.hills[1], 0.6, 1.6),
    ]


def _sky_layer(look: Look, lens: _Lens, rng: np.random.Generator) -> _Layer:
    shape = (lens.horizon_row, lens.panorama_width)
    height = np.linspace(0, 1, shape[0])[:, None]
    clouds = _noise(rng, shape, 1.6, stretch=2.5)
    cover = (clouds - 0.75 + 0.5 * look.clouds).clip(0, 0.35) / 0.35 * (0.35 + 0.65 * height)
    rgb = _blend(*look.sky, np.broadcast_to(height**1.4, shape))
    light = np.asarray(look.sky[1], np.float32) * 0.55 + 0.4 * float(np.max(look.sky[1]))
    rgb += (light * (0.75 + 0.35 * clouds[..., None]) - rgb) * (0.8 * cover[..., None])
    return _make_layer(lens, rgb, True, 1.0)


def _hill_layer(
    lens: _Lens,
    rng: np.random.Generator,
    ridge: float,
    colour: Colour,
    haze: Colour,
    exponent: float,
    parallax: float,
) -> _Layer:
    rows = max(4, round(ridge * lens.height))
    skyline = _wave(rng, lens.panorama_width, exponent, lowest=3) * 0.8 + 0.2
    above = np.arange(rows, 0, -1)[:, None] / rows
    texture = _noise(rng, (rows, lens.panorama_width), 1.1)
    depth = (0.35 + 0.6 * above + 0.3 * (texture - 0.5)).clip(0, 1)
    rgb = _blend(haze, colour, depth) * (0.8 + 0.4 * texture[..., None])
    return _make_layer(lens, rgb, above <= skyline[None, :], parallax)


# ---- props and overlays, drawn with Pillow


@dataclass(frozen=True)
class _Prop:
    """Something beside the trail: packed pictures of it, each half the size of the one before."""

    pictures: tuple[np.ndarray, ...]
    height_m: float

    def picture_for(self, height_px: int) -> np.ndarray:
        return next((p for p in reversed(self.pictures) if p.shape[0] >= height_px), self.pictures[0])


def _conifer(draw: ImageDraw.ImageDraw, size: int, colour: Colour, rng: np.random.Generator) -> None:
    middle = size // 4
    draw.rectangle((middle - size // 50, size * 0.8, middle + size // 50, size), fill=(70, 50, 36, 255))
    for tier in np.linspace(0.9, 0.3, 7):
        half = size * 0.25 * tier * rng.uniform(0.8, 1.0)
        top, bottom = size * (tier - 0.3) * 0.95, size * tier
        shade = tuple(int(c * rng.uniform(0.75, 1.25)) for c in colour)
        draw.polygon([(middle, top), (middle - half, bottom), (middle + half, bottom)], fill=(*shade, 255))


def _blobs(
    draw: ImageDraw.ImageDraw,
    size: int,
    colour: Colour,
    rng: np.random.Generator,
    top: float,
    bottom: float,
    count: int,
) -> None:
    """Leaves, bush or stone: shaded discs between two heights, lighter towards the top."""
    for _ in range(count):
        x, y = rng.normal(size / 4, size * 0.07), rng.uniform(top, bottom) * size
        radius = size * rng.uniform(0.05, 0.11)
        light = 1.25 - 0.5 * (y / size - top) / (bottom - top) + rng.uniform(-0.12, 0.12)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=(*(min(255, int(c * light)) for c in colour), 255),
        )


def _broadleaf(draw: ImageDraw.ImageDraw, size: int, colour: Colour, rng: np.random.Generator) -> None:
    draw.rectangle((size * 0.235, size * 0.5, size * 0.27, size), fill=(78, 60, 46, 255))
    _blobs(draw, size, colour, rng, 0.12, 0.62, 70)


def _shrub(draw: ImageDraw.ImageDraw, size: int, colour: Colour, rng: np.random.Generator) -> None:
    _blobs(draw, size, colour, rng, 0.6, 0.95, 60)


def _rock(draw: ImageDraw.ImageDraw, size: int, colour: Colour, rng: np.random.Generator) -> None:
    _blobs(draw, size, (132, 124, 118), rng, 0.75, 0.97, 40)


def _post(draw: ImageDraw.ImageDraw, size: int, colour: Colour, rng: np.random.Generator) -> None:
    half = size // 28
    for stripe in range(6):
        fill = (226, 226, 220, 255) if stripe % 2 else (190, 44, 36, 255)
        draw.rectangle(
            (size / 4 - half, size * stripe / 6, size / 4 + half, size * (stripe + 1) / 6), fill=fill
        )


PROP_DRAWERS = {
    "conifer": (_conifer, 7.0),
    "broadleaf": (_broadleaf, 5.5),
    "shrub": (_shrub, 1.7),
    "rock": (_rock, 1.6),
    "post": (_post, 1.3),
}


def _make_prop(kind: str, look: Look, size: int, rng: np.random.Generator) -> _Prop:
    draw_kind, height_m = PROP_DRAWERS[kind]
    image = Image.new("RGBA", (size // 2, size), (*look.leaf, 0))
    draw_kind(ImageDraw.Draw(image), size, look.leaf, rng)
    grain = 0.65 + 0.7 * _noise(rng, (size, size // 2), 0.9)
    lit = float(np.mean(look.sky[1])) / 210  # props are as bright as the hour
    pictures = []
    while image.height >= 8:
        rgba = np.asarray(image, np.float32)
        rgb = rgba[..., :3] * min(1.0, 0.25 + 0.75 * lit)
        pictures.append(_pack(rgb * grain[: image.height, : image.width, None], rgba[..., 3] > 127))
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return _Prop(tuple(pictures), height_m)


class _Roadside:
    """Props along the trail, in slots that repeat; `paint` draws those in sight from far to near."""

    def __init__(self, look: Look, lens: _Lens, rng: np.random.Generator) -> None:
        self.lens = lens
        size = 2 ** round(math.log2(max(32, 0.7 * lens.height)))
        self.props = [_make_prop(kind, look, size, rng) for kind in look.props for _ in range(2)]
        self.choice = rng.integers(len(self.props), size=NUM_PROPS)
        self.scale = rng.uniform(0.7, 1.25, NUM_PROPS)
        self.aside_m = rng.choice([-1.0, 1.0], NUM_PROPS) * rng.uniform(2.4, 11.0, NUM_PROPS)

    def paint(self, canvas: np.ndarray, x_m: float, z_m: float, yaw_rad: float) -> None:
        slots = np.arange(math.floor((z_m - 15) / PROP_SPACING_M), math.floor((z_m + 70) / PROP_SPACING_M))
        along_m = slots * PROP_SPACING_M - z_m
        across_m = _trail_centre_m(slots * PROP_SPACING_M) + self.aside_m[slots % NUM_PROPS] - x_m
        forward_m = math.cos(yaw_rad) * along_m + math.sin(yaw_rad) * across_m
        right_m = math.cos(yaw_rad) * across_m - math.sin(yaw_rad) * along_m
        for i in np.argsort(-forward_m):
            if forward_m[i] > 2.0:
                self._paint_prop(canvas, slots[i] % NUM_PROPS, forward_m[i], right_m[i])

    def _paint_prop(self, canvas: np.ndarray, slot: int, forward_m: float, right_m: float) -> None:
        scale_px = self.lens.focal_px / forward_m
        prop = self.props[self.choice[slot]]
        height = max(2, round(prop.height_m * self.scale[slot] * scale_px))
        bottom = self.lens.horizon_row + round(CAMERA_HEIGHT_M * scale_px)
        middle = canvas.shape[1] // 2 + round(right_m * scale_px)
        _stamp_scaled(canvas, prop.picture_for(height), middle - height // 4, bottom - height, height)


def _stamp_scaled(canvas: np.ndarray, picture: np.ndarray, left: int, top: int, height: int) -> None:
    """Stamps a picture, scaled to `height`, where it meets the canvas."""
    scale = picture.shape[0] / height
    rows = np.arange(max(0, top), min(canvas.shape[0], top + height))
    columns = np.arange(max(0, left), min(canvas.shape[1], left + math.ceil(picture.shape[1] / scale)))
    if not (len(rows) and len(columns)):
        return
    y = ((rows - top) * scale).astype(np.int32).clip(max=picture.shape[0] - 1) * picture.shape[1]
    x = ((columns - left) * scale).astype(np.int32).clip(max=picture.shape[1] - 1)
    patch = picture.reshape(-1).take(y[:, None] + x[None, :])
    _stamp(canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], patch)


def _draw_handlebar(lens: _Lens) -> np.ndarray:
    """Packed picture of the bar and two gloves, as wide as the frame."""
    width, height = lens.width, round(0.3 * lens.height)
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    bar = max(2, height // 9)
    points = [(width * x, height * y) for x, y in ((0.12, 0.5), (0.4, 0.72), (0.6, 0.72), (0.88, 0.5))]
    draw.line(points, fill=(34, 34, 38, 255), width=bar, joint="curve")
    draw.rectangle((width * 0.465, height * 0.6, width * 0.535, height), fill=(52, 52, 58, 255))
    for x in (0.2, 0.8):
        box = (width * (x - 0.055), height * 0.36, width * (x + 0.055), height * 0.82)
        draw.rounded_rectangle(box, height // 8, fill=(150, 40, 34, 255))
        draw.rectangle((box[0], height * 0.55, box[2], height * 0.62), fill=(28, 28, 30, 255))
    pixels = np.asarray(image)
    return _pack(pixels[..., :3], pixels[..., 3] > 127)


def _logo_box(width: int, height: int, text: str) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a logo: in the bottom right corner of the centre square, clear of letterbox bars."""
    box_width, box_height = _logo_picture(height, text).size
    right, bottom = (width + min(width, height)) // 2 - round(0.03 * height), height - round(0.15 * height)
    return right - box_width, bottom - box_height, right, bottom


def _logo_picture(height: int, text: str) -> Image.Image:
    size = max(8, round(0.09 * height))
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    pad = size // 3
    image = Image.new(
        "RGBA", (math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad), (12, 20, 44, 150)
    )
    ImageDraw.Draw(image).text((pad - left, pad - top), text, font=font, fill=(255, 236, 120, 235))
    return image


def _make_logo(ride: Ride, text: str) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    return np.asarray(_logo_picture(ride.height, text), np.uint16), _logo_box(ride.width, ride.height, text)


# ---- the camera


@dataclass(frozen=True)
class _CameraTrack:
    """Where the camera is and looks in each frame of a scene's take; float64 [num_frames] each."""

    x_m: np.ndarray
    z_m: np.ndarray
    yaw_rad: np.ndarray
    turn_rad: np.ndarray  # slow turn of the whole trail, seen in the backdrop only
    shift_x_px: np.ndarray
    shift_y_px: np.ndarray
    roll_rad: np.ndarray
    blur_px: np.ndarray


def _smooth_walk(rng: np.random.Generator, length: int, period: int) -> np.ndarray:
    """Float64 [length] with a deviation of about 1 and no detail shorter than `period` frames."""
    window = np.hanning(period + 2)[1:-1]
    steps = rng.standard_normal(length + period)
    return np.convolve(steps, window / np.sqrt((window**2).sum()), "valid")[:length]


def _frame_mask(length: int, scene: RideScene, lead_in: int, kind: str) -> np.ndarray:
    """Bool [length]: where in a take an effect acts; `lead_in` frames come before the scene's own."""
    mask = np.zeros(length, bool)
    for effect in scene.effects:
        if effect.kind == kind:
            mask[lead_in + effect.start_frame : lead_in + effect.stop_frame] = True
    return mask


def _pan_yaw(length: int, scene: RideScene, lead_in: int) -> np.ndarray:
    """Float64 [length], radians: each pan looks aside and back."""
    yaw = np.zeros(length)
    for effect in scene.effects:
        if effect.kind == "pan":
            num = effect.stop_frame - effect.start_frame
            bump = np.sin(np.pi * (np.arange(num) + 0.5) / num) ** 2
            yaw[lead_in + effect.start_frame : lead_in + effect.stop_frame] += 1.2 * effect.strength * bump
    return yaw


def _advances(length: int, scene: RideScene, lead_in: int) -> np.ndarray:
    """Bool [length]: whether the ride moves on to get here; a frozen span does so at its first frame only."""
    frozen = _frame_mask(length, scene, lead_in, "frozen")
    return np.concatenate([[True], ~(frozen[1:] & frozen[:-1])])


def _camera_track(
    scene: RideScene, lens: _Lens, frame_rate: float, length: int, lead_in: int, rng: np.random.Generator
) -> _CameraTrack:
    """The camera of a whole take, each frozen span held at its first frame."""
    advances = _advances(length, scene, lead_in)
    violent = _frame_mask(length, scene, lead_in, "shake")[advances]
    pan_rad = _pan_yaw(length, scene, lead_in)[advances]
    track = _moving_track(lens, frame_rate, violent, pan_rad, rng)
    index = np.cumsum(advances) - 1
    return _CameraTrack(*(values[index] for values in vars(track).values()))


def _moving_track(
    lens: _Lens, frame_rate: float, violent: np.ndarray, pan_rad: np.ndarray, rng: np.random.Generator
) -> _CameraTrack:
    def walk(period: int) -> np.ndarray:
        return _smooth_walk(rng, len(violent), period)

    def shake(calm: np.ndarray, rough: float, limit: float) -> np.ndarray:
        return (calm + rough * violent * walk(2)).clip(-limit, limit)

    speed_m = rng.uniform(6.5, 9.5) / frame_rate * (1 + 0.15 * walk(45)).clip(0.4, 1.6)
    z_m = rng.uniform(0, TEXTURE_SIZE_M[0]) + np.cumsum(speed_m)
    slope = (_trail_centre_m(z_m + 3.5) - _trail_centre_m(z_m + 2.5)) * 0.8
    return _CameraTrack(
        x_m=_trail_centre_m(z_m) + 0.2 * walk(40),
        z_m=z_m,
        yaw_rad=np.arctan(slope) + 0.02 * walk(25) + pan_rad,
        turn_rad=rng.uniform(0, 6) + np.cumsum(0.004 * walk(60)),
        shift_x_px=shake(0.003 * walk(7), 0.03, MAX_SHIFT / 2) * lens.width,
        shift_y_px=shake(0.008 * walk(6), 0.05, MAX_SHIFT) * lens.height,
        roll_rad=shake(0.010 * walk(18), 0.04, MAX_ROLL_RAD),
        blur_px=np.abs(np.diff(pan_rad, prepend=pan_rad[:1])) * lens.focal_px * 0.5,
    )


def _shake_and_roll(
    canvas: np.ndarray, lens: _Lens, shift_x_px: float, shift_y_px: float, roll_rad: float
) -> np.ndarray:
    """The frame cut from the canvas, packed [H, W]. A rotation this small is one shear along each axis."""
    x, y = np.arange(lens.width), np.arange(lens.height)
    rows = y + lens.margin_y + round(shift_y_px)
    columns = x + lens.margin_x + round(shift_x_px)
    row_shear = np.rint((lens.height / 2 - y) * roll_rad).astype(int)
    column_shear = np.rint((x - lens.width / 2) * roll_rad).astype(int)
    stride = canvas.shape[1]
    starts = (rows * stride + row_shear).astype(np.int32)
    offsets = (columns + column_shear * stride).astype(np.int32)
    return canvas.reshape(-1).take(starts[:, None] + offsets[None, :])


def _blur_rows(frame: np.ndarray, width_px: int) -> np.ndarray:
    """Box blur along x, as a shutter open during a pan makes it."""
    padded = np.pad(frame, ((0, 0), (width_px // 2 + 1, width_px - width_px // 2 - 1), (0, 0)), mode="edge")
    sums = np.cumsum(padded, axis=1, dtype=np.uint32)
    sums = np.concatenate([sums, sums[:, -1:]], axis=1)
    return ((sums[:, width_px : width_px + frame.shape[1]] - sums[:, : frame.shape[1]]) // width_px).astype(
        np.uint8
    )


# ---- scenes and rides


def _bar_height(ride: Ride, scene: RideScene) -> int:
    return 2 * round(scene.letterbox * ride.height / 2)


class _BlackTake:
    """The take of a black scene."""

    def __init__(self, ride: Ride) -> None:
        self.shape = (ride.height, ride.width, 3)

    def frame(self, index: int) -> np.ndarray:
        return np.zeros(self.shape, np.uint8)


class _Take:
    """What is painted once for a scene; `frame` paints its frames, those of its soft transitions included."""

    def __init__(self, ride: Ride, bank: _GroundBank, scene: RideScene, lead_in: int, lead_out: int) -> None:
        rng = np.random.default_rng([ride.seed, 2, scene.seed])
        look, length = LOOKS[scene.look], lead_in + scene.length_frames + lead_out
        self.lens = _Lens(ride.width, ride.height)
        self.layers = _paint_backdrop(look, self.lens, rng)
        self.ground = _Ground(look, self.lens, bank)
        self.roadside = _Roadside(look, self.lens, rng)
        self.track = _camera_track(scene, self.lens, float(ride.frame_rate), length, lead_in, rng)
        self.flash = _frame_mask(length, scene, lead_in, "flash")
        self.handlebar = _draw_handlebar(self.lens) if ride.mount == "handlebar" else None
        self.canvas = np.empty(self.lens.canvas_shape, np.uint32)
        self.bar = _bar_height(ride, scene)
        self.logo = _make_logo(ride, scene.logo) if scene.logo else None

    def frame(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], sRGB."""
        frame = _unpack(self._paint(index))
        blur_px = round(self.track.blur_px[index])
        if blur_px > 1:
            frame = _blur_rows(frame, blur_px)
        if self.flash[index]:
            frame = 255 - (255 - frame) // 8
        return self._overlay(frame)

    def _paint(self, index: int) -> np.ndarray:
        track, canvas = self.track, self.canvas
        place = track.x_m[index], track.z_m[index], track.yaw_rad[index]
        for layer in self.layers:
            layer.paint(canvas, (track.turn_rad[index] + track.yaw_rad[index]) * self.lens.focal_px)
        self.ground.paint(canvas, *place)
        self.roadside.paint(canvas, *place)
        frame = _shake_and_roll(
            canvas, self.lens, track.shift_x_px[index], track.shift_y_px[index], track.roll_rad[index]
        )
        if self.handlebar is not None:
            sway = round(track.yaw_rad[index] * self.lens.width * 0.12)
            lift = self.bar + round(0.8 * len(self.handlebar))
            top = self.lens.height - lift + round(track.shift_y_px[index] * 0.4)
            _stamp_scaled(frame, self.handlebar, sway, top, len(self.handlebar))
        return frame

    def _overlay(self, frame: np.ndarray) -> np.ndarray:
        if self.bar:
            frame[: self.bar] = 0
            frame[-self.bar :] = 0
        if self.logo:
            _overlay_logo(frame, *self.logo)
        return frame


def _overlay_logo(frame: np.ndarray, picture: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Lays a uint16 RGBA picture over its box of the frame."""
    left, top, right, bottom = box
    area, alpha = frame[top:bottom, left:right], picture[..., 3:]
    area[:] = (area * (255 - alpha) + picture[..., :3] * alpha) // 255


def ride_frames(ride: Ride) -> Iterator[np.ndarray]:
    """Yields every frame, uint8 [H, W, 3] sRGB, holding at most two scenes' textures."""
    bank = _make_ground_bank(ride.seed, ride.width)
    take = _make_take(ride, bank, 0)
    for index, scene in enumerate(ride.scenes):
        lead_in = _lead_frames(ride, index)[0]
        for frame_index in range(lead_in, lead_in + scene.length_frames):
            yield take.frame(frame_index)
        if index + 1 < len(ride.scenes):
            following = _make_take(ride, bank, index + 1)
            yield from _transition_frames(
                ride.transitions[index], take, lead_in + scene.length_frames, following
            )
            take = following


def _lead_frames(ride: Ride, index: int) -> tuple[int, int]:
    """Frames of a scene's take in the transition before its own frames, and in the one after."""
    lengths = [0, *(t.length_frames for t in ride.transitions), 0]
    return lengths[index], lengths[index + 1]


def _make_take(ride: Ride, bank: _GroundBank, index: int) -> _Take | _BlackTake:
    scene = ride.scenes[index]
    return _BlackTake(ride) if scene.look == BLACK else _Take(ride, bank, scene, *_lead_frames(ride, index))


def _transition_frames(
    transition: Transition, before: _Take | _BlackTake, before_index: int, after: _Take | _BlackTake
) -> Iterator[np.ndarray]:
    for i, weights in enumerate((mix_weights(transition) * 256).astype(np.uint16)):
        mixed = np.zeros((), np.uint16)
        for weight, take, index in zip(weights, (before, after), (before_index + i, i), strict=True):
            mixed = mixed + take.frame(index) * weight
        yield (mixed >> 8).astype(np.uint8)


# ---- files


def encode_ride(
    ride: Ride,
    path: Path,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the ride as yuv420p, tagged BT.709 and limited range; one thread, for the same bytes each time.

    Args:
      path: its suffix names the container: .mp4, .mov, .mkv or .webm. It appears when it is complete.
      codec: an FFmpeg video encoder.
      options: of the encoder; `X264_OPTIONS` (B frames, quick) when the codec is libx264 and none are given.
      progress: called with the ride's name, the frames done, and their number.
    """
    if options is None:
        options = X264_OPTIONS if codec == "libx264" else {}
    partial = path.with_name(f"{path.name}.partial")
    with av.open(str(partial), "w", format=CONTAINER_FORMATS[path.suffix]) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=ride.frame_rate, options=dict(options)))
        _describe_stream(stream.codec_context, ride)
        for index, frame in enumerate(ride_frames(ride)):
            container.mux(stream.encode(_video_frame(frame, index, ride.frame_rate)))
            if progress:
                progress(ride.name, index + 1, ride.num_frames)
        container.mux(stream.encode(None))
    return _publish(partial, path)


def _describe_stream(context: av.VideoCodecContext, ride: Ride) -> None:
    context.width, context.height, context.pix_fmt = ride.width, ride.height, "yuv420p"
    context.time_base = 1 / ride.frame_rate
    context.thread_count = 1
    context.colorspace = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709


def _video_frame(rgb: np.ndarray, index: int, frame_rate: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
    frame.pts, frame.time_base = index, 1 / frame_rate
    return frame


def _publish(partial: Path, path: Path) -> Path:
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    return partial.replace(path)


def _write_text(path: Path, text: str) -> Path:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    return _publish(partial, path)


def card_text(names: Sequence[str]) -> str:
    """The YAML dataset card that builds the demo videos of these file names."""
    return (
        f"# {len(names)} generated rides: {', '.join(names)}\n"
        "name: demo-rides\n"
        "licence: CC0-1.0\n"
        "attribution: generated by lvg-data demo-videos\n"
        "sources:\n"
        "  - {kind: files, path: '*.mp4'}\n"
    )


def write_demo_videos(
    out: Path, rides: Sequence[Ride] | None = None, progress: Progress | None = None
) -> Path:
    """Writes each ride as NAME.mp4, then truth.json, then card.yaml.

    Args:
      out: folder, made if it is not there. Each file appears when it is complete, the card last.
      rides: `demo_rides()` unless given.

    Returns:
      The card.
    """
    rides = demo_rides() if rides is None else rides
    out.mkdir(parents=True, exist_ok=True)
    names = [encode_ride(ride, out / f"{ride.name}.mp4", progress=progress).name for ride in rides]
    truth = {"seed": rides[0].seed, "videos": [ride_truth(ride) for ride in rides]}
    _write_text(out / "truth.json", json.dumps(truth, indent=1) + "\n")
    return _write_text(out / "card.yaml", card_text(names))


# ---- the rides


def demo_rides(seed: int = 0) -> tuple[Ride, ...]:
    """Four rides of 14 to 40 s that together hold every kind of transition, effect, overlay and length."""
    return _cuts_ride(seed), _soft_ride(seed), _letterboxed_ride(seed), _long_ride(seed)


def _cuts_ride(seed: int) -> Ride:
    """720p: hard cuts between different and similar scenes; flashes, pan and shake that are no cuts."""
    scenes = (
        RideScene("alpine", 1, 150, (Effect("flash", 60, 61), Effect("shake", 90, 120))),
        RideScene("desert", 2, 135, (Effect("pan", 40, 62),)),
        RideScene("desert", 3, 9),  # similar to the one before, and too short for either resolution
        RideScene("desert", 4, 80, (Effect("flash", 30, 32),)),
        RideScene("night", 5, 60),
        RideScene("forest", 6, 132, (Effect("pan", 20, 44, -1.0), Effect("flash", 100, 101))),
    )
    return Ride("ride-000", seed, 1280, 720, Fraction(30), scenes, (Transition(),) * 5)


def _soft_ride(seed: int) -> Ride:
    """25 frames a second: dissolves, fades, a frozen scene, a black stretch."""
    scenes = (
        RideScene("autumn", 11, 140, (Effect("shake", 60, 85),)),
        RideScene("coast", 12, 150, (Effect("flash", 70, 72),)),
        RideScene("coast", 13, 90),
        RideScene("snow", 14, 75, (Effect("frozen", 0, 75),)),
        RideScene(BLACK, 15, 40),
        RideScene("dawn", 16, 160, (Effect("pan", 80, 100),)),
    )
    joins = (Transition("dissolve", 20), Transition("fade", 30), Transition(), Transition(), Transition())
    return Ride("ride-001", seed + 1, 640, 360, Fraction(25), scenes, joins)


def _letterboxed_ride(seed: int) -> Ride:
    """NTSC rate, bars in the whole video, camera on the handlebar."""
    scenes = (
        RideScene("forest", 21, 170, (Effect("shake", 100, 130),), 0.12),
        RideScene("forest", 22, 140, (Effect("flash", 80, 81),), 0.12),
        RideScene("dawn", 23, 100, (), 0.12),
    )
    joins = Transition(), Transition("dissolve", 10)
    return Ride("ride-002", seed + 2, 640, 360, Fraction(30000, 1001), scenes, joins, "handlebar")


def _long_ride(seed: int) -> Ride:
    """Long scenes: one with a logo, one letterboxed, one that freezes and goes on; two are too short."""
    scenes = (
        RideScene("snow", 31, 330, (Effect("pan", 150, 180), Effect("shake", 240, 270))),
        RideScene("alpine", 32, 260, (Effect("flash", 120, 122),), 0.0, "RIDE TV"),
        RideScene("alpine", 33, 100),
        RideScene("autumn", 34, 170, (), 0.13),
        RideScene("desert", 35, 11),
        RideScene("coast", 36, 240, (Effect("frozen", 90, 130), Effect("pan", 180, 198, -1.0))),
    )
    joins = Transition("dissolve", 30), Transition("fade", 24), Transition(), Transition(), Transition()
    return Ride("ride-003", seed + 3, 640, 360, Fraction(30), scenes, joins)


def benchmark_rides(seed: int, num_rides: int, seconds: float) -> tuple[Ride, ...]:
    """Seeded 640x360 rides of about `seconds` each, dense in every transition and in what is none."""
    return tuple(_random_ride(seed, index, seconds) for index in range(num_rides))


def _random_ride(seed: int, index: int, seconds: float) -> Ride:
    rng = np.random.default_rng([seed, 3, index])
    rate = (Fraction(30), Fraction(25), Fraction(30000, 1001))[index % 3]
    letterbox = 0.12 if index % 5 == 4 else 0.0
    scenes: list[RideScene] = []
    joins: list[Transition] = []
    num_frames = 0
    while num_frames < seconds * rate:
        if scenes:
            joins.append(_random_transition(rng))
        scenes.append(_random_scene(rng, scenes[-1].look if scenes else "", len(scenes), letterbox))
        num_frames += scenes[-1].length_frames + (joins[-1].length_frames if joins else 0)
    return Ride(
        f"ride-{index:03d}",
        int(rng.integers(2**31)),
        640,
        360,
        rate,
        tuple(scenes),
        tuple(joins),
        MOUNTS[index % 2],
    )


def _random_transition(rng: np.random.Generator) -> Transition:
    kind = rng.choice(TRANSITION_KINDS, p=(0.6, 0.25, 0.15))
    return Transition(str(kind), 0 if kind == "hard" else int(rng.integers(10, 31)))


def _random_scene(rng: np.random.Generator, look_before: str, seed: int, letterbox: float) -> RideScene:
    """One in three keeps the look of the scene before, to make a cut between similar scenes."""
    similar = look_before and rng.random() < 0.33
    look = look_before if similar else str(rng.choice([name for name in LOOKS if name != look_before]))
    length = int(rng.integers(6, 30)) if rng.random() < 0.12 else int(rng.integers(45, 240))
    logo = "RIDE TV" if rng.random() < 0.15 else ""
    return RideScene(look, seed, length, _random_effects(rng, length), letterbox, logo)


def _random_effects(rng: np.random.Generator, length_frames: int) -> tuple[Effect, ...]:
    """About one effect in 60 frames, at least 12 frames from each other and from the scene's ends."""
    effects = []
    for slot in range(12, length_frames - 52, 60):
        kind = str(rng.choice([*EFFECT_KINDS, "none"], p=(0.3, 0.22, 0.22, 0.06, 0.2)))
        length = int(rng.integers(1, 3) if kind == "flash" else rng.integers(16, 29))
        start = slot + int(rng.integers(0, 12))
        if kind != "none":
            effects.append(Effect(kind, start, start + length, float(rng.choice([-1.0, 1.0]))))
    return tuple(effects)
