"""How well and how fast each cut detector works: precision, recall and F1 against known transitions.

    python -m benchmarks.cuts --footage DIR [--neural]

Three groups of cases, all as the 64x64 frames that cutting sees:

    rides    generated rides (`lvg_data.demo`): cuts between similar places, pan, shake, flashes
    joined   shots of real footage, joined here by hard cuts, dissolves and fades, with flashes and pans
    edited   real footage as its editor cut it, labelled by hand

Settings were chosen on even seeds, even shots and the first half of test.mp4; what is printed comes from
odd seeds, odd shots, and the rest. Footage files that are not in DIR are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from lvg_data.config import CutConfig
from lvg_data.cuts import find_cuts
from lvg_data.demo import Transition, benchmark_rides, mix_weights, ride_frames, ride_truth
from lvg_data.records import Cut

SIZE = 64
WIDEN_FRAMES = 2
KINDS = ("hard", "dissolve", "fade")
DISTRACTORS = ("flash", "pan", "shake", "none")
DETECTORS = ("adaptive", "content", "hash", "histogram")
BASELINE = "pyscenedetect"
RESULTS = Path(__file__).parent / "results" / "cuts.json"


@dataclass(frozen=True)
class Labelled:
    """Frames [start_frame, stop_frame) of a transition or of a distractor; a hard cut has none."""

    kind: str
    start_frame: int
    stop_frame: int

    def touches(self, start_frame: int, stop_frame: int) -> bool:
        """Whether the span, seen as closed, meets this one widened by `WIDEN_FRAMES`."""
        return start_frame <= self.stop_frame + WIDEN_FRAMES and self.start_frame - WIDEN_FRAMES <= stop_frame


@dataclass(frozen=True)
class Case:
    """A video with its truth. `frames` is uint8 [T, 64, 64, 3], sRGB."""

    group: str
    name: str
    frames: np.ndarray
    frame_rate: Fraction
    transitions: tuple[Labelled, ...]
    distractors: tuple[Labelled, ...] = ()


# ---- real footage, labelled from what adaptive and TransNetV2 proposed; where they disagree, by eye

FADES = {"trailer_bbb.mp4": ((0, 26), (217, 265), (313, 361), (745, 793), (1099, 1166), (1204, 1253))}
TEST_CUTS = (
    2, 17, 24, 50, 61, 103, 132, 186, 199, 219, 236, 261, 282, 301, 371, 435, 456, 573, 613, 665, 695, 724,
    761, 777, 800, 830, 865, 908, 943, 961, 990, 1013, 1058, 1092, 1108, 1178, 1201, 1279, 1340, 1389, 1427,
    1485, 1519, 1554, 1608, 1670, 1701, 1728, 1815, 1864, 1906, 1931, 1958, 1993, 2006, 2040, 2060, 2114,
    2154, 2184, 2202, 2236, 2252, 2287, 2327, 2349, 2393, 2414, 2452, 2502, 2535, 2567, 2606, 2661, 2685,
    2709, 2753, 2769, 2819, 2869, 2916, 2955, 2971, 2996, 3018, 3077, 3148, 3170, 3211, 3255, 3309, 3357,
    3383, 3454, 3505, 3529, 3600, 3620, 3639, 3678, 3767, 3831, 3864, 3990, 4034, 4143, 4229, 4292, 4311,
    4322, 4338, 4367, 4383, 4413, 4442, 4462, 4475, 4516, 4567, 4599, 4667, 4720, 4739, 4769, 4827, 4881,
    4929, 4982, 5021, 5080,
)  # fmt: skip
CUTS = {
    "bikes.mp4": (30, 76, 137, 187, 242),
    "bigbuckbunny.mp4": (),
    "trailer_bbb.mp4": (593, 864, 900, 988, 1049),
    "test.mp4": TEST_CUTS,
}
LABELLED_FRAMES = {"test.mp4": 5140}  # what follows is a slow end
SPLIT_FRAME = 2606  # of test.mp4: settings were chosen on the frames before it
MIN_SHOT_FRAMES = 30


def read_wide(path: Path) -> tuple[np.ndarray, Fraction]:
    """Every frame at 64 pixels high, whole width: uint8 [T, 64, W, 3], and the frame rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        width = round(stream.width * SIZE / stream.height)
        frames = [
            np.asarray(frame.to_image().resize((width, SIZE), Image.Resampling.LANCZOS))
            for frame in container.decode(stream)
        ]
        return np.stack(frames), Fraction(stream.average_rate or 0)


def crop_centre(wide: np.ndarray) -> np.ndarray:
    """uint8 [T, 64, W, 3] to its middle [T, 64, 64, 3]."""
    left = (wide.shape[2] - SIZE) // 2
    return np.ascontiguousarray(wide[:, :, left : left + SIZE])


