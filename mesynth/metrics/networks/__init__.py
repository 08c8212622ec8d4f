"""The pretrained networks that measures, comparison and filters share, and the one place that loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mesynth.core.errors import WeightsUnavailable

if TYPE_CHECKING:
    from mesynth.metrics.networks.extractors import FeatureExtractor
    from mesynth.metrics.networks.faces import FaceEmbedder
    from mesynth.metrics.networks.judge import AUJudge
    from mesynth.metrics.networks.perceptual import PerceptualDistance

__all__ = ["GivenWeightsUnavailable", "Networks"]
T = TypeVar("T")


class GivenWeightsUnavailable(WeightsUnavailable):
    """A weight file that was given by name cannot be used: nothing stands in for it."""


class Networks:
    """Each network is loaded when it is first asked for, and kept. Picklable: a copy in a process loads its own.

    Args:
        inception, lpips, judge: weight files; None for the usual place (``mesynth doctor`` names it).
        allow_download: fetch what is missing of the picture networks.

    >>> Networks().get("twice", lambda: [1, 2])
    [1, 2]
    """

    def __init__(
        self,
        *,
        inception: Path | str | None = None,
        lpips: Path | str | None = None,
        judge: Path | str | None = None,
        allow_download: bool = False,
    ) -> None:
        self._files: dict[str, Path | str | None] = {"inception": inception, "lpips": lpips, "judge": judge}
        self._allow_download = allow_download
        self._loaded: dict[str, Any] = {}
        self.notes: list[str] = []
        """Which network stands in for which, and why."""

    def __getstate__(self) -> dict[str, Any]:
        # What was missing has been fetched by the process that loaded first.
        return {**self.__dict__, "_loaded": {}, "notes": [], "_allow_download": False}

    def get(self, name: str, load: Callable[[], T]) -> T:
        """What ``load`` made when ``name`` was first asked for; for networks of measures from outside, too."""
        if name not in self._loaded:
            self._loaded[name] = load()
        found: T = self._loaded[name]
        return found

    @property
    def judge(self) -> AUJudge:
        """The network that reads AU intensities. Raises WeightsUnavailable."""
        from mesynth.metrics.networks.judge import AUJudge

        file = self._files["judge"]
        return self.get("judge", lambda: _demanded(lambda: AUJudge.load(file), file))

    @property
    def faces(self) -> FaceEmbedder:
        """The face embedder. Raises WeightsUnavailable."""
        from mesynth.metrics.networks.faces import FaceEmbedder

        return self.get("faces", FaceEmbedder)

    @property
    def pictures(self) -> tuple[FeatureExtractor, PerceptualDistance]:
        """Features of pictures and a perceptual distance, which may share a network. Raises WeightsUnavailable."""
        return self.get("pictures", lambda: _demanded(self._pictures, self._files["inception"], self._files["lpips"]))

    def _pictures(self) -> tuple[FeatureExtractor, PerceptualDistance]:
        from mesynth.metrics.networks.extractors import best_extractor
        from mesynth.metrics.networks.perceptual import best_distance

        features, note = best_extractor(self._files["inception"], allow_download=self._allow_download)
        perceptual, other = best_distance(self._files["lpips"], allow_download=self._allow_download)
        self.notes += [note, other]
        return features, perceptual


def _demanded(load: Callable[[], T], *files: Path | str | None) -> T:
    try:
        return load()
    except WeightsUnavailable as error:
        if any(file is not None for file in files):
            raise GivenWeightsUnavailable(str(error)) from None
        raise
