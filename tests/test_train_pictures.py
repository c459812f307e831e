"""Pictures of samples: which pixel shows what."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from lvg_train.pictures import beside, captioned, grid, labelled, save_samples, save_webp, strip, to_uint8

DARK = 24


def flat(levels: list[int], num_frames: int = 2, height: int = 4, width: int = 6) -> np.ndarray:
    """uint8 [N, T, H, W, 3]: video i is as bright as `levels[i]`, one level more a frame."""
    videos = np.zeros((len(levels), num_frames, height, width, 3), np.uint8)
    for number, level in enumerate(levels):
        videos[number] = (level + np.arange(num_frames))[:, None, None, None]
    return videos


def flashing(num_frames: int, size: int) -> np.ndarray:
    """uint8 [1, T, H, W, 3]: 40, 200, 40 ..."""
    levels = np.resize([40, 200], num_frames).astype(np.uint8)
    return np.broadcast_to(levels[None, :, None, None, None], (1, num_frames, size, size, 3))


def test_values_become_levels_as_the_release_writes_them():
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 1 / 127.5, 0.999, 1.0, 3.0])

    levels = to_uint8(values.view(1, 1, 1, 1, 8).expand(1, 3, 1, 1, 8))

    assert levels.dtype == np.uint8
    assert levels.shape == (1, 1, 1, 8, 3)
    assert levels[0, 0, 0, :, 0].tolist() == [0, 0, 64, 128, 129, 255, 255, 255]


def test_every_level_survives_the_way_to_values_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1).repeat(3, -1)

    video = torch.from_numpy(levels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1

    assert (to_uint8(video) == levels).all()


def test_channels_frames_rows_and_columns_keep_their_places():
    video = torch.full((2, 3, 4, 5, 6), -1.0)
    video[1, 2, 3, 4, 0] = 1

    levels = to_uint8(video)

    assert np.argwhere(levels).tolist() == [[1, 3, 4, 0, 2]]


def test_a_grid_goes_row_by_row_with_a_gap():
    picture = grid(flat([40, 80, 120]), num_columns=2, gap=1)

    assert picture.shape == (2, 9, 13, 3)
    assert picture[0, 0].tolist() == [[40] * 3] * 6 + [[DARK] * 3] + [[80] * 3] * 6
    assert picture[1, 5].tolist() == [[121] * 3] * 6 + [[DARK] * 3] * 7
    assert (picture[:, 4] == DARK).all()


@pytest.mark.parametrize(("n", "size", "columns"), [(1, (8, 8), 1), (4, (8, 8), 2), (9, (8, 8), 3),
                                                    (8, (9, 16), 2), (2, (16, 2), 2)])  # fmt: skip
def test_a_grid_is_about_square(n, size, columns):
    picture = grid(flat([0] * n, 1, *size), gap=0)

    assert picture.shape[1:3] == (-(-n // columns) * size[0], columns * size[1])


def test_a_strip_is_frames_side_by_side():
    picture = np.asarray(strip(flat([10], num_frames=5)[0], 3))

    assert picture.shape == (4, 18, 3)
    assert picture[0, ::6, 0].tolist() == [10, 12, 14]


def test_a_label_adds_a_line_and_keeps_the_video():
    video = flat([200], height=8, width=60)[0]

    picture = labelled(video, "samples")

    assert picture.shape == (2, 30, 60, 3)
    assert (picture[:, 22:] == video).all()
    assert 20 < (picture[0, :22] > 128).sum() / 3 < 400  # ink
    assert not (labelled(video, "data") == picture).all()


def test_captions_stand_over_each_video_and_keep_it():
    videos = flat([200, 100], height=8, width=60)

    pictures = captioned(videos, ["seed 3", "seed 40"])

    assert pictures.shape == (2, 2, 23, 60, 3)
    assert (pictures[:, :, 15:] == videos).all()
    ink = (pictures[:, 0, :15] > 128).sum((1, 2, 3)) / 3
    assert 20 < ink[0] < ink[1] < 200
    assert (pictures[:, 0, [0, 14]] == DARK).all()  # no letter is cut off


def test_a_video_narrower_than_its_caption_gets_room_for_it():
    picture = captioned(flat([200]), ["seed 18446744073709551615"])[0]

    assert 100 < picture.shape[2] < 250
    assert (picture[0, :15, -1] == DARK).all() and (picture[0, :15, -20:] > 128).any()
    assert (picture[0, 15:, :6] == 200).all() and (picture[0, 15:, 6:] == DARK).all()


def test_videos_of_other_sizes_stand_beside_each_other():
    picture = beside([flat([50])[0], flat([90], height=2, width=2)[0]], gap=1)

    assert picture.shape == (2, 4, 9, 3)
    assert picture[0, 1, :, 0].tolist() == [50] * 6 + [DARK] + [90] * 2
    assert picture[0, 3, :, 0].tolist() == [50] * 6 + [DARK] * 3


def test_samples_are_saved_as_a_picture_and_a_movie(tmp_path):
    av = pytest.importorskip("av")
    columns = {"data": flat([40, 80], 20, 48, 48), "samples": flat([120, 160], 20, 24, 24)}

    png, mp4 = save_samples(tmp_path, 100, columns, Fraction(30))

    assert (png, mp4) == (tmp_path / "samples/step-000000100.png", tmp_path / "samples/step-000000100.mp4")
    with Image.open(png) as image:
        picture = np.asarray(image)
    # a label, then two rows of 8 frames shown 96 pixels high; 24 x 24 is enlarged as well
    assert picture.shape == (22 + 96 + 4 + 96, 768 + 12 + 768, 3)
    assert picture[60, [10, 760], 0].tolist() == [40, 59]
    assert picture[160, [10, 760], 0].tolist() == [80, 99]
    assert picture[60, [790, 1540], 0].tolist() == [120, 139]
    assert picture[160, [790, 1540], 0].tolist() == [160, 179]
    with av.open(str(mp4)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 30
    assert len(frames) == 20
    levels = np.stack(frames)[:, 22:, :].astype(int)
    for place, level in (((40, 40), 40), ((140, 40), 80), ((40, 150), 120), ((140, 150), 160)):
        assert np.abs(levels[:, *place, 0] - level - np.arange(20)).max() <= 4


def test_without_av_the_movie_is_an_animated_webp(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    paths = save_samples(tmp_path, 5, {"data": flashing(7, 32)}, Fraction(10))

    assert [p.name for p in paths] == ["step-000000005.png", "step-000000005.webp"]
    with Image.open(paths[1]) as image:
        assert (image.n_frames, image.size) == (7, (96, 118))


def test_wide_videos_get_fewer_frames_in_their_strip(tmp_path):
    png, _ = save_samples(tmp_path, 1, {"data": flat([40], 12, 144, 256)}, Fraction(30))

    with Image.open(png) as image:
        assert image.size == (4 * 256, 22 + 144)


def test_columns_that_do_not_fit_are_refused_with_their_shapes(tmp_path):
    with pytest.raises(ValueError, match=r"'samples': \[1, 3, 4, 6, 3\]"):
        save_samples(tmp_path, 1, {"data": flat([1]), "samples": flat([1], 3)}, Fraction(30))


def test_an_animated_webp_has_its_name(tmp_path):
    with pytest.raises(ValueError, match=r"x\.gif"):
        save_webp(tmp_path / "x.gif", flat([1])[0], Fraction(30))
    save_webp(tmp_path / "x.webp", flashing(3, 16)[0], Fraction(30))
    with Image.open(tmp_path / "x.webp") as image:
        assert (image.n_frames, image.size) == (3, (16, 16))
