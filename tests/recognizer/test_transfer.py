"""Learning from elsewhere: terms against closed forms, stacks against single members, nobody held out is learned."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mesynth
from mesynth.core.errors import ConfigError, LeakError, ManifestError
from mesynth.datasets import rendered
from mesynth.store.manifest import EARLY, Manifest
from recognizer import transfer
from recognizer.config import AblationConfig, RunConfig, config_hash, load_config
from recognizer.data import FlowSet
from recognizer.mixing import MixConfig, apart, mixed, with_unlabelled
from recognizer.models import tgsr
from recognizer.models.handcrafted import BiWoofConfig, HoofConfig, LbpTopConfig, MdmoConfig, features, groups
from recognizer.protocol import ProtocolConfig, make_folds
from recognizer.run import loso
from recognizer.sources import early_notes, flow_notes
from recognizer.trained import train as train_all
from recognizer.training import LossConfig, Stage, TrainConfig, train
from recognizer.transfer import ORDERS, TransferConfig
from tests.bench import bench_transfer
from tests.recognizer.test_networks import task_of
from tests.recognizer.test_protocol import saw
from tests.recognizer.zoo import small

QUICK = ["model=region_attention", "train.steps=4", "train.batch=8"]


def macro(clips: FlowSet, where: np.ndarray) -> FlowSet:
    return replace(clips, macro=where.astype(np.int8))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- terms


def test_coral_against_covariances() -> None:
    x, side = torch.randn(12, 5, generator=rng(0)), torch.arange(12) < 5
    apart_ = torch.cov(x[side].T) - torch.cov(x[~side].T)
    torch.testing.assert_close(transfer.coral(x, side), apart_.square().sum() / (4 * 25))
    assert transfer.coral(x, torch.arange(12) < 1) == 0  # one clip has no covariance
    assert transfer.coral(x, torch.zeros(12, dtype=torch.bool)) == 0


def test_mmd_against_its_definition() -> None:
    x, side = torch.randn(9, 3, generator=rng(1)), torch.arange(9) < 4
    apart_ = torch.cdist(x, x) ** 2
    kernel = torch.stack([torch.exp(-apart_ / (w * apart_.mean())) for w in transfer.WIDTHS]).mean(0)
    s, t = side, ~side
    by_hand = kernel[s][:, s].mean() + kernel[t][:, t].mean() - 2 * kernel[s][:, t].mean()
    torch.testing.assert_close(transfer.mmd(x, side), by_hand, atol=1e-5, rtol=1e-4)
    twice = torch.cat([x, x])
    assert float(transfer.mmd(twice, torch.arange(18) < 9)) == pytest.approx(0, abs=1e-6)
    assert transfer.mmd(x, torch.ones(9, dtype=torch.bool)) == 0


def test_relations_do_not_change_where_shapes_do_not() -> None:
    x = torch.randn(6, 4, generator=rng(2))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng(3)))[0]
    similar, wider = 3 * x @ turn + 1, F.pad(x, (0, 2))
    for other in (similar, wider):
        assert transfer.distances(x, other) < 1e-9
        assert transfer.angles(x, other) < 1e-9
    bent = x * torch.tensor([1.0, 2, 3, 4])
    assert transfer.distances(x, bent) > 1e-3
    assert transfer.angles(x, bent) > 1e-3
    assert transfer.hint(x, 2 * x) < 1e-9  # length says how sure, not what
    torch.testing.assert_close(transfer.hint(x, -x), torch.tensor(4.0))


def test_relations_by_hand() -> None:
    corner, line = torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.tensor([[0.0, 0], [1, 0], [-1, 0]])
    lengths = [torch.tensor([1, 1, 2**0.5]), torch.tensor([1.0, 1, 2])]
    one, other = (v / v.mean() for v in lengths)
    torch.testing.assert_close(transfer.distances(corner, line), 2 * ((one - other) ** 2 / 2).sum() / 9)
    # Right angle 0 against straight -1 at the first clip, cos 45 degrees against 1 at the others, each counted twice.
    huber = [0.5, 0.5 * (1 - 0.5**0.5) ** 2, 0.5 * (1 - 0.5**0.5) ** 2]
    torch.testing.assert_close(transfer.angles(corner, line), torch.tensor(2 * sum(huber) / 27))


@pytest.mark.parametrize("term", [transfer.distances, transfer.angles, transfer.hint])
def test_clips_drawn_twice_have_gradients(term: object) -> None:
    x = torch.randn(4, 3, generator=rng(4))[[0, 0, 1, 2]].requires_grad_()
    assert callable(term)
    term(x, torch.randn(4, 3, generator=rng(5))[[0, 0, 1, 2]]).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_pseudo_labels_count_where_one_is_sure() -> None:
    weak, strong = torch.tensor([[9.0, 0, 0], [0.1, 0, 0]]), torch.randn(2, 3, generator=rng(6))
    weak.requires_grad_()
    strong.requires_grad_()
    loss = transfer.pseudo(weak, strong, 0.95)
    torch.testing.assert_close(loss, F.cross_entropy(strong[:1], torch.tensor([0])) / 2)
    loss.backward()
    assert weak.grad is None  # a label is no opinion to be changed
    assert strong.grad is not None
    assert (strong.grad[1] == 0).all()
    assert transfer.consistency(weak, weak) == 0
    torch.testing.assert_close(
        transfer.consistency(torch.tensor([[50.0, 0]]), torch.tensor([[0.0, 50]])), torch.tensor(2.0)
    )


def test_pseudo_labels_of_aus_are_of_each_by_itself() -> None:
    """Sure of present, sure of absent, sure of neither; no AU takes from another."""
    weak, strong = torch.tensor([[4.0, -4.0, 0.5]], requires_grad=True), torch.tensor([[0.3, 0.7, 2.0]])
    loss = transfer.pseudo(weak, strong, 0.95, multi=True)
    by_hand = (F.softplus(torch.tensor(-0.3)) + F.softplus(torch.tensor(0.7))) / 3
    torch.testing.assert_close(loss, by_hand)
    assert not loss.requires_grad  # a label is no opinion to be changed
    with torch.no_grad():
        assert transfer.consistency(weak, weak, multi=True) == 0
        both = torch.tensor([[50.0, 50.0]])
        torch.testing.assert_close(transfer.consistency(both, -both, multi=True), torch.tensor(2.0))
        assert transfer.consistency(both, -both) == 0  # as classes, which is what AUs are not


@pytest.mark.parametrize("task", ["aus", "emotion+aus"])
@pytest.mark.parametrize("term", ["pseudo", "consistency", "mmd"])
def test_clips_without_labels_teach_aus(task: str, term: str, sets: dict[str, FlowSet]) -> None:
    settings = [*QUICK, f"task={task}", "aus.codes=[2,4,12]", "seeds=[0]", "protocol={kind: kfold, groups: 2}"]
    plain = load_config(RunConfig, None, settings, synthetic=False)
    more = ["transfer.transductive=true", f"train.loss.{term}=5"]
    more += ["train.loss.threshold=0.5"] if term == "pseudo" else []
    found = [loso(sets["real"], None, config).predictions for config in (
        plain, load_config(RunConfig, None, [*settings, *more], synthetic=False)
    )]  # fmt: skip
    assert found[0].column("scores").to_pylist() != found[1].column("scores").to_pylist()


def test_contrast_is_infonce_and_knows_clips_drawn_twice() -> None:
    a, b = (torch.randn(5, 4, generator=rng(s)) for s in (7, 8))
    unit = F.normalize(torch.cat([a, b]), dim=1)
    logits = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf)
    by_hand = F.cross_entropy(logits, torch.arange(10).roll(5))
    torch.testing.assert_close(transfer.contrast(a, b, torch.arange(5)), by_hand)
    # A clip that stands twice in the batch: its other copy is left out of the sum, its own second view is not.
    twice = transfer.contrast(a, b, torch.tensor([0, 0, 2, 3, 4]))
    logits[0, [1, 6]] = logits[1, [0, 5]] = logits[5, [1, 6]] = logits[6, [0, 5]] = -torch.inf
    torch.testing.assert_close(twice, F.cross_entropy(logits, torch.arange(10).roll(5)))
    assert transfer.contrast(a, a, torch.arange(5)) < by_hand


def test_thirds_of_frames_are_shuffled_whole() -> None:
    frames = torch.arange(10.0)[None, None, :, None, None].expand(1, len(ORDERS), 10, 2, 2)
    shown = transfer.shuffled(frames, torch.arange(len(ORDERS))[None])[0, :, :, 0, 0]
    assert shown[0].tolist() == list(range(10))
    assert shown[-1].tolist() == [7, 8, 9, 3, 4, 5, 6, 0, 1, 2]
    assert len({tuple(one.tolist()) for one in shown}) == 6
    assert (shown.sort(1).values == torch.arange(10.0)).all()


def test_a_quarter_is_hidden() -> None:
    x = torch.ones(1, 2, 3, 8, 8)
    out = transfer.hidden(x, torch.tensor([[0.0, 0.5]]), torch.tensor([[0.5, 0.0]]))
    assert (out[0, 0, :, :4, 4:] == 0).all()
    assert (out[0, 1, :, 4:, :4] == 0).all()
    assert out.mean() == 0.75


def test_early_parts_are_told(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    def ended(name: str, n: int, expression: str) -> Manifest:
        said = (f"{EARLY}: ends at frame 3 of the 10 from onset to apex",)
        rows = [
            replace(row, expression=expression, warnings=(*row.warnings, *(said if i < n else ())))
            for i, row in enumerate(corpora["real"])
        ]
        return Manifest.from_rows(rows, tmp_path / name)

    source, tested = ended("source", 48, "macro"), ended("tested", 5, "micro")
    assert early_notes([corpora["real"]], [corpora["synthetic"]]) == []
    assert (
        early_notes([corpora["real"], source], [source])
        == ["48 of the 48 clips of source end before their apex (--early)"] * 2
    )
    (note,) = early_notes([tested])
    assert note == (
        "5 of the 48 clips of tested end before their apex (--early), and 5 of them are tested: a figure is one of "
        "early parts"
    )
    assert note in flow_notes([tested], None)


# ---------------------------------------------------------------- stacks

TERMS = [
    LossConfig(coral=1.0, mmd=1.0, domain=0.5), LossConfig(hint=1.0, distances=1.0, angles=2.0),
    LossConfig(pseudo=1.0, threshold=0.4, consistency=1.0),
]  # fmt: skip


@pytest.mark.parametrize("pretext", ["", "contrast"])
@pytest.mark.parametrize("loss", TERMS, ids=["sides", "taught", "unlabelled"])
def test_what_is_learned_in_a_stack_is_what_is_learned_alone(
    loss: LossConfig, pretext: str, sets: dict[str, FlowSet]
) -> None:
    task = task_of("region_attention", sets["real"])
    stages = [task.stages[0], replace(task.stages[1], taught=loss.hint > 0)]
    if pretext:
        stages.insert(0, Stage(name="pretext", weights=task.stages[0].weights, steps=3, pretext=pretext))
    free = None if loss.hint else np.ones_like(stages[0].weights)
    task = replace(task, stages=stages, free=free)
    config = TrainConfig(batch=8, loss=loss)
    alone, together = (train(task, replace(config, stack=stack)) for stack in (1, 5))
    plain = train(replace(task, stages=task.stages[-2:]), TrainConfig(batch=8))
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=5e-4, rtol=1e-3)
    assert any((plain[name] - alone[name]).abs().max() > 1e-3 for name in alone)


def test_orders_of_frames_are_learned_in_stacks() -> None:
    generator = np.random.default_rng(0)
    entry = small("elrcn")
    config, shape = entry.config, entry.shape
    n, members = 8, 3
    base = task_of("region_attention", FlowSet.of(generator.normal(size=(n, 3, 28, 28)), np.arange(n) % 3, ["a"] * n))
    weights = np.ones((members, n))
    frames = generator.integers(0, 255, (n, *(shape.frames, shape.frame_size, shape.frame_size))).astype(np.uint8)
    inputs = dict(base.inputs) | {"frames": frames}
    names = ["f0", "f1", "f2"]
    stages = [
        Stage(name="pretext", weights=weights, steps=2, pretext="order"), Stage(name="train", weights=weights, steps=2)
    ]  # fmt: skip
    task = replace(
        base, network="elrcn", config=config, shape=shape, inputs=inputs, stages=stages, names=names, seeds=[0, 0, 0],
        labels=np.tile(np.arange(n) % 3, (members, 1)), affine=base.affine[:members], scale=base.scale[:members],
        added=np.zeros(n, np.bool_),
    )  # fmt: skip
    alone, together = (train(task, TrainConfig(batch=4, stack=stack)) for stack in (1, 3))
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=2e-3, rtol=1e-2)
    with pytest.raises(ConfigError, match=r"transfer\.pretext=order shuffles frames, and model region_attention"):
        train(replace(base, stages=[replace(stages[0], weights=np.ones((6, n)))]), TrainConfig(batch=4))


# ---------------------------------------------------------------- who is learned from


@pytest.mark.parametrize("kind", ["loso", "kfold", "lovo"])
def test_macro_expressions_are_learned_from_and_never_tested_on(kind: str, sets: dict[str, FlowSet]) -> None:
    where = np.arange(48) % 4 == 0
    real = macro(sets["real"], where)
    folds = make_folds(real, ProtocolConfig(kind=kind))
    tested = np.concatenate([fold.test_index for fold in folds])
    assert sorted(tested) == np.flatnonzero(~where).tolist()
    assert all(np.isin(np.flatnonzero(where), f.train_index).any() for f in folds)
    for fold in folds:
        if fold.subject_independent:
            assert not np.isin(real.subjects[fold.train_index], list(fold.held_out)).any()
    with pytest.raises(ManifestError, match="all 48 clips to test on are macro-expressions"):
        make_folds(macro(real, np.ones(48)))


@pytest.mark.parametrize("kind", ["lodo", "hde"])
def test_macro_expressions_of_databases(kind: str, sets: dict[str, FlowSet]) -> None:
    a = sets["real"]
    b = replace(a, databases=np.full(48, "B"), subjects=np.char.replace(a.subjects, "DB", "B"),
                clip_ids=np.char.replace(a.clip_ids, "DB", "B"))  # fmt: skip
    both = FlowSet.concat([macro(a, np.arange(48) < 6), macro(b, np.ones(48))])
    folds = make_folds(both, ProtocolConfig(kind=kind))
    assert sorted(np.concatenate([f.test_index for f in folds])) == list(range(6, 48))


def test_whoever_has_macro_expressions_alone_is_no_fold(sets: dict[str, FlowSet]) -> None:
    real = sets["real"]
    folds = make_folds(macro(real, real.subjects == "DB/03"))
    assert "DB/03" not in [fold.name for fold in folds]
    assert len(folds) == 7
    assert all(np.isin(np.flatnonzero(real.subjects == "DB/03"), fold.train_index).all() for fold in folds)


def test_macro_expressions_become_the_clips_that_are_mixed_in(sets: dict[str, FlowSet]) -> None:
    real = macro(sets["real"], np.arange(48) % 6 >= 3)
    own, more = apart(real, None, TransferConfig(macro=True))
    assert more is not None
    assert (len(own), len(more)) == (24, 24)
    assert (own.macro == 0).all()
    assert len(apart(real, sets["synthetic"], TransferConfig(macro=True))[1] or ()) == 24 + 240
    assert apart(real, None, TransferConfig()) == (real, None)
    folds = make_folds(own)
    with pytest.raises(LeakError, match=r"mix\.leak=zero-weight"):
        mixed(own, more, folds, MixConfig(), 0)
    mixture = mixed(own, more, folds, MixConfig(leak="zero-weight"), 0)
    assert (mixture.n_added == 21).all()
    assert (mixture.blocked == 3).all()  # those of whom a fold holds out
    for f, fold in enumerate(folds):
        assert not np.isin(mixture.pool.subjects[mixture.weights[f] > 0], list(fold.held_out)).any()
    for wrong, match in ((np.zeros(48), "none of the 48"), (np.ones(48), "all of the 48")):
        with pytest.raises(ManifestError, match=match):
            apart(macro(real, wrong), None, TransferConfig(macro=True))


@pytest.mark.parametrize("policy", ["raise", "zero-weight"])
def test_clips_without_labels_keep_the_rule(policy: str, sets: dict[str, FlowSet]) -> None:
    real, folds = sets["real"], make_folds(sets["real"])
    config, more = MixConfig(leak=policy), saw(sets["synthetic"], 7, "DB/03")
    mixture = mixed(real, None, folds, config, 0)
    if policy == "raise":
        with pytest.raises(LeakError, match="saw subject DB/03"):
            with_unlabelled(mixture, more, config, TransferConfig())
        return
    found = with_unlabelled(mixture, more, config, TransferConfig())
    assert found.free is not None
    assert found.free.sum(1).tolist() == [239 if fold.name == "DB/03" else 240 for fold in folds]
    assert found.blocked.sum() == 1
    assert (found.pool.y[48:] == -1).all()  # no label of theirs is anywhere
    assert (found.pool.au[48:] == -1).all()
    assert not found.weights[:, 48:].any()
    assert not found.free[:, :48].any()  # not transductive
    assert set(found.subjects_seen(0)) > set(mixture.subjects_seen(0))


def test_test_clips_are_learned_from_only_where_the_recipe_says_so(sets: dict[str, FlowSet]) -> None:
    real, folds = sets["real"], make_folds(sets["real"])
    plain = mixed(real, None, folds, MixConfig(), 0)
    assert with_unlabelled(plain, None, MixConfig(), TransferConfig()) is plain
    found = with_unlabelled(plain, None, MixConfig(), TransferConfig(transductive=True))
    assert found.free is not None
    for f, fold in enumerate(folds):
        assert np.flatnonzero(found.free[f]).tolist() == fold.test_index.tolist()
        assert fold.held_out <= set(found.subjects_seen(f))  # weights saved from here say so
        assert not found.weights[f, fold.test_index].any()


@pytest.mark.parametrize("terms", [["train.loss.pseudo=1", "train.loss.threshold=0.4"], ["train.loss.coral=1"]])
def test_labels_of_test_clips_cannot_matter_to_whoever_learns_from_them_without(
    terms: list[str], sets: dict[str, FlowSet]
) -> None:
    config = load_config(RunConfig, None, [*QUICK, "transfer.transductive=true", *terms], synthetic=False)
    real = sets["real"]
    given = []
    for clips in (real, replace(real, y=np.where(real.subjects == "DB/02", (real.y + 1) % 3, real.y))):
        result = loso(clips, None, config)
        mine = [row for row in result.predictions.to_pylist() if row["fold"] == "DB/02"]
        given.append([row["predicted"] for row in mine])
    assert given[0] == given[1]
    assert any("transductive" in note for note in result.notes)
    assert {fold["unlabelled"] for fold in result.folds} == {6}


# ---------------------------------------------------------------- recipes and verbs


def test_everything_runs_from_a_recipe(corpora: dict[str, Manifest], tmp_path: Path) -> None:
    settings = [
        *QUICK, f"transfer.unlabelled=[{corpora['synthetic'].root}]", "transfer.pretext=contrast",
        "transfer.pretext_steps=2", "train.loss.mmd=1", "protocol.kind=kfold", "protocol.groups=2",
    ]  # fmt: skip
    config = load_config(RunConfig, None, settings, synthetic=False)
    result = loso(corpora["real"], None, config, out=tmp_path / "run")
    assert result.metrics.n == 48
    assert {fold["unlabelled"] for fold in result.folds} == {240}
    made = train_all(corpora["real"], None, config, out=tmp_path / "model")
    assert any(name.startswith("made/") for name in made.subjects_seen)  # whom it saw without labels it saw
    with pytest.raises(ConfigError, match=r"transfer\.transductive=true is about the test clips"):
        train_all(
            corpora["real"], None, replace(config, transfer=TransferConfig(transductive=True)), out=tmp_path / "t"
        )
    assert not (tmp_path / "t").exists()


def test_taught_by_macro_expressions(sets: dict[str, FlowSet]) -> None:
    settings = [*QUICK, "transfer.macro=true", "mix.mode=pretrain", "mix.leak=zero-weight", "mix.pretrain_steps=4"]
    real = macro(sets["real"], np.arange(48) % 2 == 0)
    plain = loso(real, None, load_config(RunConfig, None, settings, synthetic=False))
    taught = loso(
        real, None, load_config(RunConfig, None, [*settings, "train.loss.distances=1", "train.loss.angles=2"],
                                synthetic=False),
    )  # fmt: skip
    assert plain.metrics.n == taught.metrics.n == 24
    assert {fold["synthetic"] for fold in plain.folds} == {21}
    assert {fold["blocked"] for fold in plain.folds} == {3}
    a, b = (np.array(r.predictions.column("scores").to_pylist()) for r in (plain, taught))
    assert np.abs(a - b).max() > 1e-6


@pytest.mark.parametrize(
    ("settings", "synthetic", "match"),
    [
        (["train.loss.coral=1"], True, r"train\.loss\.coral has no effect: .*mix\.mode=pool, or transfer\.unlabelled"),
        (["train.loss.domain=1"], False, r"train\.loss\.domain has no effect"),
        (["train.loss.hint=1"], False, r"train\.loss\.hint has no effect: no network is pretrained"),
        (["train.loss.angles=1", "mix.mode=pool"], True, r"train\.loss\.angles has no effect"),
        (["train.loss.pseudo=1"], True, r"train\.loss\.pseudo has no effect: there are no clips without labels"),
        (["transfer.transductive=true"], True, r"transfer\.transductive has no effect: .*learns nothing from clips"),
        (
            ["transfer.pretext=jigsaw"],
            True,
            r"transfer\.pretext='jigsaw' is unknown; choose from none, contrast, order",
        ),
        (["transfer.pretext_steps=0"], True, r"transfer\.pretext_steps=0 must be at least 1"),
        (["train.loss.threshold=0", "train.loss.pseudo=1"], True, r"train\.loss\.threshold=0 is outside"),
        (["train.loss.mmd=-1"], True, r"train\.loss\.mmd=-1 must be 0 or"),
        (["model=lda", "transfer.pretext=contrast"], True, r"transfer\.pretext has no effect: model lda"),
        (["model=tgsr"], True, r"has none; set transfer\.transductive=true"),
    ],
)
def test_mistakes_are_one_line(settings: list[str], synthetic: bool, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_config(RunConfig, None, [*QUICK, *settings] if settings[0][:6] != "model=" else settings,
                    synthetic=synthetic)  # fmt: skip


def test_leaks_of_clips_without_labels_are_a_setting() -> None:
    settings = [*QUICK, "transfer.unlabelled=[free]", "train.loss.mmd=1", "mix.leak=zero-weight"]
    assert load_config(RunConfig, None, settings, synthetic=False).mix.leak == "zero-weight"
    with pytest.raises(ConfigError, match=r"mix\.ratio has no effect: there are no synthetic clips"):
        load_config(RunConfig, None, [*settings, "mix.ratio=2"], synthetic=False)


def test_an_ablation_takes_none_of_it() -> None:
    with pytest.raises(ConfigError, match=r"transfer\.macro has no effect: an ablation"):
        load_config(AblationConfig, None, ["transfer.macro=true"])


def test_runs_of_before_are_the_same_runs() -> None:
    assert "transfer" not in str(config_hash(RunConfig(), synthetic=True))
    assert config_hash(RunConfig(), synthetic=True) != config_hash(
        RunConfig(transfer=TransferConfig(macro=True)), synthetic=True
    )


# ---------------------------------------------------------------- transfer group sparse regression


def problem(n: int, width: int, seed: int) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(seed)
    x, group = draw.normal(size=(n, width)), np.arange(width) // 4
    y = x[:, :4] @ draw.normal(size=(4, 3)) + 0.3 * draw.normal(size=(n, 3))
    return x, y, draw.normal(size=width), group


@pytest.mark.parametrize("sparsity", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("gap", [0.0, 5.0])
@pytest.mark.parametrize(("n", "width"), [(30, 16), (12, 40)])
def test_tgsr_meets_the_conditions_of_optimality(n: int, width: int, gap: float, sparsity: float) -> None:
    x, y, apart_, group = problem(n, width, 0)
    config = tgsr.TgsrConfig(gap=gap, sparsity=sparsity, steps=50_000)
    w = tgsr.solve(x, y, apart_, group, config)
    strength = sparsity * tgsr.most_sparsity(x, y, group)
    slope = x.T @ (x @ w - y) + gap * np.outer(apart_, apart_ @ w)
    chosen = 0
    for g in np.unique(group):
        own, length = w[group == g], np.linalg.norm(w[group == g])
        if length > 0:
            chosen += 1
            np.testing.assert_allclose(slope[group == g], -strength * own / length, atol=1e-5 * strength)
        else:
            assert np.linalg.norm(slope[group == g]) <= strength * (1 + 1e-6)
    assert 0 < chosen <= group.max() + 1
    if sparsity == 0.8:
        assert chosen < group.max() + 1


def test_tgsr_leaves_nothing_from_its_greatest_sparsity_on() -> None:
    x, y, apart_, group = problem(30, 16, 1)
    almost = tgsr.solve(x, y, apart_, group, tgsr.TgsrConfig(sparsity=0.999, gap=0.0))
    assert len(np.unique(group[np.abs(almost).sum(1) > 0])) == 1
    nothing = tgsr.solve(x, np.zeros_like(y), apart_, group, tgsr.TgsrConfig(gap=1.0))
    assert (nothing == 0).all()


def test_tgsr_brings_the_answers_of_both_sides_together() -> None:
    x, y, apart_, group = problem(30, 16, 2)
    moved = [np.linalg.norm(apart_ @ tgsr.solve(x, y, apart_, group, tgsr.TgsrConfig(gap=g))) for g in (0, 1, 100)]
    assert moved[0] > moved[1] > moved[2]


def shifted(seed: int, shift: float, per: int = 90) -> dict[str, np.ndarray]:
    """Three databases of two classes that a weak feature tells apart alike in all; a strong one does in each database,
    too, but lies ``shift`` higher from one to the next, so that what learned it answers one class for the next."""
    draw = np.random.default_rng(seed)
    y, database = np.tile([0, 1], 3 * per // 2), np.repeat([0, 1, 2], per)
    sign = 2.0 * y - 1
    weak, strong = sign + 1.2 * draw.normal(size=3 * per), sign + 0.5 * draw.normal(size=3 * per) + shift * database
    x = np.stack([weak, weak + 0.1 * draw.normal(size=3 * per), strong, strong], 1)
    return {"x": x, "y": y, "databases": database, "subjects": np.arange(3 * per) // 6}


@pytest.mark.parametrize("aus", [False, True])
def test_tgsr_takes_a_gap_where_it_carries_and_none_elsewhere(aus: bool) -> None:
    config, group, gains = tgsr.TgsrConfig(sparsity=0.01), np.array([0, 0, 1, 1]), []
    for seed in range(3):
        for shift, taken in ((3.0, True), (0.0, False)):
            data = shifted(seed, shift)
            x, y, source = data["x"], data["y"], data["databases"] < 2
            labels = np.where(source, y, -1)  # the third is the target, and its labels are nobody's business
            asked = [(labels, source.astype(float))] * (2 if aus else 1)
            added, target = np.zeros(len(x), bool), (~source).astype(float)
            gap = tgsr.chosen_gap(x, asked, added, data["databases"], data["subjects"], 2, config, group)
            assert (gap > 0) == taken
            right = []
            for value in (gap, 0.0):
                model = tgsr.fit(x, *asked[0], target, 2, replace(config, gap=value), group)
                right.append(((x @ model.weight.T + model.bias).argmax(1) == y)[~source].mean())
            if taken:
                gains.append(right[0] - right[1])
    assert np.mean(gains) > 0.05


def test_tgsr_chooses_by_people_of_one_database_and_nothing_by_one_person() -> None:
    data = shifted(0, 3.0)
    two, group = data["databases"] < 2, np.array([0, 0, 1, 1])
    asked = [(data["y"], two.astype(float))]
    none, one = np.zeros(len(two), bool), np.zeros(len(two), int)
    ask = partial(tgsr.chosen_gap, data["x"], n_classes=2, config=tgsr.TgsrConfig(sparsity=0.01), group=group)
    # Five groups drawn from both halves are no databases: nothing has to be carried.
    mixed_people = np.random.default_rng(0).permutation(len(two)) % 20
    assert ask(asked, added=none, databases=one, subjects=mixed_people) == 0
    assert ask(asked, added=none, databases=one, subjects=one) == 0
    # Added clips are learned from and choose nothing.
    assert ask(asked, added=two & (data["databases"] == 1), databases=data["databases"], subjects=one) == 0


def test_tgsr_of_aus_says_what_is_present(sets: dict[str, FlowSet]) -> None:
    both = two_databases(sets["real"])
    settings = ["model=tgsr", "transfer.transductive=true", "protocol.kind=lodo", "bi_woof.blocks=4", "task=aus"]
    settings += ["aus.codes=[2,4,12]", "tgsr.gap=0"]
    result = loso(both, None, load_config(RunConfig, None, settings, synthetic=False))
    assert result.uf1.value > 0.6  # each AU is one class's, and found by its motion
    again = loso(
        both, None, load_config(RunConfig, None, [*settings, "aus.threshold=inner", "aus.groups=2"], synthetic=False)
    )
    assert again.uf1.value > 0.6


@pytest.mark.parametrize("config", [BiWoofConfig(), HoofConfig(), MdmoConfig(), LbpTopConfig(blocks=3)])
def test_groups_are_places_in_the_face(config: object, sets: dict[str, FlowSet]) -> None:
    """Motion in a corner of the picture changes the groups there, and no other one's histogram."""
    if isinstance(config, LbpTopConfig):
        clip = np.zeros((1, 10, 32, 32), np.uint8)
        other = clip.copy()
        other[:, 4:, 3:6, 3:6] = 200
        a, b = (features(config, {"frames": v})[0] for v in (clip, other))
    else:
        x = sets["real"].x[:1]
        other = x.copy()
        other[..., :3, :3] = other[..., :3, :3][:, :, ::-1] + 1 if not isinstance(config, MdmoConfig) else 0
        if isinstance(config, MdmoConfig):
            other[..., 24:, :] += 5 * np.sign(other[..., 24:, :])  # the chin
        a, b = (features(config, {"flow": v})[0] for v in (x, other))  # type: ignore[arg-type]
    group = groups(config, len(a))  # type: ignore[arg-type]
    count = 36 if isinstance(config, MdmoConfig) else config.blocks**2  # type: ignore[attr-defined]
    assert sorted(set(group.tolist())) == list(range(count))
    assert len(set(np.bincount(group).tolist())) == 1
    if isinstance(config, (HoofConfig, LbpTopConfig)):
        changed = set(group[~np.isclose(a, b)].tolist())
        assert changed == {0}
    else:  # a vector of length 1, or shares of the largest: what changes in one place scales all others
        assert not np.allclose(a, b)


