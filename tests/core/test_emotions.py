"""AUs drawn for an emotion follow the published counts and never conflict."""

import numpy as np
import pytest

from mesynth.core import emotions, facs
from mesynth.core.emotions import CLASS_OF, AUSampling, sample_aus
from mesynth.core.errors import MesynthError


def _shares(emotion: str, n: int = 3000) -> dict[int, float]:
    rng = np.random.default_rng(0)
    active = np.stack([sample_aus(emotion, rng).intensity.max(1) > 0 for _ in range(n)])
    return dict(zip(facs.AU_CODES, active.mean(0), strict=True))


def test_frequencies_match_the_table() -> None:
    shares = _shares("disgust")
    for code, expected in emotions.PUBLISHED["disgust"].items():
        assert shares[code] == pytest.approx(expected, abs=0.03)
    assert shares[12] == 0


@pytest.mark.parametrize("source", list(emotions.SOURCES))
def test_every_draw_is_active_and_free_of_conflicts(source: str) -> None:
    rng = np.random.default_rng(1)
    for emotion in emotions.SOURCES[source]:
        for _ in range(200):
            vector = sample_aus(emotion, rng, AUSampling(source=source))
            assert vector.intensity.max() > 0
            assert not facs.conflicts(vector)


def test_midline_aus_have_no_weak_side() -> None:
    rng = np.random.default_rng(2)
    row = facs.AU_INDEX[17]
    for _ in range(300):
        left, right = sample_aus("repression", rng).intensity[row]
        assert left == right


def test_about_a_third_is_one_sided() -> None:
    rng = np.random.default_rng(3)
    sides = np.stack([sample_aus("contempt", rng).intensity[facs.AU_INDEX[14]] for _ in range(2000)])
    one_sided = (sides.min(1) < 0.4 * sides.max(1)).mean()
    assert one_sided == pytest.approx(0.35, abs=0.05)


def test_unknown_names_are_answered_with_the_choices() -> None:
    with pytest.raises(MesynthError, match="'joy' is not in the published table; choose from happiness"):
        emotions.require_emotion("joy")
    with pytest.raises(MesynthError, match="'guess' is unknown; choose from published, expert"):
        AUSampling(source="guess")
    assert emotions.require_emotion(" Surprise ") == "surprise"


def test_class_negative_is_drawn_by_its_shares() -> None:
    rng = np.random.default_rng(4)
    drawn = [emotions.draw_emotion("negative", rng) for _ in range(4000)]
    assert drawn.count("disgust") / 4000 == pytest.approx(0.48, abs=0.03)
    assert {CLASS_OF[e] for e in drawn} == {"negative"}


def test_a_class_is_drawn_among_the_emotions_its_table_has() -> None:
    rng = np.random.default_rng(5)
    drawn = {emotions.draw_emotion("negative", rng, "expert") for _ in range(300)}
    assert drawn <= set(emotions.EXPERT)
    for emotion in drawn:
        emotions.sample_aus(emotion, rng, AUSampling(source="expert"))
