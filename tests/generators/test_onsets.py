"""Faces that show something at the onset: AUs go the right way, can be lowered, and are refused in words."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX, format_vector, parse_request
from mesynth.core.profiles import Profile
from mesynth.corpus.generate import GenerateWorker, Preview, generate
from mesynth.corpus.plan import Plan, PlanConfig
from mesynth.generators.base import check_signs
from mesynth.generators.registry import find_model
from mesynth.metrics.networks.judge import visible_aus
from mesynth.motion.onset import OnsetError
from mesynth.store.generator_folder import FAMILIES
from mesynth.store.manifest import Manifest, Row
from tests.bench.bench_onsets import LOWERED, ONSETS, WAYS, Shown, error, made_flow, right, seeds_of

PEOPLE = seeds_of(8)
SIZE = 96
MODELS = ("motion-prior", "landmark-mean", "motion_gan")


@cache
def shown(seed: int, onset: str) -> Shown:
    return Shown.of(seed, SIZE, onset)


@cache
def generator(name: str) -> Any:
    return find_model(name).load()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("kind", "request_"), WAYS)
def test_an_au_goes_the_right_way_on_every_face(kind: str, request_: str, name: str) -> None:
    people = PEOPLE if name != "motion_gan" else PEOPLE[:2]
    wrong = [p for p in people if not right(request_, *of(p, kind, request_, name))]
    assert not wrong


def of(seed: int, kind: str, request_: str, name: str) -> tuple[np.ndarray, Any]:
    face = shown(seed, ONSETS[kind]).face
    return made_flow(generator(name), face, request_), face


@pytest.mark.parametrize("name", MODELS)
def test_lowering_a_smile_is_nearer_to_what_people_do_than_standing_still(name: str) -> None:
    before, request_, after = LOWERED[0]
    errors = []
    for seed in PEOPLE[:3]:
        one = shown(seed, before)
        exact = one.subject.flow(one.aus, parse_request(after).intensity)
        inside = exact.visible & exact.face
        made = made_flow(generator(name), one.face, request_)
        errors.append((error(made, exact.uv, inside), error(0 * exact.uv, exact.uv, inside)))
    own, still = np.mean(errors, 0)
    assert own < 0.7 * still


@pytest.mark.parametrize("name", ["motion-prior", "motion_gan", "motion_diffusion_fast"])
def test_what_is_lowered_leaves_the_rest_of_the_request_as_it_is(name: str) -> None:
    """A network is asked for what is raised alone; brows do not feel the mouth."""
    face = shown(PEOPLE[0], "12=0.5").face
    both, alone = (made_flow(generator(name), face, text, seed=3) for text in ("4=0.5,12=-0.2", "4=0.5"))
    brows = np.s_[:, : int(face.landmarks[27:31, 1].min())]
    assert np.abs(both - alone)[brows].max() < 0.05
    assert np.abs(both - alone).max() > 0.2


def test_frames_follow_the_course_and_the_label_says_what_is_shown() -> None:
    face = shown(PEOPLE[0], "12=0.5").face
    asked = parse_request("12=-1")
    sample, warnings = generator("motion-prior").generate(face, asked, Profile(apex=0.5), n_frames=5, fps=50)
    assert np.array_equal(sample.clip.frames[0], face.image)
    label = sample.aus.intensity[AU_INDEX[12]]
    assert (label > -0.8).all()
    assert (label < -0.25).all()
    assert any("is lowered by" in text for text in warnings)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("family", [name for name in FAMILIES if not FAMILIES[name].lowers])
def test_families_without_fields_of_aus_refuse(family: str) -> None:
    with pytest.raises(MesynthError, match=f"{family} cannot lower AU 12"):
        check_signs(family, parse_request("12=-0.2"))
    check_signs(family, parse_request("12=0.2"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, request_ in (("plain", "4=0.01"), ("smiling", "12=0.7")):
        picture = Shown.of(PEOPLE[1], 256, request_).face.image
        cv2.imwrite(str(folder / f"{name}.png"), picture[..., ::-1])
    return folder


def refused(*args: object) -> str:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert "Traceback" not in result.output
    return line


def test_a_corpus_says_which_face_cannot_show_it_before_any_clip_is_made(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refused("generate", "--faces", photos / "plain.png", "--au", "12=-0.2", "--size", 96, "--out", out)
    assert "shows no smile" in line
    assert "plain" in line
    assert not out.exists()  # so that the request put right may have the same folder
    made = CliRunner().invoke(
        main, ["generate", "--faces", str(photos / "plain.png"), "--au", "12=0.2", "--size", "96", "--out", str(out)]
    )
    assert made.exit_code == 0, made.output


def test_what_cannot_be_asked_is_refused_before_a_folder_is_claimed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refused("generate", "--faces", photos, "--au", "4=-0.2", "--out", out)
    assert "cannot be lowered" in line
    line = refused("generate", "--kind", "flow", "--au", "12=-0.2", "--count", 2, "--out", out)
    assert "flow images are drawn without one" in line
    assert not out.exists()


# ---------------------------------------------------------------- written down


def test_a_corpus_of_a_smile_that_goes(photos: Path, tmp_path: Path) -> None:
    config = PlanConfig(au=("12=-0.3,4=0.4",), count=1, fps=50, duration=(0.2, 0.2), size=96)
    manifest: Manifest = generate(photos / "smiling.png", config, tmp_path / "out", workers=1)
    (row,) = manifest
    smile = AU_INDEX[12]
    assert row.provenance.aus_asked == "4=0.4,12=-0.3"
    assert (row.aus.intensity[smile] < 0).all()
    assert row.au_present[2 * smile : 2 * smile + 2] == (-1, -1)  # to whom labels are read
    assert row.au_text == format_vector(row.aus)
    assert row.objective_class == "III"  # of what is raised: AU 4
    assert not visible_aus(row.aus.intensity)[smile].any()


def test_columns_of_what_is_lowered() -> None:
    columns = Row.au_columns(parse_request("L12=-0.2,R12=0.3"))
    smile = AU_INDEX[12]
    assert columns["au_present"][2 * smile : 2 * smile + 2] == (-1, 1)
    assert columns["au_known"][2 * smile] is True


def test_a_drawn_row_goes_on_without_what_its_face_cannot_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody asked for a blink on these shut eyes: it is left out, said, and not in the label."""
    asked = Plan(PlanConfig(au=("45=1,1=0.5",), count=1, size=96), 1)[0]
    worker = GenerateWorker(find_model("motion-prior"), tmp_path, 96, Preview())
    monkeypatch.setattr(worker, "_face", lambda index: (shown(PEOPLE[2], "45=0.7").face, None))
    assert worker._missing(asked) == ()
    with pytest.raises(OnsetError, match="is closed already"):
        worker._request(asked).for_onset()
    drawn = replace(asked, au_source="published")
    assert any("is closed already" in text for text in worker._missing(drawn))
    request, answer = worker._request(drawn).for_onset()
    assert format_vector(request.aus) == format_vector(answer.shown) == "1=0.5"
