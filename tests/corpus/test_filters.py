"""Every clip is kept or rejected with a reason; faults that are put in are found, sound clips are not."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from mesynth.cli import main
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.corpus.filters import Checks, Limits, artefact, filter_corpus, measure_corpus, parse_keep, spread
from mesynth.corpus.flow_corpus import generate_flow
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.verify import verify
from mesynth.datasets.rendered import render_faces
from mesynth.metrics.base import ClipData
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import read_flow, read_frames, read_landmarks
from mesynth.store.stage import Produced, run_stage
from tests.builders import tree_bytes

CONFIG = PlanConfig(au=("12=C", "4=C", "2=C,1=B"), count=3, fps=25, duration=(0.2, 0.2), size=128)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("filters")
    cv2.imwrite(str(root / "a.png"), data.astronaut()[..., ::-1])
    return generate(root / "a.png", CONFIG, root / "corpus", preview=Preview(count=0), workers=1)


class Spoil:
    """Copies clips: 0 as it is, 0 again, 1 with a ghost at the apex, 2 that says another AU, 1 as another person."""

    def __init__(self, source: Manifest) -> None:
        self.source = source

    def __call__(self, job: tuple[str, int]) -> Produced:
        how, index = job
        row = self.source.row(index)
        frames = read_frames(self.source.root, row)
        apex = row.apex_index
        if how == "ghost":
            frames[apex, 40:90, 30:100] = frames[apex, 40:90, 30:100][::-1]
        if how == "stranger":
            frames[apex] = cv2.resize(data.lfw_subset()[3], (128, 128))[..., None] * 255
        if how == "liar":
            wrong = facs.parse_request("15=D")
            row = replace(row, au_text="15=D", **Row.au_columns(wrong))
        row = replace(row, clip_id=f"{how}{index}", frames=None, flow=None)
        return Produced(
            row, frames=frames, flow=read_flow(self.source.root, self.source.row(index)),
            landmarks=read_landmarks(self.source.root, self.source.row(index)),
        )  # fmt: skip


@pytest.fixture(scope="module")
def spoilt(sound: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    jobs = [("fine", 0), ("copy", 0), ("ghost", 1), ("liar", 2), ("stranger", 1)]
    return run_stage(tmp_path_factory.mktemp("spoilt") / "corpus", jobs, Spoil(sound), config={})


def _cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_sound_clips_are_all_kept(sound: Manifest, tmp_path: Path) -> None:
    kept, rejected = filter_corpus(sound.root, tmp_path / "kept", Limits(identity=None))
    assert rejected == []
    assert len(kept) == 3
    np.testing.assert_array_equal(read_frames(kept.root, kept.row(1)), read_frames(sound.root, sound.row(1)))
    assert verify(kept.root).clean


def test_faults_are_found_and_named(spoilt: Manifest, tmp_path: Path) -> None:
    kept, rejected = filter_corpus(spoilt.root, tmp_path / "kept", Limits(identity=None))
    assert {(r.clip_id, r.check) for r in rejected} >= {
        ("copy0", "duplicate"), ("ghost1", "artefact"), ("liar2", "control"), ("stranger1", "artefact"),
    }  # fmt: skip
    assert next(r.of for r in rejected if r.check == "duplicate") == "fine0"
    assert kept.column("clip_id").tolist() == ["fine0"]
    with open(tmp_path / "kept" / "rejected.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {*kept.column("clip_id"), *(line["clip_id"] for line in lines)} == set(spoilt.column("clip_id"))
    for line in lines:
        passed = float(line["value"]) <= float(line["limit"])
        assert passed == (line["check"] == "duplicate")


def test_an_artefact_is_what_the_flow_does_not_explain(sound: Manifest, spoilt: Manifest) -> None:
    for row in sound:
        assert artefact(ClipData("synthetic", row, sound.root)) < 0.005
    assert artefact(ClipData("synthetic", spoilt.row(2), spoilt.root)) > 0.05


def test_identity(sound: Manifest, spoilt: Manifest) -> None:
    pytest.importorskip("dlib")
    checks = Checks(Limits())
    assert checks.identity(ClipData("synthetic", sound.row(0), sound.root)) < 0.3
    assert checks.identity(ClipData("synthetic", spoilt.row(4), spoilt.root)) > 0.4


def test_flow_corpora_are_checked_for_duplicates(tmp_path: Path) -> None:
    made = generate_flow(PlanConfig(emotions=("surprise", "fear"), count=40), tmp_path / "flow")
    kept, rejected = filter_corpus(made.root, tmp_path / "kept", parse_keep("duplicate"))
    assert len(kept) == 40
    assert rejected == []
    strict, dropped = filter_corpus(made.root, tmp_path / "strict", parse_keep("duplicate=1.2"))
    assert 0 < len(strict) < 40
    assert len(strict) + len({r.clip_id for r in dropped}) == 40
    for r in dropped:
        assert r.of in set(strict.column("clip_id"))  # what it repeats was itself kept
    with pytest.raises(MesynthError, match="have no frames to check"):
        filter_corpus(made.root, tmp_path / "x")


def test_command_line_repeats(spoilt: Manifest, tmp_path: Path) -> None:
    args = ["filter", spoilt.root, "--keep", "artefact=0.05,duplicate", "--out", tmp_path / "kept", "--json"]
    first = _cli(*args)
    assert first.exit_code == 0, first.output
    printed = json.loads(first.stdout)
    assert printed["reasons"]["artefact"] == 2
    assert printed["clips"] + printed["rejected"] == 5
    before = tree_bytes(tmp_path / "kept")
    assert _cli(*args).exit_code == 0
    assert tree_bytes(tmp_path / "kept") == before
    other = _cli(*args[:3], "duplicate", *args[4:])
    assert other.exit_code == 2
    assert "holds another run" in other.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("beauty", "check 'beauty' is unknown; choose from identity, control, artefact, duplicate"),
        ("identity=low", "limit 'identity=low' is no number"),
        ("control, control=3", "check 'control' is given twice"),
        ("identity=-1", "identity=-1 is outside"),
        ("control=nan", "control=nan is outside"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(MesynthError, match=says):
        parse_keep(text)


def test_quantiles_and_shares() -> None:
    values = np.arange(1, 101) / 100
    found = spread("artefact", 0.9, values)
    assert found.quantiles == (0.01, 0.05, 0.5, 0.95, 0.99)
    assert found.rejected == pytest.approx(0.1)
    assert spread("duplicate", 0.1, values).rejected == pytest.approx(0.09)
    assert spread("control", 0.5, np.array([0.1, np.nan])).rejected == 0.5
    assert spread("different people", None, values).rejected is None


@given(st.integers(0, 2**31), st.floats(0.01, 3))
def test_which_of_two_clips_came_first_does_not_matter(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(2, 16, 16)).astype(np.float32)
    b = (scale * (a + 0.1 * rng.normal(size=a.shape))).astype(np.float32)
    one, other = Checks(Limits()), Checks(Limits())
    one.keep("a", a)
    other.keep("b", b)
    assert one.nearest(b)[0] == pytest.approx(other.nearest(a)[0], rel=1e-5)
    assert one.nearest(a) == (0.0, "a")
    assert one.nearest(0 * a) == (np.inf, "")


def test_a_dry_run_shows_how_a_corpus_lies(spoilt: Manifest, tmp_path: Path) -> None:
    keep = "control=2,artefact=0.05,duplicate"
    done = _cli("filter", spoilt.root, "--keep", keep, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    told = {line["check"]: line for line in json.loads(done.stdout)["checks"]}
    assert list(told) == ["control", "artefact", "duplicate", "any"]
    kept, rejected = filter_corpus(spoilt.root, tmp_path / "kept", parse_keep(keep))
    assert told["any"]["rejected"] == pytest.approx(1 - len(kept) / 5)
    for name in ("control", "artefact", "duplicate"):
        assert told[name]["rejected"] == pytest.approx(sum(r.check == name for r in rejected) / 5)
    shown = _cli("filter", spoilt.root, "--keep", keep, "--dry-run").output
    assert "artefact" in shown
    assert "nothing was written" in shown
    neither = _cli("filter", spoilt.root)
    assert neither.exit_code == 2
    assert "give --out for the kept clips, or --dry-run" in neither.output


def test_another_person_stands_beside_identity(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    faces = render_faces(tmp_path / "faces", subjects=3, size=128, seed=4)
    config = replace(CONFIG, au=("12=C",))
    made = generate(faces, config, tmp_path / "corpus", preview=Preview(count=0), workers=1)
    told = {found.check: found for found in measure_corpus(made.root, parse_keep("identity"))}
    assert told["different people"].n == 3
    assert max(told["identity"].quantiles) < min(told["different people"].quantiles)


def test_keep_names_the_checks_that_run() -> None:
    assert parse_keep("") == Limits()
    assert parse_keep(Limits().text()) == Limits()
    assert parse_keep("control=1, duplicate") == Limits(identity=None, control=1.0, artefact=None)
    with pytest.raises(MesynthError, match="no check is left"):
        Limits(identity=None, control=None, artefact=None, duplicate=None)
