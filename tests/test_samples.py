"""The script of samples/: sheets and strips of a folder of photographs, and its mistakes in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from mesynth.core import facs
from mesynth.generators.registry import find_model
from mesynth.head import Subject
from mesynth.motion.onset import Onset
from mesynth.motion.prior import Face
from scripts import make_samples
from scripts.make_samples import main, sheet

CELL = 64


def cells(picture: np.ndarray) -> np.ndarray:
    """[rows, 12, 64, 64, 3] of a sheet, without captions."""
    gap, line = 3, make_samples._LINE
    gap = (picture.shape[1] - 12 * CELL) // 13
    high = CELL + line + gap
    rows = (picture.shape[0] - gap) // high
    found = [
        [picture[gap + r * high :, gap + c * (CELL + gap) :][:CELL, :CELL] for c in range(12)] for r in range(rows)
    ]
    return np.array(found)


def closing(request: str) -> Face:
    subject = Subject(5, CELL, frontal=True)
    aus = facs.parse_request(request).intensity
    return Face(subject.render(aus[None])[0], subject.landmarks(aus))


def test_a_folder_of_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(make_samples, "SHOWN", (1, 12))
    monkeypatch.setattr(make_samples, "STRIP", ("4=0.6", "L14=0.8"))
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(data.astronaut()).save(photos / "smile.png")
    Image.fromarray(np.full((99, 99, 3), 90, np.uint8)).save(photos / "wall.png")
    out = tmp_path / "sheets"
    assert main(["--photos", str(photos), "--out", str(out), "--model", "motion-prior", "--size", str(CELL)]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["smile-moving.webp", "smile.webp"]
    assert "wall.png is left out: no face" in capsys.readouterr().err
    made = cells(np.array(Image.open(out / "smile.webp")))
    onset, half, full, difference = made[0, :4].astype(int)
    one, all_of_it = (np.abs(apex - onset).mean() for apex in (half, full))
    assert 0 < one < all_of_it
    assert np.abs(difference - 128).max() > 50
    # two AUs, and of those that can be lowered the ones that a smile with teeth shows
    landmarks = next(face for _, face in make_samples.faces_of(photos / "smile.png", CELL)).landmarks
    lowered = [code for code, ends in Onset.of(landmarks).lowest().items() if any(ends)]
    assert {12, 25} <= set(lowered)
    shown = sum(bool((cell < 250).any()) for row in made for cell in row[::4])
    assert shown == 2 + len(lowered)
    strip = Image.open(out / "smile-moving.webp")
    assert strip.size[0] == 2 * CELL
    assert strip.n_frames > 20


def test_what_an_onset_cannot_show_is_an_empty_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_samples, "SHOWN", (4, 43))
    made = cells(sheet(find_model("motion-prior").load(), closing("43=1")))
    assert np.ptp(made[0, 5:8]) == 0  # AU 43 on closed eyes
    assert np.ptp(made[0, 4]) > 50  # whose onset is shown
    assert np.abs(made[0, 2].astype(int) - made[0, 0]).max() > 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--photos", "absent", "--out", "out"], "absent"),
        (["--photos", "photos"], "--photos and --out go together"),
        (["--out", "out"], "--photos and --out go together"),
        (["--photos", "photos", "--out", "out"], "no face"),
        (["--photos", "photos", "--out", "out", "--face", "nose"], "nose"),
        (["--photos", "photos", "--out", "out", "--model", "motion_gun"], "motion_gun"),
        (["--photos", "photos", "--out", "out", "--size", "7"], "size=7"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.fromarray(np.full((99, 99, 3), 90, np.uint8)).save("photos/wall.png")
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert says in told[-1]
    assert len(told) == 1 or "usage" in told[0]
    assert not Path("out").exists()