def edited_cases(footage: dict[str, tuple[np.ndarray, Fraction]], tuning: bool) -> Iterator[Case]:
    """The footage as it was edited: the part kept for tuning, or the rest."""
    for name, (wide, rate) in footage.items():
        start, stop = 0, LABELLED_FRAMES.get(name, len(wide))
        if name == "test.mp4":
            start, stop = (0, SPLIT_FRAME) if tuning else (SPLIT_FRAME, stop)
        elif tuning:
            continue
        truth = [("hard", cut, cut) for cut in CUTS[name]] + [("fade", *span) for span in FADES.get(name, ())]
        truth = sorted((t for t in truth if start < t[2] < stop), key=lambda t: t[1])
        inside = tuple(Labelled(kind, first - start, last - start) for kind, first, last in truth)
        yield Case("edited", name, crop_centre(wide[start:stop]), rate, inside)


def list_shots(footage: dict[str, tuple[np.ndarray, Fraction]]) -> list[np.ndarray]:
    """Stretches without a transition, at least `MIN_SHOT_FRAMES` long: uint8 [T, 64, W, 3] each."""
    shots = []
    for name, (wide, _) in footage.items():
        stop = LABELLED_FRAMES.get(name, len(wide))
        holes = sorted([*((cut, cut) for cut in CUTS[name]), *FADES.get(name, ()), (stop, stop)])
        start = 0
        for hole_start, hole_stop in holes:
            if hole_start - start >= MIN_SHOT_FRAMES + 2:
                shots.append(wide[start + 1 : hole_start - 1])
            start = hole_stop
    return shots


# ---- joining shots at known frames


def make_joined_case(shots: Sequence[np.ndarray], seed: int, num_shots: int = 24) -> Case:
    """Shots in a random order, joined by every kind of transition, with flashes and pans inside them."""
    rng = np.random.default_rng([seed, 17])
    joins = [Transition(), *(_draw_join(rng) for _ in range(num_shots - 1)), Transition()]
    frames: list[np.ndarray] = []
    transitions: list[Labelled] = []
    distractors: list[Labelled] = []
    tail = np.zeros((0, SIZE, SIZE, 3), np.uint8)
    for i, index in enumerate(rng.permutation(len(shots))[:num_shots]):
        head_frames, body_frames = len(tail), int(rng.integers(45, 130))
        effects = _draw_effects(rng, head_frames, body_frames)
        take = _play(shots[index], head_frames + body_frames + joins[i + 1].length_frames, effects, rng)
        start = sum(map(len, frames))
        transitions.append(Labelled(joins[i].kind, start, start + head_frames))
        distractors += [Labelled(e.kind, start + e.start_frame, start + e.stop_frame) for e in effects]
        frames += [_mix(tail, take[:head_frames], joins[i]), take[head_frames : head_frames + body_frames]]
        tail = take[head_frames + body_frames :]
    name, rate = f"joined-{seed}", Fraction(25)
    return Case("joined", name, np.concatenate(frames), rate, tuple(transitions[1:]), tuple(distractors))


def _draw_join(rng: np.random.Generator) -> Transition:
    kind = str(rng.choice(KINDS, p=(0.5, 0.3, 0.2)))
    return Transition(kind, 0 if kind == "hard" else int(rng.integers(8, 31)))


def _draw_effects(rng: np.random.Generator, start_frame: int, num_frames: int) -> list[Labelled]:
    """At most one flash (1 to 3 frames) or pan (16 to 28) in every 40 frames, 8 frames from the ends."""
    effects = []
    for slot in range(start_frame + 8, start_frame + num_frames - 36, 40):
        kind = str(rng.choice(["flash", "pan", "none"], p=(0.4, 0.35, 0.25)))
        length = int(rng.integers(1, 4) if kind == "flash" else rng.integers(16, 29))
        if kind != "none":
            effects.append(Labelled(kind, slot, slot + length))
    return effects


def _play(shot: np.ndarray, num_frames: int, effects: list[Labelled], rng: np.random.Generator) -> np.ndarray:
    """The shot forwards, then backwards, and so on, with the effects: uint8 [num_frames, 64, 64, 3]."""
    offsets = np.full((num_frames + 1,), (shot.shape[2] - SIZE) / 2)
    white = np.zeros(num_frames)
    for effect in effects:
        length = effect.stop_frame - effect.start_frame
        if effect.kind == "flash":
            white[effect.start_frame : effect.stop_frame] = rng.uniform(0.5, 0.95)
        else:
            travel = SIZE * rng.uniform(0.8, 2.0) * rng.choice([-1, 1])
            there_and_back = np.sin(np.pi * np.arange(length) / length)
            offsets[effect.start_frame : effect.stop_frame] += travel * there_and_back
    order = np.concatenate([np.arange(len(shot)), np.arange(len(shot))[-2:0:-1]])
    take = np.stack([_look(shot[order[i % len(order)]], *offsets[i : i + 2]) for i in range(num_frames)])
    return np.rint(take + (255 - take) * white[:, None, None, None]).astype(np.uint8)


