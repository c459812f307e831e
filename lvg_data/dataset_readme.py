"""The README.md inside every dataset: what it is, and how to read it with stock tools."""

from __future__ import annotations

from typing import Any

from lvg_data import ids

_TEMPLATE = """\
# {heading}

Licence: {licence}
Attribution: {attribution}

| | low | high |
|---|---|---|
| size (height x width) | {low_size} | {high_size} |
| clips | {low_clips} | {high_clips} |
| frames, overlaps between parts included | {low_frames} | {high_frames} |
| bytes | {low_bytes} | {high_bytes} |

{sources} source rows gave {videos} videos, {scenes} scenes and {clips} clips; {rejects} were dropped,
each a row of `tables/rejects.parquet`. Fingerprint: `{fingerprint}`.

## Samples

- `{low_folder}/*.tar`: `<key>.npy` uint8 [T, H, W, 3], sRGB; `<key>.times.npy` float64 [T], seconds in the
  video; `<key>.json`.
- `{high_folder}/*.tar`: `<key>.f000.jpg` ... one JPEG a frame; `<key>.low.npy` the same frames at low
  resolution; `<key>.times.npy`; `<key>.json`.
{poses}
A sample is a part: consecutive frames of one clip. Parts of a clip overlap by {low_overlap} (low) and
{high_overlap} (high) frames, so that every window of up to {low_window} and {high_window} frames lies in one
part; `owned_start` and `owned_stop` in the JSON say which window starts count for this part, so that each
is used once.

## With webdataset

```python
import glob
import webdataset as wds

dataset = wds.WebDataset(sorted(glob.glob("{low_folder}/train-*.tar")), shardshuffle=False).decode("rgb8")
for sample in dataset:
    print(sample["__key__"], sample["npy"].shape, sample["json"]["split"])
    break
```

## With Hugging Face datasets

Parts differ in their number of frames, so that the features are given rather than guessed.

```python
from datasets import {pose_imports}Array4D, Features, List, Value, load_dataset

features = Features({{
    "__key__": Value("string"),
    "__url__": Value("string"),
    "npy": Array4D((None, {low_height}, {low_width}, 3), "uint8"),
    "times.npy": List(Value("float64")),{pose_features}
    "json": {json_features},
}})
dataset = load_dataset("webdataset", data_files="{low_folder}/train-*.tar", split="train",
                       streaming=True, features=features)
print(next(iter(dataset))["__key__"])
```

For the high resolution, name the frames that you want; a part that is shorter has None there:

```python
from datasets import {pose_imports}Array4D, Features, Image, List, Value, load_dataset

features = Features({{
    "__key__": Value("string"),
    "__url__": Value("string"),
    "low.npy": Array4D((None, {low_height}, {low_width}, 3), "uint8"),
    "times.npy": List(Value("float64")),{pose_features}
    "json": {json_features},
}} | {{f"f{{n:03d}}.jpg": Image() for n in range({high_part_frames})}})
dataset = load_dataset("webdataset", data_files="{high_folder}/train-*.tar", split="train",
                       streaming=True, features=features)
print(next(iter(dataset))["f000.jpg"].size)
```
"""

_POSES = """\
- Both, of the {num} clips with a camera track: `<key>.poses.npy` float64 [T, 3, 4], world to camera, and
  `<key>.intrinsics.npy` float64 [T, 4], fx fy cx cy as shares of the width and height of the stored frames;
  NaN where no pose is listed within the tolerance in time.
"""
_POSE_FEATURES = """
    "poses.npy": Array3D((None, 3, 4), "float64"),
    "intrinsics.npy": Array2D((None, 4), "float64"),"""

#: Hugging Face features of the `<key>.json`, in the words of their constructors
_JSON_FEATURES = {
    str: 'Value("string")', int: 'Value("int64")', float: 'Value("float64")', bool: 'Value("bool")',
    list: 'List(Value("int64"))',
}  # fmt: skip
#: keys and types of `shard.part_metadata`; a test holds the two together
METADATA_TYPES = {
    "key": str, "dataset": str, "licence": str, "attribution": str, "split": str, "source": str,
    "video_id": str, "video_sha256": str, "clip_id": str, "clip_num_frames": int, "clip_start_frame": int,
    "part_index": int, "start_frame": int, "stop_frame": int, "owned_start": int, "owned_stop": int,
    "start_s": float, "stop_s": float, "frame_rate": float, "crop": list, "resolution": str, "height": int,
    "width": int, "has_poses": bool, "track": str, "interval_number": int,
    "extra": str,
}  # fmt: skip


def dataset_readme(description: dict[str, Any]) -> str:
    """Markdown for a dataset, from the content of its dataset.json."""
    counts, recipe = description["counts"], description["recipe"]
    low, high = recipe["low"], recipe["high"]
    num_posed = counts["clips_with_poses"]
    features = ", ".join(f'"{name}": {_JSON_FEATURES[kind]}' for name, kind in METADATA_TYPES.items())
    return _TEMPLATE.format(
        heading=description["title"] or description["name"],
        licence=description["licence"],
        attribution=description["attribution"],
        fingerprint=description["fingerprint"],
        low_size=f"{low['height']} x {low['width']}",
        high_size=f"{high['height']} x {high['width']}",
        low_height=low["height"],
        low_width=low["width"],
        low_folder=ids.resolution_folder("low", low["height"], low["width"]),
        high_folder=ids.resolution_folder("high", high["height"], high["width"]),
        low_window=low["window_frames"],
        high_window=high["window_frames"],
        low_overlap=low["window_frames"] - 1,
        high_overlap=high["window_frames"] - 1,
        high_part_frames=high["part_frames"],
        json_features="{" + features + "}",
        poses=_POSES.format(num=num_posed) if num_posed else "",
        pose_features=_POSE_FEATURES if num_posed else "",
        pose_imports="Array2D, Array3D, " if num_posed else "",
        **{f"{role}_clips": counts["clips_by_role"][role] for role in ("low", "high")},
        **{f"{role}_frames": f"{counts['shard_frames'][role]:,}" for role in ("low", "high")},
        **{f"{role}_bytes": f"{counts['shard_bytes'][role]:,}" for role in ("low", "high")},
        **{name: counts[name] for name in ("sources", "videos", "scenes", "clips", "rejects")},
    )
