"""Profiles start at 0, reach 1 at the apex, and are back at 0 at the offset."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.core.profiles import PROFILES, Profile, draw_profile, frame_count, require_profile


@given(
    apex=st.floats(0.1, 0.9),
    hold=st.floats(0, 0.5),
    decay=st.sampled_from(["cosine", "exponential"]),
    n=st.integers(3, 120),
    lag=st.floats(0, 0.1),
)
def test_shape(apex: float, hold: float, decay: str, n: int, lag: float) -> None:
    profile = Profile(apex=apex, hold=hold, decay=decay, lag=lag)
    curves = profile.alpha(n, profile.draw_lags(25, np.random.default_rng(0)))
    top = profile.apex_index(n)
    assert curves.shape == (n, 25)
    assert (curves[0] == 0).all()
    np.testing.assert_allclose(curves[-1], 0, atol=1e-6)
    assert (curves[top] == 1).all()
    assert (np.diff(curves[: top + 1], axis=0) >= -1e-6).all()
    assert (np.diff(curves[top:], axis=0) <= 1e-6).all()


def test_casme2_apexes_follow_the_database() -> None:
    rng = np.random.default_rng(0)
    apexes = [draw_profile("casme2", rng).apex for _ in range(4000)]
    assert np.mean(apexes) == pytest.approx(0.51, abs=0.01)
    assert 0.14 < np.std(apexes) < 0.17  # clipped to [.2, .8]


def test_frames_of_a_duration() -> None:
    assert frame_count(0.315, 200) == 64
    assert frame_count(0.04, 25) == 3  # onset, apex and offset always fit


@pytest.mark.parametrize(("seconds", "fps"), [(0.7, 200), (0.01, 200), (0.3, 0), (0.3, -5)])
def test_no_micro_expression_lasts_that_long(seconds: float, fps: float) -> None:
    with pytest.raises(MesynthError):
        frame_count(seconds, fps)


def test_bad_profiles_are_named() -> None:
    with pytest.raises(MesynthError, match=r"apex 0\.95"):
        Profile(apex=0.95)
    with pytest.raises(MesynthError, match="profile 'slow' is unknown; choose from casme2"):
        draw_profile("slow", np.random.default_rng(0))
    assert set(PROFILES) >= {"casme2", "symmetric", "fast-rise", "slow-rise", "held"}


@given(apex=st.floats(0.1, 0.9), decay=st.sampled_from(["cosine", "exponential"]))
def test_text_reads_back(apex: float, decay: str) -> None:
    profile = Profile(apex=apex, decay=decay, lag=0.05)
    again = Profile.parse(profile.text())
    assert (again.decay, again.lag) == (decay, 0.05)
    assert again.apex == pytest.approx(apex, rel=1e-5)
    assert Profile.parse("casme2") == PROFILES["casme2"]
    with pytest.raises(MesynthError, match="'apex=high' is no temporal profile"):
        Profile.parse("apex=high")


@pytest.mark.parametrize(
    "text", ["", "slow", "apex", "apex=", "apex=0.4,apex=0.5", "peak=0.5", "apex=0.4;hold=0", "apex=nan", "apex=0.99",
             "hold=-1", "decay=linear", "lag=1", "apex=0.4,"],
)  # fmt: skip
def test_profiles_that_are_none(text: str) -> None:
    with pytest.raises(MesynthError, match=r"profile"):
        require_profile(text)


def test_a_profile_spelled_out_is_taken_as_it_is() -> None:
    rng = np.random.default_rng(0)
    assert draw_profile("apex=0.3,lag=0.02", rng) == Profile(apex=0.3, lag=0.02)
    assert draw_profile(PROFILES["held"].text(), rng) == PROFILES["held"]