def _look(wide: np.ndarray, offset: float, next_offset: float) -> np.ndarray:
    """The mirrored frame from column `offset` on, blurred over half the way to the next: float64 [64, 64, 3]."""
    mirrored = np.concatenate([np.arange(wide.shape[1]), np.arange(wide.shape[1])[::-1]])
    starts = np.unique(np.rint(offset + (next_offset - offset) * np.linspace(0, 0.5, 5)).astype(int))
    return np.mean([wide[:, mirrored[(start + np.arange(SIZE)) % len(mirrored)]] for start in starts], axis=0)


def _mix(before: np.ndarray, after: np.ndarray, transition: Transition) -> np.ndarray:
    """Frames of a transition from those of its two sides, uint8 [T, 64, 64, 3]."""
    weights = mix_weights(transition)[:, :, None, None, None]
    return np.rint(before * weights[:, 0] + after * weights[:, 1]).astype(np.uint8)


# ---- generated rides


def make_ride_cases(seed: int, num_rides: int, seconds: float) -> Iterator[Case]:
    for ride in benchmark_rides(seed, num_rides, seconds):
        truth = ride_truth(ride)
        transitions = [_label(span["kind"], span) for span in truth["transitions"]]
        keys = ("flash", "flashes"), ("pan", "pans"), ("shake", "shakes")
        distractors = [_label(kind, span) for kind, key in keys for span in truth[key]]
        frames = np.stack([_shrink(frame) for frame in ride_frames(ride)])
        yield Case("rides", ride.name, frames, ride.frame_rate, tuple(transitions), tuple(distractors))


def _label(kind: str, span: dict) -> Labelled:
    return Labelled(kind, span["start_frame"], span["stop_frame"])


def _shrink(frame: np.ndarray) -> np.ndarray:
    """Centre square of a frame at 64x64."""
    height, width = frame.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(frame)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=box))


# ---- detectors and scores


def run_detector(name: str, case: Case) -> list[Cut]:
    """Cuts of a case by the defaults of `CutConfig`."""
    if name == BASELINE:
        return library_cuts(case.frames, case.frame_rate)
    return find_cuts(iter(case.frames), case.frame_rate, CutConfig.model_validate({"detector": name}))


def library_cuts(frames: np.ndarray, frame_rate: Fraction) -> list[Cut]:
    """PySceneDetect's adaptive detector with the library's own settings and nothing added."""
    detector = AdaptiveDetector()
    found: list[FrameTimecode] = []
    for index, frame in enumerate(frames):
        timecode = FrameTimecode(index, fps=float(frame_rate))
        found += detector.process_frame(timecode, np.ascontiguousarray(frame[..., ::-1]))
    return [Cut(cut.frame_num, cut.frame_num, BASELINE) for cut in found]


def count_matches(case: Case, cuts: Sequence[Cut]) -> Counter[str]:
    """Counts of one case, named "known hard", "found hard", "false flash" and so on.

    A cut is true if it touches a transition (widened by 2 frames) that no cut before it touched. A false one
    is put down to the distractor that it touches.
    """
    counts: Counter[str] = Counter()
    missing = list(case.transitions)
    for cut in cuts:
        span = cut.start_frame, cut.stop_frame
        matched = [transition for transition in missing if transition.touches(*span)]
        missing = [transition for transition in missing if transition not in matched]
        counts.update(f"found {transition.kind}" for transition in matched)
        cause = next((effect.kind for effect in case.distractors if effect.touches(*span)), "none")
        counts["true" if matched else f"false {cause}"] += 1
    counts.update(f"known {transition.kind}" for transition in case.transitions)
    counts.update(f"known {effect.kind}" for effect in case.distractors)
    return counts + count_frames(case, cuts)


def count_frames(case: Case, cuts: Sequence[Cut]) -> Counter[str]:
    """Frames of soft transitions that stay in scenes, and frames of scenes that are lost to soft cuts."""
    truth, covered = _mask(case.transitions, len(case.frames)), _mask(cuts, len(case.frames))
    counts = {"frames": np.ones_like(truth), "soft frames": truth}
    counts |= {"left frames": truth & ~covered, "lost frames": covered & ~truth}
    return Counter({name: int(mask.sum()) for name, mask in counts.items()})


def _mask(spans: Iterable[Labelled | Cut], num_frames: int) -> np.ndarray:
    mask = np.zeros(num_frames, bool)
    for span in spans:
        mask[span.start_frame : span.stop_frame] = True
    return mask


