"""Names and hashes: the same in every process, and safe as WebDataset keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvg_data import ids

VALUE = {"b": [1, 2.5, None, True], "a": {"z": "é", "y": "\x00"}, "set": sorted({"x", "yy", "zzz"})}


@dataclass(frozen=True)
class Row:
    name: str
    rate: Fraction


def test_a_value_has_one_json_text_whatever_the_order_of_its_keys():
    assert ids.canonical_json({"b": 1, "a": (2, None)}) == '{"a":[2,null],"b":1}'
    assert ids.canonical_json({"a": [2, None], "b": 1}) == ids.canonical_json({"b": 1, "a": (2, None)})


def test_dataclasses_and_fractions_have_a_canonical_form():
    assert ids.canonical_json(Row("x", Fraction(30000, 1001))) == '{"name":"x","rate":"30000/1001"}'


def test_what_has_no_canonical_form_is_refused():
    with pytest.raises(TypeError, match=r"set has no canonical form: \{1\}"):
        ids.canonical_hash({1})
    with pytest.raises(ValueError, match="Out of range float"):
        ids.canonical_hash(float("nan"))


def test_the_hash_is_the_sha256_of_the_json_text():
    # printf '["a",1]' | sha256sum
    assert ids.canonical_hash(["a", 1]) == "135f17a475a61afdeeaf3759ad2e45ad1c7abb192395abe47e41fc8e395dc1a9"


@pytest.mark.parametrize("seed", ["0", "12345"])
def test_ids_are_equal_in_a_process_with_another_hash_seed(seed):
    code = (
        "import json, sys; from lvg_data import ids; value = json.load(sys.stdin);"
        "print(json.dumps([ids.canonical_hash(value), ids.video_id(value), ids.clip_id('v', 3, 9),"
        " ids.unit_interval('x', 1), ids.split_of('v', {'val': 0.3, 'test': 0.3})]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(VALUE),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert json.loads(answer) == [
        ids.canonical_hash(VALUE),
        ids.video_id(VALUE),
        ids.clip_id("v", 3, 9),
        ids.unit_interval("x", 1),
        ids.split_of("v", {"val": 0.3, "test": 0.3}),
    ]


def test_draws_are_uniform():
    draws = [ids.unit_interval("test", n) for n in range(5000)]

    assert all(0 <= draw < 1 for draw in draws)
    tenths = [sum(t / 10 <= draw < (t + 1) / 10 for draw in draws) for t in range(10)]
    assert all(400 < count < 600 for count in tenths)  # 500 each, give or take 21


def test_splits_get_their_shares():
    videos = [f"video-{n}" for n in range(5000)]
    splits = [ids.split_of(video, {"val": 0.1, "test": 0.2}) for video in videos]

    assert 430 < splits.count("val") < 570
    assert 880 < splits.count("test") < 1120
    assert splits.count("train") == 5000 - splits.count("val") - splits.count("test")


def test_without_shares_everything_is_for_training():
    assert {ids.split_of(f"video-{n}", {}) for n in range(100)} == {"train"}
    assert {ids.split_of(f"video-{n}", {"val": 0.0}) for n in range(100)} == {"train"}


def test_a_videos_split_depends_on_its_id_alone():
    shares = {"val": 0.3, "test": 0.1}
    turned = {"test": 0.1, "val": 0.3}

    assert all(ids.split_of(f"v{n}", shares) == ids.split_of(f"v{n}", turned) for n in range(300))


@settings(deadline=None)
@given(st.text(), st.integers(0, 10**9), st.integers(0, 20_000))
def test_keys_are_made_of_safe_letters_whatever_the_video_is_called(video, start, index):
    clip = ids.clip_id(video, start, start + 5)
    for name in (ids.video_id(video), ids.scene_id(video, start, start + 5), clip, ids.part_key(clip, index)):
        assert re.fullmatch("[a-z0-9_-]+", name)
        assert len(name) <= 32


def test_scenes_and_clips_of_the_same_frames_have_different_ids():
    made = {
        ids.scene_id("v", 1, 23),
        ids.clip_id("v", 1, 23),
        ids.clip_id("v", 12, 3),
        ids.clip_id("v1", 1, 23),
    }

    assert len(made) == 4


def test_part_and_shard_names_sort_in_their_order():
    assert ids.part_key("abc", 7) == "abc-0007"
    assert ids.shard_name("train", 12) == "train-00012.tar"
    assert ids.resolution_folder("low", 36, 64) == "low-036x064"