def two_databases(a: FlowSet) -> FlowSet:
    """The same clips twice, the second time half as strong and another database's."""
    b = replace(a, databases=np.full(48, "B"), subjects=np.char.replace(a.subjects, "DB", "B"),
                clip_ids=np.char.replace(a.clip_ids, "DB", "B"), x=a.x * np.float32(0.5),
                subjects_seen=tuple((str(s).replace("DB", "B"),) for s in a.subjects))  # fmt: skip
    return FlowSet.concat([a, b])


def test_tgsr_runs_across_databases(sets: dict[str, FlowSet]) -> None:
    both = two_databases(sets["real"])
    settings = ["model=tgsr", "transfer.transductive=true", "protocol.kind=lodo", "bi_woof.blocks=4"]
    result = loso(both, None, load_config(RunConfig, None, settings, synthetic=False))
    assert result.metrics.n == 96
    assert result.metrics.uf1 > 0.5
    assert {fold["unlabelled"] for fold in result.folds} == {48}
    assert [note for note in result.notes if note.startswith("tgsr.gap, chosen by the training subjects: ")]
    fixed = loso(both, None, load_config(RunConfig, None, [*settings, "tgsr.gap=1"], synthetic=False))
    assert not [note for note in fixed.notes if "gap" in note]
    with pytest.raises(ConfigError, match=r"set transfer\.transductive=true"):
        loso(both, None, RunConfig(model="tgsr"))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"feature": "gabor"}, r"tgsr\.feature='gabor' is unknown"), ({"gap": -1}, r"tgsr\.gap=-1 .*or null"),
        ({"gap": float("nan")}, r"tgsr\.gap=nan"), ({"gap": float("inf")}, r"tgsr\.gap=inf"),
        ({"sparsity": 1}, r"tgsr\.sparsity=1 is outside"), ({"steps": 0}, r"tgsr\.steps=0"),
    ],
)  # fmt: skip
def test_tgsr_mistakes(values: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        tgsr.TgsrConfig(**values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- gaps of the bench


def test_gaps_are_made_of_what_their_names_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def render(_: Path, *, size: int, fps: float, **__: object) -> None:
        frames = rendered._subject(1, size).render(np.zeros((3, 25, 2), np.float32), noise_seed=0)
        seen.append((size, fps, rendered._JPEG_QUALITY, frames))

    monkeypatch.setattr(mesynth, "render", render)
    monkeypatch.setattr(mesynth, "prepare", lambda *_, **__: None)
    for name in ("none", "h264", "h264+size", "jpeg+rate"):
        bench_transfer._rendered(tmp_path, f"far-{name}", bench_transfer.gap_of(name), 2, 9)
    plain, coded, small_, jpeg = seen
    assert (plain[:3], coded[:3]) == ((96, 60.0, 95), (96, 60.0, 95))
    assert (small_[:3], jpeg[:3]) == ((64, 60.0, 95), (96, 25.0, 15))
    assert np.array_equal(plain[3], jpeg[3])
    error = np.abs(plain[3].astype(float) - coded[3])
    assert 0.5 < error.mean() < 12
    with pytest.raises(ValueError, match="'mpeg' is unknown; choose from none, size, rate, jpeg, h264"):
        bench_transfer.gap_of("size+mpeg")


def test_frames_through_h264_stay_in_their_order_and_lose_with_the_rate_factor() -> None:
    """A square that goes a pixel further in each frame, over a texture."""
    texture = np.random.default_rng(0).integers(60, 120, (64, 64, 3), dtype=np.uint8)
    frames = np.repeat(texture[None], 20, 0)
    for t, frame in enumerate(frames):
        frame[20:40, 10 + 2 * t : 20 + 2 * t] = 230
    errors = []
    for crf in (12, 33, 45):
        out = bench_transfer.through_h264(frames, crf)
        assert (out.shape, out.dtype) == (frames.shape, np.uint8)
        apart_ = np.abs(out[:, None].astype(int) - frames[None]).mean((2, 3, 4))
        assert apart_.argmin(1).tolist() == list(range(20))
        errors.append(apart_.diagonal().mean())
    assert 0 < errors[0] < errors[1] < errors[2]
