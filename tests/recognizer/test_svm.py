import numpy as np
import pytest
from sklearn.svm import SVC

from mesynth.core.errors import ConfigError
from recognizer.config import RunConfig
from recognizer.data import FlowSet
from recognizer.fitting import SvmMembers, fit, restored
from recognizer.mixing import Member
from recognizer.models.lda import Gram
from recognizer.models.svm import SvmConfig
from recognizer.models.svm import fit as fit_one


def plain(n: int) -> np.ndarray:
    affine = np.zeros((n, 2, 3))
    affine[:, 0] = 1
    return affine


def test_equals_scikit_learn_on_the_pixels(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    x, y = real.x.reshape(len(real), -1).astype(np.float64), real.y
    model = fit_one(Gram(real.x), y, np.ones(len(y)), 3, SvmConfig(), affine=plain(len(y)))
    for c in range(3):
        reference = SVC(C=1.0, gamma=model.rate, class_weight=None)
        share = np.bincount(y, minlength=3)[y] * 3 / len(y)
        reference.fit(x, y == c, sample_weight=1 / share)
        distances = ((x[:, None] - x[None]) ** 2).sum(-1)
        found = np.exp(-model.rate * distances) @ model.coefficients[c] + model.bias[c]
        np.testing.assert_allclose(found, reference.decision_function(x), atol=2e-3)


def test_clips_without_weight_do_not_count_and_saving_keeps_the_answers(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    weights = (np.arange(len(real)) % 2 == 0).astype(float)
    added = np.arange(len(real)) % 4 == 2
    members = [Member.of("f", 0, weights, real.y), Member.of("g", 0, 1 - weights, real.y)]
    trained = fit(real, added, members, RunConfig(model="svm"))
    assert isinstance(trained, SvmMembers)
    assert not trained.coefficients[0][:, weights == 0].any()
    again = restored(RunConfig(model="svm"), trained.tensors())
    for member in range(2):
        p = trained.probabilities(member, real.x)
        np.testing.assert_allclose(p.sum(1), 1)
        np.testing.assert_allclose(again.probabilities(member, real.x), p, atol=1e-12)


def test_a_class_without_clips_is_never_predicted(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    weights = (real.y != 1).astype(float)
    trained = fit(real, np.zeros(len(real), bool), [Member.of("f", 0, weights, real.y)], RunConfig(model="svm"))
    assert not trained.probabilities(0, real.x)[:, 1].any()


@pytest.mark.parametrize("values", [{"c": 0.0}, {"gamma": -1.0}, {"c": float("inf")}])
def test_mistakes_are_named(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        SvmConfig(**values)
