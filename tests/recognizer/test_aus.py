"""Action units as a task: what is known counts, what is not does not; against closed forms, sklearn, CD6ME's table."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.svm import SVC

import recognizer
from mesynth.core.errors import ConfigError, LeakError, ManifestError
from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.core.types import N_AUS
from mesynth.store.manifest import Manifest
from recognizer import fitting, mixing
from recognizer.ablation import ablate
from recognizer.aus import CD6ME, AusConfig, balances, chosen_threshold, constant_f1, counts_table, shifted, targets
from recognizer.cli import main
from recognizer.config import AblationConfig, RunConfig, load_config
from recognizer.data import FlowSet
from recognizer.fitting import ThresholdedMembers, fit
from recognizer.mixing import MixConfig, members_of
from recognizer.models import NETWORKS
from recognizer.models.common import FlowNetwork, Shape
from recognizer.protocol import PoolTooSmallError, ProtocolConfig, make_folds
from recognizer.report import loso_markdown, loso_tables
from recognizer.results import Condition, Labels, MissingClassError, column, confusion, constant_rows, fold_table
from recognizer.run import loso
from recognizer.study_plan import load_study
from recognizer.trained import Recognizer, predict, train
from recognizer.training import Head, LossConfig, TrainConfig, multilabel
from tests.recognizer.corpora import write_corpus
from tests.recognizer.zoo import ZOO, small

CODES = (1, 4, 12)
SHARES = (0.5, 0.35, 0.2)
AUS = AusConfig(codes=CODES)
RUN = RunConfig(task="aus", aus=AUS)
EASY = TrainConfig(steps=60, batch=24)


def clips(
    subjects: int = 5, each: int = 12, *, seed: int = 0, generator: str = "", database: str = "own", size: int = 28,
    unknown: float = 0.2, seen: tuple[str, ...] = (), shown: bool = True,
) -> FlowSet:  # fmt: skip
    """Clips whose AUs move a row of the face each; AU 4 is not known of some."""
    rng, n = np.random.default_rng(seed), subjects * each
    au, x = np.zeros((n, N_AUS, 2), np.int8), rng.normal(size=(n, 3, size, size))
    for k, (code, share) in enumerate(zip(CODES, SHARES, strict=True)):
        on = rng.random(n) < share
        au[on, AU_INDEX[code], rng.integers(0, 2, on.sum())] = 1  # one side is enough
        if shown:
            x[on, 1, 8 * k + 2 : 8 * k + 5] += 2
    au[rng.random(n) < unknown, AU_INDEX[4]] = -1
    names = [f"s{i // each}" for i in range(n)]
    made = FlowSet.of(
        x, np.arange(n) % 3, names, database=database, generator=generator,
        subjects_seen=[seen] * n if generator else None,
    )  # fmt: skip
    return replace(made, au=au.reshape(n, -1))


@cache
def real() -> FlowSet:
    return clips()


@cache
def made() -> FlowSet:
    return clips(4, 20, seed=1, generator="mine", database="made")


# ---------------------------------------------------------------- what is known


@pytest.mark.parametrize(("left", "right"), list(product((-1, 0, 1), repeat=2)))
def test_either_side_shows_an_au_and_both_must_be_known_to_lack_it(left: int, right: int) -> None:
    au = np.full((1, N_AUS, 2), -1, np.int8)
    au[0, AU_INDEX[12]] = left, right
    wanted = 1 if 1 in (left, right) else 0 if (left, right) == (0, 0) else -1
    assert targets(au.reshape(1, -1), [12]).tolist() == [[wanted]]


def test_clips_of_which_nothing_is_known_are_left_out_and_said() -> None:
    au = np.full((3, N_AUS, 2), -1, np.int8)
    au[0, AU_INDEX[4]] = 0
    some = replace(FlowSet.of(np.ones((3, 3, 28, 28)), [0, 1, 2], ["a", "b", "c"]), au=au.reshape(3, -1))
    kept = some.for_aus((4, 12))
    assert (len(kept), kept.left_out, kept.targets.tolist()) == (1, {"AUs not known": 2}, [[0, -1]])
    assert (kept.outputs, kept.class_counts.tolist()) == (("AU4", "AU12"), [0, 0])
    with pytest.raises(ManifestError, match="none of AU12 is known of any of the 3 clips"):
        some.for_aus((12,))


# ---------------------------------------------------------------- CD6ME

COUNTS = {  # clips, then those that show each of the 12 AUs (Varanka et al., 2022, table of AUs)
    "casme": (189, (23, 17, 70, 0, 1, 4, 40, 3, 9, 23, 14, 13)),
    "casme2": (256, (26, 22, 130, 2, 13, 39, 13, 16, 34, 27, 16, 25)),
    "casme3": (860, (153, 128, 274, 44, 8, 27, 50, 10, 15, 193, 6, 20)),
    "4dme": (267, (46, 54, 102, 8, 25, 89, 1, 2, 53, 4, 6, 11)),
    "mmew": (300, (50, 41, 109, 70, 10, 47, 8, 38, 37, 17, 6, 11)),
    "samm": (159, (6, 18, 23, 10, 3, 46, 5, 6, 28, 13, 4, 6)),
}
PER_AU = (26.04, 24.23, 51.7, 12.38, 5.74, 22.08, 10.89, 7.12, 15.95, 24.0, 4.99, 8.12)
PER_DATABASE = {"casme": 16.08, "casme2": 19.40, "samm": 15.33, "4dme": 20.16, "mmew": 20.72, "casme3": 15.12}


@cache
def cd6me() -> FlowSet:
    """As many clips as CD6ME has of each database, with its counts of AUs, and nothing to see in them."""
    parts = []
    for name, (n, counts) in COUNTS.items():
        au = np.zeros((n, N_AUS, 2), np.int8)
        for code, count in zip(CD6ME, counts, strict=True):
            au[:count, AU_INDEX[code]] = 1
        part = FlowSet.of(np.zeros((n, 3, 16, 16)), [0] * n, [f"p{i % 9}" for i in range(n)], database=name)
        ids = np.array([f"{name}/{i}" for i in range(n)])
        parts.append(replace(part, au=au.reshape(n, -1), clip_ids=ids).for_aus(CD6ME))
    return FlowSet.concat(parts)


def test_the_constant_row_of_cd6me_is_as_published() -> None:
    folds = make_folds(cd6me(), ProtocolConfig(kind="lodo"))
    assert len(folds) == 6
    rows = constant_rows(cd6me(), folds)
    always = rows["always present"]
    assert np.allclose(np.array(always["f1"]) * 100, PER_AU, atol=0.006)
    assert round(always["uf1"] * 100, 2) == 17.77
    assert 0 < rows["prevalence draw"]["uf1"] < always["uf1"]


def test_a_run_that_calls_all_present_comes_to_the_constant_row_and_to_each_databases_own() -> None:
    folds = make_folds(cd6me(), ProtocolConfig(kind="lodo"))
    condition = Condition(model="all", train_subjects=0, arm="none")
    labels = Labels(AusConfig().names, multi=True)
    found, every = {}, np.zeros((24, 24), np.int64)
    for fold in folds:
        table = fold_table(condition, 0, fold, cd6me(), np.ones((len(fold.test_index), 12)))
        counts = confusion(column(table, "y"), column(table, "predicted"), labels.size)
        found[fold.name], every = round(100 * labels.metrics(counts).uf1, 2), every + counts
    assert found == pytest.approx(PER_DATABASE, abs=0.011)
    assert round(100 * labels.metrics(every).uf1, 2) == 17.77
    assert labels.metrics(every).n == 2031 * 12


def test_counts_are_printed_as_the_published_table() -> None:
    known = {name: cd6me().targets[cd6me().databases == name] for name in COUNTS}
    header, rows, notes = counts_table(known, CD6ME)
    assert header[1:4] == ["AU1", "AU2", "AU4"]
    assert header[-2:] == ["Total", "clips"]
    assert rows[1] == ["casme2", *map(str, COUNTS["casme2"][1]), "363", "256"]
    assert rows[-1] == ["Total", *map(str, (304, 280, 708, 134, 60, 252, 117, 75, 176, 277, 52, 86)), "2521", "2031"]
    assert notes == []


def test_the_draw_by_prevalence_is_what_drawing_comes_to() -> None:
    data = real().for_aus(CODES)
    folds = make_folds(data)
    rng, labels = np.random.default_rng(0), Labels(AUS.names, multi=True)
    total = np.zeros((6, 6), np.int64)
    for fold, _ in product(folds, range(300)):
        known = data.targets[fold.train_index]
        share = np.array([(t[t >= 0] == 1).mean() for t in known.T])
        table = fold_table(
            Condition(model="draw", train_subjects=0, arm="none"), 0, fold, data,
            (rng.random((len(fold.test_index), 3)) < share).astype(float),
        )  # fmt: skip
        total += confusion(column(table, "y"), column(table, "predicted"), 6)
    assert np.allclose(labels.f1(total), constant_rows(data, folds)["prevalence draw"]["f1"], atol=0.02)


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_sklearn_on_what_is_known(seed: int) -> None:
    rng, data = np.random.default_rng(seed), clips(seed=seed, unknown=0.4).for_aus(CODES)
    p = rng.random((len(data), 3))
    fold = replace(make_folds(data)[0], train_index=np.zeros(0, int), test_index=np.arange(len(data)))
    table = fold_table(Condition(model="m", train_subjects=0, arm="none"), 0, fold, data, p)
    m = Labels(AUS.names, multi=True).evaluate(column(table, "y"), column(table, "predicted"))
    known = data.targets >= 0
    pairs = [(data.targets[k, a], p[k, a] > 0.5) for a, k in enumerate(known.T)]
    assert m.f1 == pytest.approx([f1_score(*pair) for pair in pairs])
    assert m.uar == pytest.approx(np.mean([balanced_accuracy_score(*pair) for pair in pairs]))
    assert (m.n, m.uf1) == (known.sum(), pytest.approx(np.mean(m.f1)))
    # What is said of an AU that nobody knows changes nothing.
    other = fold_table(
        Condition(model="m", train_subjects=0, arm="none"), 0, fold, data, np.where(known, p, 1 - p)
    )  # fmt: skip
    assert other.equals(table)


def test_an_au_that_no_test_clip_shows_is_refused_with_the_way_out() -> None:
    with pytest.raises(MissingClassError, match=r"no test clip shows AU9.*aus.codes=\[1,12\]"):
        loso(real(), None, replace(RUN, aus=AusConfig(codes=(1, 9, 12))))
    with pytest.raises(MissingClassError, match=r"choose other AUs"):
        loso(real(), None, replace(RUN, aus=AusConfig(codes=(9,))))


# ---------------------------------------------------------------- loss


class _Scores(FlowNetwork):
    """A network in name: what turns scores into odds."""

    def __init__(self, gain: float, centre: float) -> None:
        super().__init__()
        self.probability_gain, self.centre = gain, centre


LOGITS, LENGTHS = _Scores(1.0, 0.0), _Scores(8.0, 0.5)
TRUTH = torch.tensor([[1, 0, -1], [0, -1, -1], [1, 1, 0], [0, 0, -1]])
ONES = torch.ones(3, 2)


@pytest.mark.parametrize("kind", ["native", "cross_entropy", "focal", "margin"])
def test_unknown_aus_have_no_part_in_the_loss(kind: str) -> None:
    scores = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = multilabel(LOGITS, scores, TRUTH, ONES, LossConfig(kind=kind))
    [gradient] = torch.autograd.grad(loss, scores)
    assert (gradient[TRUTH < 0] == 0).all()
    assert (gradient[TRUTH >= 0] != 0).all()
    nothing = multilabel(LOGITS, scores, torch.full((4, 3), -1), ONES, LossConfig(kind=kind))
    assert nothing == 0


def test_the_loss_is_binary_cross_entropy_and_weighed() -> None:
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    weights, known = torch.tensor([[1.0, 3.0], [0.5, 2.0], [1.0, 1.0]]), TRUTH >= 0
    share = torch.where(TRUTH > 0, weights[:, 1], weights[:, 0])[known]
    wanted = F.binary_cross_entropy_with_logits(scores[known], TRUTH[known].float(), weight=share)
    torch.testing.assert_close(multilabel(LOGITS, scores, TRUTH, weights, LossConfig()), wanted)
    odds = 8 * (scores[known] - 0.5)
    of_lengths = F.binary_cross_entropy_with_logits(odds, TRUTH[known].float())
    torch.testing.assert_close(multilabel(LENGTHS, scores, TRUTH, ONES, LossConfig(kind="cross_entropy")), of_lengths)
    right, wrong = torch.tensor([[0.95]]), torch.tensor([[0.2]])
    for scored, truth, value in ((right, 1, 0.0), (wrong, 1, 0.49), (wrong, 0, 0.01)):  # Sabour et al., eq. 4
        found = multilabel(LENGTHS, scored, torch.tensor([[truth]]), torch.ones(1, 2), LossConfig())
        assert found.item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_present_and_absent_count_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, weights = rng.integers(-1, 2, (40, 3)).astype(np.int8), rng.integers(0, 3, (2, 40)).astype(float)
    known[:, 2] = np.maximum(known[:, 2], 0) * 0  # an AU that is never present
    even = balances(known, weights, balance=True)
    for m, a in product(range(2), range(2)):
        mass = [even[m, a, side] * weights[m, known[:, a] == side].sum() for side in (0, 1)]
        assert mass[0] == pytest.approx(mass[1], rel=1e-5)
        assert sum(mass) == pytest.approx(weights[m, known[:, a] >= 0].sum(), rel=1e-5)
    assert (even[:, 2] == 1).all()
    assert (balances(known, weights, balance=False) == 1).all()


# ---------------------------------------------------------------- thresholds


@pytest.mark.parametrize("seed", range(12))
def test_no_threshold_gives_a_better_f1_than_the_chosen_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, truth = rng.random(25).round(1 if seed % 2 else 3), (rng.random(25) < 0.3).astype(int)
    if truth.sum() < 2:
        truth[:2] = 1
    chosen = chosen_threshold(p, truth)
    best = max(f1_score(truth, p > t) for t in {0.0, *p})
    assert f1_score(truth, p > chosen) == pytest.approx(best)
    moved = shifted(p[:, None], np.array([chosen]))[:, 0]
    assert ((moved > 0.5) == (p > chosen)).all()


def test_thresholds_stay_at_a_half_where_little_is_known() -> None:
    assert chosen_threshold(np.array([0.1, 0.2, 0.9]), np.array([0, 1, 0])) == 0.5  # one clip shows it
    assert chosen_threshold(np.array([0.1, 0.2]), np.array([1, 1])) == 0.5  # all do
    assert chosen_threshold(np.array([0.1, 0.6, 0.9]), np.array([0, 1, 1])) == 0.5  # .5 is as good as any
    assert shifted(np.array([[0.0, 1.0]]), np.array([0.2, 0.9])).tolist() == [[0.0, 1.0]]


def _thresholds(data: FlowSet, synthetic: FlowSet | None = None, fold: int = 0) -> np.ndarray:
    config = replace(RUN, aus=replace(AUS, threshold="inner"), mix=MixConfig(mode="pool", leak="zero-weight"))
    mine = data.for_aus(CODES)
    folds = make_folds(mine)[fold : fold + 1]
    mixture = mixing.mixed(mine, synthetic and synthetic.for_aus(CODES), folds, config.mix, 0)
    found = fit(mixture.pool, mixture.added, members_of([mixture], [0]), config)
    assert isinstance(found, ThresholdedMembers)
    return found.thresholds


def test_nobody_held_out_takes_part_in_a_threshold() -> None:
    data = clips(shown=False)  # nothing to see: thresholds are far from .5
    own = data.subjects == "own/s0"
    other = replace(
        data, au=np.where(own[:, None], 1, data.au).astype(np.int8), x=np.where(own[:, None, None, None], 9, data.x)
    )
    assert np.array_equal(_thresholds(data), _thresholds(other))
    assert not np.array_equal(_thresholds(data, fold=1), _thresholds(other, fold=1))
    assert (_thresholds(data) != 0.5).any()


def test_whoever_is_answered_for_inside_was_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = clips(4, 20, seed=1, generator="mine", database="made", seen=("own/s2",))
    asked: list[tuple[FlowSet, list[Any]]] = []
    plain = fitting.fit

    def recorded(pool: FlowSet, added: np.ndarray, members: Any, *more: Any, **named: Any) -> Any:
        asked.append((pool, list(members)))
        return plain(pool, added, members, *more, **named)

    monkeypatch.setattr(fitting, "fit", recorded)
    _thresholds(real(), seen)
    pool, inner = asked[-1]
    assert len(inner) == 3
    whole, groups = asked[0][1][0].weights, []
    for member in inner:
        assert member.name.startswith("own/s0/inner") or "/inner" in member.name
        out = {str(s) for s in pool.subjects[(whole > 0) & (member.weights == 0)]} - {"made/s0"}
        groups.append({s for s in out if s.startswith("own/")})
        learned = np.flatnonzero(member.weights > 0)
        assert not {str(s) for i in learned for s in pool.subjects_seen[i]} & groups[-1]
    assert sorted(s for group in groups for s in group) == [f"own/s{i}" for i in range(1, 5)]
    assert any((member.weights[pool.synthetic] == 0).all() for member in inner)  # their maker saw s2


# ---------------------------------------------------------------- models


def _probabilities(config: RunConfig, data: FlowSet, test: FlowSet) -> np.ndarray:
    weights = np.ones((1, len(data)))
    member = mixing.Member.of("all", 0, weights[0], data.y)
    return fit(data, np.zeros(len(data), bool), [member], config).probabilities(0, test.inputs())


def test_the_discriminant_is_one_of_two_classes_for_each_au() -> None:
    data, test = clips(6, 14).for_aus(CODES), clips(1, 9, seed=5)
    found = _probabilities(RUN, data, test)
    for a in range(3):
        known = data.targets[:, a] >= 0
        own = replace(data.take(known), y=data.targets[known, a].astype(np.int64), classes=("no", "yes"), aus=())
        two = RunConfig(data=replace(RUN.data, classes=("no", "yes")))
        assert np.allclose(found[:, a], _probabilities(two, own, test)[:, 1], atol=1e-9)


def test_the_machine_is_one_of_libsvms_for_each_au() -> None:
    data, test = clips(6, 14).for_aus(CODES), clips(1, 9, seed=5)
    config = load_config(RunConfig, None, ["task=aus", "aus.codes=[1,4,12]", "model=svm", "data.pool=7"])
    x, z = (fitting.transform_of(config)(s.x).reshape(len(s), -1).astype(float) for s in (data, test))
    distances = ((x[:, None] - x[None]) ** 2).sum(-1)
    found = _probabilities(config, data, test)
    for a in range(3):
        known = data.targets[:, a] >= 0
        machine = SVC(C=1.0, gamma=1 / distances.mean(), class_weight="balanced").fit(x[known], data.targets[known, a])
        wanted = 1 / (1 + np.exp(-2 * machine.decision_function(z)))
        assert np.allclose(found[:, a], wanted, atol=1e-3)


@pytest.mark.parametrize("codes", [CODES, (12,)], ids=["three", "one"])
@pytest.mark.parametrize(
    "model", ["lda", "svm", "hoof", "region_attention", LogisticRegression(max_iter=200), NearestCentroid()]
)
def test_every_kind_of_model_tells_aus(model: Any, codes: tuple[int, ...]) -> None:
    result = loso(real(), None, replace(RUN, aus=AusConfig(codes=codes), train=EASY), model=model)
    assert result.metrics.classes == tuple(f"AU{c}" for c in codes)
    assert result.metrics.uf1 > result.constants["always present"]["uf1"] + 0.2


def test_lengths_of_capsules_tell_aus() -> None:
    result = loso(real(), None, replace(RUN, train=EASY), model="capsule_graph")
    assert result.metrics.uf1 > result.constants["always present"]["uf1"] + 0.2


def test_an_au_that_nobody_in_training_shows_is_never_said() -> None:
    data = clips(3, 10).for_aus(CODES)
    au = data.au.reshape(len(data), -1, 2).copy()
    au[data.subjects != "own/s0", AU_INDEX[12]] = 0
    data = replace(data, au=au.reshape(len(data), -1))
    for model in ("lda", "svm", "bi_woof", GaussianNB()):
        result = loso(data, None, RUN, model=model)
        rows = {fold["name"]: fold["lacking"] for fold in result.folds}
        assert rows["own/s0"] == ["AU12"]
        table = result.predictions
        shown = (column(table, "fold") == "own/s0") & (column(table, "y") // 2 == 2)
        assert (column(table, "predicted")[shown] == 4).all()
    assert "1 of 3 folds learns from no clip that shows AU12" in loso_markdown(result)


@pytest.mark.parametrize("name", [*ZOO, *(n for n in NETWORKS if n not in ZOO)])
def test_every_network_has_a_head_for_aus(name: str) -> None:
    if name in ZOO:
        entry = small(name)
        network, views = entry.build(5), entry.views(entry.build(5).needs)
    else:
        config = load_config(RunConfig, None, [f"model={name}", "task=aus", "aus.codes=[1,2,4,5,6]"])
        network, size = fitting.skeleton(config), fitting.shape_of(config).size
        views = [torch.randn(2, 3, size, size)]
    truth = torch.tensor([[1, 0, -1, 0, 1], [0, 0, 1, -1, 1]])
    out = network.train()(*views)
    loss = multilabel(network, out.scores, truth, torch.ones(5, 2), LossConfig())
    loss.backward()
    assert out.scores.shape == (2, 5)
    assert torch.isfinite(loss)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    p = Head(0, 5).probabilities(network, out.scores)
    both = Head(3, 2)
    assert ((p >= 0) & (p <= 1)).all()
    torch.testing.assert_close(both.probabilities(network, out.scores).sum(-1), torch.ones(2))
    assert both.au_probabilities(network, out.scores).shape == (2, 2)
    assert not torch.allclose(p.sum(-1), torch.ones(2))  # they do not exclude each other


@pytest.mark.parametrize("task", ["aus", "emotion+aus"])
def test_a_stack_learns_what_its_members_learn_alone(task: str) -> None:
    few = replace(RUN, task=task, model="region_attention", train=TrainConfig(steps=8, batch=8))
    one, many = (loso(real(), None, replace(few, train=replace(few.train, stack=n))) for n in (1, 5))
    first, second = (np.concatenate(column(r.predictions, "scores").tolist()) for r in (one, many))
    assert np.allclose(first, second, atol=1e-4)


# ---------------------------------------------------------------- mixing, protocols


def test_synthetic_clips_help_and_their_aus_are_what_helps() -> None:
    few = clips(3, 5, unknown=0)
    config = AblationConfig(
        task="aus", aus=AUS, models=("lda",), ratios=(0, 4), seeds=(0, 1), controls=("shuffled",), resamples=100
    )
    hard = replace(
        few, x=few.x * np.float32(0.4) + np.random.default_rng(7).normal(size=few.x.shape).astype(np.float32)
    )
    found = {(s.arm, s.ratio): s.uf1.value for s in ablate(hard, made(), config).summary}
    assert found["synthetic", 4.0] > found["none", 0.0]
    assert found["synthetic", 4.0] > found["shuffled", 4.0]


def test_the_ablation_speaks_of_aus(tmp_path: Path) -> None:
    config = AblationConfig(
        task="aus", aus=AUS, models=("lda",), ratios=(0, 1), seeds=(0,), controls=("mirror", "duplicates"),
        resamples=100, protocol=ProtocolConfig(kind="lodo"),
    )  # fmt: skip
    both = FlowSet.concat([real(), clips(4, 10, seed=3, database="other")])
    result = ablate(both, made(), config, out=tmp_path / "run")
    again = ablate(both, made(), config, out=tmp_path / "run")
    assert [s.uf1 for s in again.summary] == [s.uf1 for s in result.summary]
    assert {f.fold for f in result.by_fold} == {"own", "other"}
    assert any("always present" in note for note in result.notes)
    for name in ("ablation.html", "report.md"):
        text = (tmp_path / "run" / name).read_text()
        assert "macro F1" in text
        assert "UF1" not in text
    assert "rightly present" in (tmp_path / "run" / "ablation.html").read_text()


def test_clips_that_saw_a_held_out_subject_are_refused() -> None:
    seen = clips(4, 20, seed=2, generator="mine", database="seen", seen=("own/s2",))
    both = FlowSet.concat([seen, made()])
    with pytest.raises(LeakError, match="saw subject own/s2"):
        loso(real(), both, RUN)
    result = loso(real(), both, replace(RUN, mix=MixConfig(leak="zero-weight")))
    assert [fold["synthetic"] for fold in result.folds] == [160, 160, 80, 160, 160]
    assert [fold["blocked"] for fold in result.folds] == [0, 0, 80, 0, 0]


def test_too_few_synthetic_clips_are_counted_together() -> None:
    with pytest.raises(PoolTooSmallError, match=r"needs 500 synthetic clips and may use 80"):
        loso(real(), made(), replace(RUN, mix=MixConfig(count=500)))


@pytest.mark.parametrize(("kind", "folds"), [("loso", 9), ("kfold", 3), ("lodo", 2), ("hde", 2)])
def test_protocols_hold_out_whom_they_say(kind: str, folds: int) -> None:
    both = FlowSet.concat([real(), clips(4, 10, seed=3, database="other")])
    config = replace(RUN, protocol=ProtocolConfig(kind=kind, groups=3), seeds=(0, 1))
    result = loso(both, made(), replace(config, mix=MixConfig(count=30)))
    assert len(result.folds) == folds
    assert set(result.per_database) == {"own", "other"}
    assert len(result.per_seed) == 2
    known = int((both.for_aus(CODES).targets >= 0).sum())
    assert result.metrics.n == 2 * known
    assert result.uf1.low <= result.metrics.uf1 <= result.uf1.high
    _, header, rows = loso_tables(result)[1]
    assert header[:4] == ["AU", "support", "known", "prevalence"]
    assert [int(row[1]) for row in rows] == both.for_aus(CODES).class_counts.tolist()


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    config = replace(RUN, aus=replace(AUS, threshold="inner"))
    first, again = (loso(real(), None, config, out=tmp_path / "run") for _ in range(2))
    assert (again.metrics, again.constants, again.uf1) == (first.metrics, first.constants, first.uf1)
    plain = json.loads((tmp_path / "run" / "result.json").read_text())
    assert plain["config"]["task"] == "aus"
    assert "classes" not in plain["config"]["data"]
    log = (tmp_path / "run" / "megc.txt").read_text()
    assert "\tno AU12\t" in log
    assert "macro F1" in log


# ---------------------------------------------------------------- saved


@pytest.mark.parametrize("model", ["lda", "svm", "hoof", "ststnet"])
def test_a_saved_model_answers_as_it_did(model: str, tmp_path: Path) -> None:
    config = replace(RUN, model=model, aus=replace(AUS, threshold="inner"), train=TrainConfig(steps=5, batch=8))
    own = train(real(), None, config, out=tmp_path / model)
    back = Recognizer.load(tmp_path / model)
    new = clips(2, 6, seed=9, database="new")
    assert np.allclose(own.probabilities(new.inputs()), back.probabilities(new.inputs()), atol=1e-7)
    assert isinstance(back.members, ThresholdedMembers)
    found = predict(back, new)
    p = back.probabilities(new.inputs())
    assert found.table["p_AU12"].to_pylist() == p[:, 2].tolist()
    wanted = ["+".join(f"AU{c}" for c, v in zip(CODES, row, strict=True) if v > 0.5) or "none" for row in p]
    assert found.table["predicted"].to_pylist() == wanted
    assert found.metrics is not None
    assert found.metrics["n"] == (new.for_aus(CODES).targets >= 0).sum()
    assert "AUs: AU1, AU4, AU12" in (tmp_path / model / "README.md").read_text()
    result = loso(clips(3, 10, seed=11, database="elsewhere"), model=tmp_path / model)
    assert result.metrics.classes == ("AU1", "AU4", "AU12")


def test_emotions_and_aus_are_learned_by_one_head(tmp_path: Path) -> None:
    data = clips(4, 18, unknown=0)
    data = replace(data, y=np.where(data.for_aus(CODES).targets[:, 0] == 1, 1, 0), classes=("calm", "moved"))
    config = RunConfig(
        task="emotion+aus", aus=replace(AUS, weight=1.0), model="region_attention", train=EASY,
        data=replace(RUN.data, classes=("calm", "moved")),
    )  # fmt: skip
    own = train(data, None, config, out=tmp_path / "both")
    new = replace(clips(3, 12, seed=4, unknown=0), classes=("calm", "moved"))
    table = predict(Recognizer.load(tmp_path / "both"), new).table
    truth = new.for_aus(CODES).targets
    assert {"p_calm", "p_moved", "p_AU1", "p_AU4", "p_AU12"} <= set(table.column_names)
    for a, code in enumerate(CODES):
        assert f1_score(truth[:, a], np.array(table[f"p_AU{code}"]) > 0.5) > 0.7
    moved = np.array([name == "moved" for name in table["predicted"].to_pylist()])
    assert (moved == (truth[:, 0] == 1)).mean() > 0.85
    assert own.named_aus(new.inputs())[0].keys() == {"AU1", "AU4", "AU12"}
    result = loso(data, None, replace(config, train=TrainConfig(steps=3, batch=8)))
    assert result.metrics.classes == ("calm", "moved")
    with pytest.raises(ConfigError, match=r"task=emotion\+aus is for networks.*lda"):
        loso(data, None, replace(config, model="lda"))


def test_what_a_run_builds_on_has_its_task(tmp_path: Path) -> None:
    net = replace(RUN, model="ststnet", train=TrainConfig(steps=2, batch=8))
    train(clips(2, 8, database="before"), None, net, out=tmp_path / "aus")
    start = replace(net, train=replace(net.train, start=str(tmp_path / "aus")))
    assert loso(real(), None, start).metrics.n
    with pytest.raises(ConfigError, match=r"train\.start: its parameter"):
        loso(real(), None, replace(start, aus=AusConfig(codes=(1, 4))))
    teacher = TrainConfig(steps=2, batch=8, teacher=str(tmp_path / "aus"), loss=LossConfig(distil=1.0))
    assert loso(real(), None, replace(net, train=teacher)).metrics.n
    with pytest.raises(ConfigError, match="was trained with task=aus for AU1, AU4, AU12"):
        loso(real(), None, RunConfig(model="ststnet", train=teacher))


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["task=au"], "task='au' is unknown; choose from emotion, aus, emotion+aus"),
        (["task=aus", "aus.codes=[3]"], "AU 3 is not kept in manifests"),
        (["task=aus", "aus.codes=[]"], "must name at least one AU"),
        (["task=aus", "aus.codes=[4,4]"], "each of them once"),
        (["task=aus", "aus.threshold=best"], "aus.threshold='best' is unknown; choose from fixed, inner"),
        (["task=aus", "aus.threshold=inner", "aus.groups=1"], "aus.groups=1 must be at least 2"),
        (["task=emotion+aus", "model=ststnet", "aus.weight=0"], "aus.weight=0 must be a positive number"),
        (["task=aus", "aus.weight=1"], "aus.weight has no effect"),
        (["task=aus", "aus.groups=4"], "aus.threshold=fixed trains no inner models"),
        (["task=aus", "data.classes=[negative,positive]"], "data.classes has no effect: task=aus reads the AUs"),
        (["task=aus", "data.label=emotion"], "data.label has no effect"),
        (["task=aus", "mix.ratio=1", "mix.balance=class"], "mix.balance has no effect"),
        (["task=aus", "model=ststnet", "train.loss.center=1"], "train.loss.center compares clips of a class"),
        (["task=aus", "model=ststnet", "train.loss.kind=focal", "train.loss.class_weights=inverse"], "has no effect"),
        (["aus.codes=[4]"], "aus.codes has no effect: task=emotion has no AUs"),
        (["task=emotion+aus"], "task=emotion+aus is for networks"),
        (["task=emotion+aus", "model=ststnet", "aus.threshold=inner"], "is scored by its classes"),
    ],
)
def test_mistakes_are_one_line(settings: list[str], says: str, tmp_path: Path) -> None:
    given = ["loso", *settings, "--real", "nowhere", "--synthetic", "nowhere", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_has_no_meaning_for_aus_is_refused() -> None:
    with pytest.raises(ConfigError, match="oracle picks by clips of the right class"):
        loso(real(), None, replace(RUN, model="ststnet"), also_oracle=True)
    with pytest.raises(ConfigError, match="a study draws its corpora by emotion"):
        load_study("study/quick", ["task=aus"])


# ---------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    root = tmp_path_factory.mktemp("aus")
    return [write_corpus(root / name, database=name, subjects=3, clips=4, seed=i) for i, name in enumerate("ab")]


def test_counts_from_manifests(corpora: list[Manifest]) -> None:
    folders = [str(m.root) for m in corpora]
    result = CliRunner().invoke(main, ["aus", *folders, "--codes", "AU2, 4,12", "--json"])
    found = json.loads(result.stdout)
    assert found["header"] == ["database", "AU2", "AU4", "AU12", "Total", "clips"]
    assert found["rows"] == [["a", 4, 4, 4, 12, 12], ["b", 4, 4, 4, 12, 12], ["Total", 8, 8, 8, 24, 24]]
    text = CliRunner().invoke(main, ["aus", folders[0]]).stdout
    assert [line.split() for line in text.splitlines() if line.startswith(" a")] == [
        ["a", "0", "4", "4", "0", "0", "0", "0", "0", "4", "0", "0", "0", "12", "12"]
    ]
    assert recognizer.count_aus(corpora, (2, 4, 12)) == (found["header"], found["rows"], found["notes"])
    for given, says in (
        (["--codes", "x"], "--codes=x is no list of AUs"),
        (["--codes", "99"], "AU 99 is not kept"),
        (["--codes", "12,12"], "each of them once"),
        ([folders[1], folders[0]], "occurs twice in the manifests"),
    ):
        failed = CliRunner().invoke(main, ["aus", folders[0], *given])
        assert (failed.exit_code, says in failed.stderr) == (2, True), failed.stderr


def test_the_recipe_from_the_command_line_to_the_answers(corpora: list[Manifest], tmp_path: Path) -> None:
    given = [word for m in corpora for word in ("--real", str(m.root))]
    few = ["aus.codes=[2,4,12]", "seeds=[0,1]"]
    plan = CliRunner().invoke(main, ["loso", "recognizer/aus", *few, *given, "--out", str(tmp_path / "r"), "--dry-run"])
    assert "'AU2': 8, 'AU4': 8, 'AU12': 8" in plan.stdout
    run = CliRunner().invoke(main, ["loso", "recognizer/aus", *few, *given, "--out", str(tmp_path / "r")])
    assert run.exit_code == 0, run.output
    assert "macro F1, always present" in run.stdout
    assert "support" in (tmp_path / "r" / "report.md").read_text()
    model, out = str(tmp_path / "m"), str(tmp_path / "p")
    assert CliRunner().invoke(main, ["train", "task=aus", few[0], *given, "--out", model]).exit_code == 0
    shown = CliRunner().invoke(main, ["predict", "--model", model, "--manifest", str(corpora[0].root), "--out", out])
    assert shown.exit_code == 0, shown.output
    table = pq.read_table(Path(out) / "predictions.parquet")
    assert table["label"].to_pylist()[:3] == ["AU4", "AU12", "AU2"]
    assert (np.array(table["predicted"].to_pylist()) == np.array(table["label"].to_pylist())).mean() > 0.8


def test_the_default_aus_are_those_of_cd6me_and_all_are_in_manifests() -> None:
    assert AusConfig().codes == (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17)
    assert set(CD6ME) <= set(AU_CODES)
    assert constant_f1(np.array([0]), np.array([0])).tolist() == [0.0]
    assert Shape().size == 28
