"""The picture of a recording: complete at any number of intervals, readable, the same bytes again."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from recognizer.recording import MOST, Shown, timeline_png

T = np.arange(600) / 100


def shown(centre: int, colour: int = 0) -> Shown:
    frames = (max(0, centre - 15), centre, min(599, centre + 15))
    return Shown(
        seconds=(frames[0] / 100, frames[1] / 100, frames[2] / 100), frames=frames, label="surprise", probability=0.7,
        colour=colour, pictures=np.full((3, 32, 32, 3), 120, np.uint8),
        flow=np.full((32, 32, 3), (255, 0, 0), np.uint8),
    )  # fmt: skip


def picture(centres: list[int], signal: np.ndarray | None = None, threshold: float = 0.1) -> np.ndarray:
    if signal is None:
        signal = sum((np.exp(-(((np.arange(600) - c) / 8) ** 2)) for c in centres), np.zeros(600))
    data = timeline_png(
        T, signal, threshold, [shown(c, i % 3) for i, c in enumerate(centres)], title="t.mp4", flow_scale=1.0
    )
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1]


@cache
def alone() -> np.ndarray:
    """One interval, drawn once."""
    return picture([300])


def red(image: np.ndarray) -> int:
    """Pixels of the flow pictures."""
    return int((image == (255, 0, 0)).all(-1).sum())


@pytest.mark.parametrize("n", [0, 1, 2, 3, MOST, MOST + 3])
def test_every_interval_is_pictured_up_to_a_limit(n: int) -> None:
    image = picture([20 + 45 * i for i in range(n)])
    one = red(alone())
    assert one > 5000
    assert red(image) == pytest.approx(min(n, MOST) * one, rel=0.05)
    assert image.shape[0] <= 1400


def test_more_intervals_make_it_taller_not_wider() -> None:
    none, two, three = picture([]), picture([100, 300]), picture([100, 300, 500])
    assert none.shape[1] == two.shape[1] == three.shape[1]
    assert none.shape[0] < two.shape[0] < three.shape[0]


def test_the_interval_is_shaded_in_the_colour_of_its_class() -> None:
    image = alone().astype(int)
    band = image[60:250]
    shade = (np.abs(band - (205, 225, 238)).max(-1) < 12).mean(0) > 0.3  # C0 at the opacity of the shading
    columns = np.flatnonzero(shade)
    assert 0.02 < len(columns) / image.shape[1] < 0.09  # 0.3 of 6 seconds
    assert abs(columns.mean() / image.shape[1] - 0.5) < 0.06


def test_a_flat_signal_one_without_a_face_and_crowded_labels_are_drawn() -> None:
    picture([], np.zeros(600))
    gap = np.ones(600)
    gap[100:200] = gap[400:450] = np.nan
    with_gap = picture([300], gap)
    assert not np.array_equal(with_gap, picture([300], np.ones(600)))
    picture([], np.full(600, np.nan))
    picture([0, 5, 10, 590, 599])


def test_the_same_bytes_again() -> None:
    assert np.array_equal(picture([100, 200]), picture([100, 200]))