def summarise(counts: Counter[str]) -> dict[str, tuple[float, str]]:
    """Figure -> (value, unit). What a group of cases does not hold is left out."""
    figures = {}
    num_false = sum(counts[f"false {kind}"] for kind in DISTRACTORS)
    num_known, num_found = (sum(counts[f"{word} {kind}"] for kind in KINDS) for word in ("known", "found"))
    precision = counts["true"] / max(1, counts["true"] + num_false)
    recall = num_found / max(1, num_known)
    figures["precision"] = precision, "share"
    figures["recall"] = recall, "share"
    figures["f1"] = 2 * precision * recall / max(1e-9, precision + recall), "share"
    for kind in KINDS:
        if counts[f"known {kind}"]:
            figures[f"recall {kind}"] = counts[f"found {kind}"] / counts[f"known {kind}"], "share"
    for kind in DISTRACTORS:
        figures[f"false {kind}"] = counts[f"false {kind}"], "cuts"
    if counts["soft frames"]:
        figures["soft left"] = counts["left frames"] / counts["soft frames"], "share"
    figures["scene lost"] = counts["lost frames"] / counts["frames"], "share"
    return figures


# ---- report


def measure(cases: Sequence[Case], detectors: Sequence[str]) -> list[dict]:
    """Rows of {"case", "value", "unit", "ratio", "to"} for every detector, group of cases and figure."""
    rows = []
    speeds: dict[str, float] = {}
    for name in detectors:
        totals = {case.group: Counter[str]() for case in cases}
        start = time.perf_counter()
        found = [run_detector(name, case) for case in cases]
        speeds[name] = sum(len(case.frames) for case in cases) / (time.perf_counter() - start)
        for case, cuts in zip(cases, found, strict=True):
            totals[case.group] += count_matches(case, cuts)
        totals["all"] = sum(totals.values(), Counter[str]())
        for group, counts in totals.items():
            for figure, (value, unit) in summarise(counts).items():
                rows.append(_row(f"{name}, {group}, {figure}", value, unit))
        print_table(name, totals)
    print()
    for name, speed in speeds.items():
        ratio = speed / speeds[BASELINE]
        rows.append(_row(f"{name}, speed", speed, "frames/s", ratio, BASELINE))
        print(f"{name:14}{speed:10,.0f} frames/s {ratio:8.3f} of {BASELINE}")
    return rows


def _row(case: str, value: float, unit: str, ratio: float | None = None, to: str | None = None) -> dict:
    return {"case": case, "value": value, "unit": unit, "ratio": ratio, "to": to}


def print_table(name: str, totals: dict[str, Counter[str]]) -> None:
    """One line a group: P, R, F1; found / known transitions; false cuts; shares of frames."""
    head = f"\n{name:14}{'P':>6}{'R':>6}{'F1':>6}" + "".join(f"{kind:>10}" for kind in KINDS)
    head += "".join(f"{'false ' + kind:>13}" for kind in DISTRACTORS)
    print(f"{head}{'soft left':>11}{'lost':>7}")
    for group, counts in totals.items():
        figures = {key: value for key, (value, _) in summarise(counts).items()}
        line = f"  {group:12}" + "".join(f"{figures[key]:6.3f}" for key in ("precision", "recall", "f1"))
        line += "".join(f"{counts[f'found {k}']:>6}/{counts[f'known {k}']:<3}" for k in KINDS)
        line += "".join(f"{counts[f'false {k}']:>9}/{counts[f'known {k}']:<3}" for k in DISTRACTORS[:-1])
        line += f"{counts['false none']:>9}    {figures.get('soft left', 0):>11.3f}"
        print(f"{line}{figures['scene lost']:>7.3f}")


def make_cases(footage_dir: Path | None, num_rides: int, seconds: float, tuning: bool) -> list[Case]:
    """All cases: those for choosing settings, or the disjoint ones for the report."""
    odd = 0 if tuning else 1
    cases = list(make_ride_cases(100 + odd, num_rides, seconds))
    paths = [footage_dir / name for name in CUTS] if footage_dir else []
    footage = {path.name: read_wide(path) for path in paths if path.exists()}
    if footage:
        shots = list_shots(footage)[odd::2]
        cases += [make_joined_case(shots, seed) for seed in range(odd, 8, 2)]
        cases += edited_cases(footage, tuning)
    return cases


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--footage", type=Path, help=f"folder with any of {', '.join(CUTS)}")
    parser.add_argument("--neural", action="store_true", help="TransNetV2 too; minutes")
    parser.add_argument("--rides", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each ride")
    parser.add_argument("--tuning", action="store_true", help="cases for choosing settings; writes no file")
    args = parser.parse_args()
    cases = make_cases(args.footage, args.rides, args.seconds, args.tuning)
    rows = measure(cases, (BASELINE, *DETECTORS, *(["transnetv2"] if args.neural else [])))
    if not args.tuning:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
