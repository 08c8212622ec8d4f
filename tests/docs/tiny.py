"""What the names in the documents stand for when their commands run in tests, and how commands are made small.

``NAMES`` says what lies under a name that a page uses and did not make; ``SUBSTITUTIONS`` what is changed in a command,
and why. Releases are mimicked folders with rendered faces; nothing here is licensed data.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import mesynth.cli
import recognizer.cli
from tests.datasets.releases import (
    casme,
    casme2,
    casme3,
    casme_sq,
    common,
    dfme,
    flow_folders,
    fourdme,
    megc2019,
    mmew,
    samm,
    samm_long,
    smic,
)
from tests.head import heads
from tests.recognizer import recordings

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("configs", "scripts")
"""Folders of the checkout that commands name, and read alone."""
CODES: dict[str, tuple[int, ...]] = {"--check": (0, 1)}
"""Option -> exit codes that are an answer: tiny releases have fewer clips than published, --check says so with 1."""
PEOPLE, CLIPS = 4, 4
STUDY = tuple(
    (seed, aus, emotion)
    for seed, (aus, emotion) in enumerate(
        [("4=0.6", "disgust"), ("12=0.6", "happiness"), ("1=0.6,2=0.6", "surprise")] * 2
    )
)
"""Rendered recordings of six people: seed, action units, emotion."""
LOOP = 40


@dataclass(frozen=True)
class Substitution:
    """A change to every command that ``when`` matches: options set, words replaced, settings put behind."""

    when: str
    why: str
    options: dict[str, str] = field(default_factory=dict)
    words: tuple[tuple[str, str], ...] = ()
    behind: tuple[str, ...] = ()

    def applies(self, words: Sequence[str]) -> bool:
        """Whether the command is changed."""
        return re.search(self.when, shlex.join(words)) is not None

    def apply(self, words: Sequence[str]) -> list[str]:
        """The changed command."""
        out = list(words)
        for pattern, text in self.words:
            out = [re.sub(pattern, text, word) for word in out]
        for option, value in self.options.items():
            if option in out:
                out[out.index(option) + 1] = value
            else:
                out += [option, value]
        return [*out, *self.behind]


_FEW = (
    "run.images=16", "run.batch=8", "run.log_images=8", "run.validate_images=16", "run.checkpoint_images=16",
    "run.validation=4", "run.sheet=2",
)  # fmt: skip

SUBSTITUTIONS = (
    Substitution(
        r"^mesynth (render|prepare|augment|generate|drive|train|measure|export)\b",
        "starting processes takes longer than tiny data does, and no result depends on their number",
        options={"--workers": "1"},
    ),
    Substitution(
        r"^mesynth render\b",
        "a few small people render in a second",
        options={"--subjects": "2", "--size": "96", "--fps": "30"},
    ),
    Substitution(r"^mesynth render\b.*--clips", "four clips a person show every class", options={"--clips": "4"}),
    Substitution(
        r"^mesynth render\b.*--long",
        "a video of nine seconds each: both kinds of expressions",
        options={"--clips": "1", "--seconds": "9", "--fps": "25"},
    ),
    Substitution(
        r"^mesynth drive\b",
        "small pictures of few drivers, the quicker flow",
        options={"--size": "64", "--method": "dis"},
        words=((r"^prepared/casme2$", "prepared/four"),),
    ),
    Substitution(
        r"^recognizer spot\b.*(softnet --|--train)",
        "one epoch, the quicker flow",
        options={"--epochs": "1", "--flow": "dis"},
    ),
    Substitution(
        r"^mesynth generate\b.*--count", "eighteen clips go the same way as a thousand", options={"--count": "18"}
    ),
    Substitution(
        r"^mesynth generate\b.*(--au|--emotion \w+) .*--count",
        "three clips of one request differ as eight do",
        options={"--count": "3"},
    ),
    Substitution(
        r"^mesynth generate\b(?!.*--plan)(?!.*--kind flow)",
        "200 frames a second are some sixty frames a clip; 30 are ten",
        options={"--fps": "30"},
    ),
    Substitution(
        r"^mesynth plan\b.*--out",
        "six rows go the same way as a thousand, at ten frames a clip and 64 pixels",
        behind=("rows.count=6", "clip.fps=30", "clip.size=64"),
    ),
    Substitution(
        r"^(mesynth train|torchrun|accelerate)\b.*\b(gan|diffusion)/",
        "the family's recipe of seconds, cut to two updates",
        words=((r"\b(gan|diffusion)/(\w+?)_(64|128)(_student)?\b", r"\1/\2_tiny"),),
        behind=_FEW,
    ),
    Substitution(
        r"^(mesynth train|torchrun|accelerate)\b(?!.*(_manifest|data\.source=manifest))",
        "three rendered people to learn from",
        behind=("data.identities=3", "data.per_identity=4", "data.validation_identities=1"),
    ),
    Substitution(r"^mesynth train\b.*_manifest", "no warm-up in two updates", behind=("run.warmup=0",)),
    Substitution(
        r"--exclude-subjects", "people of the tiny database", options={"--exclude-subjects": "rendered-0/sub01"}
    ),
    Substitution(r"--cross-fit", "two groups of four people", options={"--cross-fit": "2"}),
    Substitution(
        r"^(torchrun|accelerate)\b",
        "this machine may have two cores",
        options={"--workers": "1"},
        words=((r"^4$", "2"),),
    ),
    Substitution(r"^mesynth measure\b", "a few clips a side", options={"--clips": "4"}),
    Substitution(
        r"^mesynth (compare|calibrate)\b",
        "two people, one action unit, two intensities",
        options={"--subjects": "2", "--aus": "12", "--levels": "0.5,1"},
    ),
    Substitution(r"^mesynth compare\b", "crops of 64 pixels", options={"--size": "64"}),
    Substitution(
        r"^recognizer ablate\b.*few_subjects", "the database has four people", behind=("train_subjects=[3,0]",)
    ),
    Substitution(
        r"^recognizer (loso|ablate)\b.*/aus\b", "a few small people show few AUs", behind=("aus.codes=[4,12]",)
    ),
    Substitution(
        r"^recognizer (loso|train)\b.*capsule_graph",
        "four steps and one seed of a network",
        behind=("train.steps=4", "train.batch=8", "seeds=[0]"),
    ),
    Substitution(
        r"^recognizer loso\b.*transfer_", "four steps of a network", behind=("train.steps=4", "train.batch=8")
    ),
    Substitution(
        r"^recognizer study\b",
        "one seed, one ratio, one control, a few small clips, no networks of measures",
        behind=(
            "recognizers=[lda]",
            "seeds=[0]",
            "controls=[shuffled]",
            "resamples=100",
            "corpora.people=2",
            "corpora.size=64",
            "corpora.fps=25",
            "corpora.duration=[0.2,0.24]",
            "measures.clips=0",
            "embedded.clips=3",
            "embedded.size=64",
            "embedded.fps=25",
        ),
    ),
    Substitution(
        r"^recognizer study\b(?!.*counts)",
        "a ratio of 1 of a dozen real clips",
        behind=("ratios=[0,1]",),
    ),
    Substitution(r"^recognizer study\b.*counts", "two clips of each class", words=((r"^counts=.*", "counts=[2]"),)),
    Substitution(
        r"^recognizer study\b(?!.*generators)",
        "two groups of four people, the recipe of seconds",
        behind=(
            "generators=[motion-prior,gan/motion_tiny_manifest]",
            "fine_tuning.groups=2",
            f"fine_tuning.settings=[{','.join(_FEW)}]",
        ),
    ),
    Substitution(
        r"^recognizer ablate\b.*real_flow",
        "one seed, one count, one control, the discriminant: a few cells",
        behind=(
            "models=[lda]",
            "seeds=[0]",
            "counts=[2]",
            "controls=[shuffled]",
            "resamples=100",
            "train_subjects=[0]",
        ),
    ),
    Substitution(
        r"^recognizer ablate\b(?!.*real_flow)",
        "one seed, one ratio, one control, the discriminant: a few cells",
        behind=("models=[lda]", "seeds=[0]", "ratios=[0,1]", "controls=[shuffled]", "resamples=100"),
    ),
    Substitution(r"^recognizer ablate\b.*/aus\b", "a corpus of few clips", behind=("ratios=[0,0.5]",)),
)
"""Every change that the runner makes, with its reason; a test takes out rows that change nothing."""


def small(words: Sequence[str], tiny: Tiny) -> list[str]:
    """A documented command as it runs here."""
    out = list(words)
    for swap in SUBSTITUTIONS:
        if swap.applies(words):
            out = swap.apply(out)
    return [tiny.placed(word) for word in out]


class Tiny:
    """Tiny data, each made when a command first asks for it, once for all pages.

    Args:
        root: An empty folder that lives as long as the tests do.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where the data called ``name`` lies; made at the first call."""
        place = self.root / name.strip("/").replace("/", "-")
        if not place.exists():
            made = place.with_name(f"{place.stem}.part{place.suffix}")
            shutil.rmtree(made, ignore_errors=True)
            NAMES[name](self, made)
            made.rename(place)
        return place

    def placed(self, word: str) -> str:
        """The word with folders such as ``/data/SAMM`` replaced by where they lie."""
        for name in sorted((n for n in NAMES if n.startswith("/")), key=len, reverse=True):
            if re.search(rf"{re.escape(name)}(?![\w-])", word):
                return word.replace(name, str(self.path(name)))
        return word

    def provide(self, words: Sequence[str], folder: Path) -> None:
        """Lay a copy of whatever the command reads, and no command made, under its name into ``folder``."""
        pairs = pairwise(words)
        made = {word.rstrip("/") for option, word in pairs if option in ("--out", "--save")}
        self.provide_named(" ".join(words), folder, made)

    def provide_named(self, text: str, folder: Path, made: Collection[str] = ()) -> None:
        """The same for every name in a text but those that it is about to make."""
        for name in LINKED:
            if not (folder / name).exists():
                (folder / name).symlink_to(ROOT / name)
        for name in sorted(NAMES, key=len):
            if name.startswith("/") or not re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", text):
                continue
            target = folder / name
            if name in made or target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.path(name)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


def _run(*words: object) -> None:
    groups: dict[str, click.Group] = {"mesynth": mesynth.cli.main, "recognizer": recognizer.cli.main}
    result = CliRunner().invoke(groups[str(words[0])], [str(word) for word in words[1:]])
    assert result.exit_code == 0, (words, result.output, result.exception)


def _with_faces(write: Callable[[], object]) -> None:
    """Write a mimicked release whose frames show a rendered face that moves with the frame's number."""
    frames = recordings.recording(7, LOOP, (0, LOOP, "4=0.5,12=0.5"))[..., ::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "picture", lambda number, *_: np.ascontiguousarray(frames[number % LOOP]))
        write()


def _release(write: Callable[..., object], *more: Callable[[Path], object], **how: Any) -> Callable[[Tiny, Path], None]:
    def make(tiny: Tiny, out: Path) -> None:
        _with_faces(lambda: write(out, **how))
        for one in more:
            _with_faces(lambda one=one: one(out))  # type: ignore[misc]

    return make


def _rendered(tiny: Tiny, out: Path) -> None:
    _run("mesynth", "render", "--subjects", PEOPLE, "--clips", CLIPS, "--size", 96, "--fps", 30, "--workers", 1,
         "--out", out)  # fmt: skip


def _prepared(*more: object) -> Callable[[Tiny, Path], None]:
    def make(tiny: Tiny, out: Path) -> None:
        root = tiny.path("/data/CASME2")
        _run("mesynth", "prepare", "casme2", "--root", root, *more, "--workers", 1, "--out", out)

    return make


def _faces(tiny: Tiny, out: Path) -> None:
    _run("mesynth", "render", "--layout", "faces", "--subjects", 2, "--size", 160, "--seed", 5, "--out", out)


def _photos(tiny: Tiny, out: Path) -> None:
    out.mkdir()
    for seed in (31, 32):
        assert cv2.imwrite(str(out / f"{seed}.jpg"), recordings.recording(seed, 1, size=192)[0, ..., ::-1])


def _photo(tiny: Tiny, out: Path) -> None:
    shutil.copy(tiny.path("photos") / "31.jpg", out)


def _pictures(tiny: Tiny, out: Path) -> None:
    out.mkdir()
    for i, frame in enumerate(recordings.recording(8, 12, (0, 12, "12=0.6"))):
        assert cv2.imwrite(str(out / f"{i}.png"), frame[..., ::-1])


def _more_faces(tiny: Tiny, out: Path) -> None:
    _run("mesynth", "render", "--layout", "faces", "--subjects", 2, "--size", 160, "--seed", 6, "--out", out)


def _corpus(seed: int, faces: str = "faces") -> Callable[[Tiny, Path], None]:
    def make(tiny: Tiny, out: Path) -> None:
        _run("mesynth", "generate", "--faces", tiny.path(faces), "--emotion", "negative,positive,surprise", "--count",
             18, "--fps", 30, "--noise", 1.5, "--style", 1, "--seed", seed, "--workers", 1, "--out", out)  # fmt: skip

    return make


def _estimated(tiny: Tiny, out: Path) -> None:
    _run("mesynth", "prepare", "corpus", "--root", tiny.path("corpus"), "--landmarker", "stored", "--workers", 1,
         "--out", out)  # fmt: skip


def _quality(tiny: Tiny, out: Path) -> None:
    _run("mesynth", "measure", "--real", tiny.path("prepared/casme2"), "--synthetic", tiny.path("corpus"), "--clips", 4,
         "--out", out)  # fmt: skip


def _video(tiny: Tiny, out: Path) -> None:
    recordings.write_video(out, recordings.recording(7, 60, (14, 20, "4=0.6")))


def _study(tiny: Tiny, out: Path) -> None:
    out.mkdir()
    recordings.write_study(out, STUDY)


def _meview(tiny: Tiny, out: Path) -> None:
    _study(tiny, out)
    (out / "annotations.csv").rename(out / "meview.csv")


def _cmed(tiny: Tiny, out: Path) -> None:
    for name in ("CASME", "CASME2", "CASME_SQ", "SAMM", "SMIC"):
        source = tiny.path("/data/CASME2-mimic" if name == "CASME2" else f"/data/{name}")
        shutil.copytree(source, out / name)


def _generator(tiny: Tiny, out: Path) -> None:
    words = small(("mesynth", "train", "gan/motion_64", "--out", str(out)), tiny)
    _run(*(str(ROOT / "configs/gan/motion_tiny.yaml") if word == "gan/motion_tiny" else word for word in words))


def _head(tiny: Tiny, out: Path) -> None:
    with out.open("wb") as file:
        np.savez(file, **heads.arrays(("mouthSmile",)))  # type: ignore[arg-type]


def _flow_images(tiny: Tiny, out: Path) -> None:
    flow_folders.write_flow_folders(out, flow_folders.flow_images())


def _sample(tiny: Tiny, out: Path) -> None:
    shutil.copytree(ROOT / "samples" / "corpus", out)


NAMES: dict[str, Callable[[Tiny, Path], None]] = {
    "/data/CASME": _release(casme.write_casme, clips=casme.CLIPS[:4]),
    "/data/CASME2": _rendered,
    "/data/CASME2-mimic": _release(casme2.write_release, clips=casme2.CLIPS[:2]),
    "/data/SAMM": _release(samm.write_samm, clips=samm.CLIPS[:5]),
    "/data/SAMM_LONG": _release(samm_long.write_samm_long),
    "/data/SMIC": _release(
        smic.write_smic,
        lambda out: smic.write_smic(out, smic.SLOW_CLIPS, camera="VIS"),
        lambda out: smic.write_smic_long(out, [v for v in smic.VIDEOS if v.on_disk]),
    ),
    "/data/CASME_SQ": _release(casme_sq.write_casme_sq, renderings=("raw", "cropped")),
    "/data/CASME3": _release(casme3.write_casme3, casme3.write_casme3_c),
    "/data/MMEW_Final": _release(mmew.write_mmew),
    "/data/4DME": _release(fourdme.write_fourdme),
    "/data/DFME": _release(dfme.write_dfme),
    "/data/MEVIEW": _meview,
    "/data/MEGC2019": _release(megc2019.write_megc2019),
    "/data/CMED": _cmed,
    "prepared/casme2": _prepared(),
    "prepared/four": _prepared("--limit", 4),
    "faces": _faces,
    "more-faces": _more_faces,
    "photos": _photos,
    "photo.jpg": _photo,
    "pictures": _pictures,
    "corpus": _corpus(1),
    "corpus-a": _corpus(2),
    "corpus-b": _corpus(3, "more-faces"),
    "corpus-tvl1": _estimated,
    "quality": _quality,
    "interview.avi": _video,
    "my-study": _study,
    "three_norm_u_v_os": _flow_images,
    "runs/motion": _generator,
    "lab-head.npz": _head,
    "samples/corpus": _sample,
}
"""Name in the documents -> what makes its data. Names that begin with / are replaced in commands, others laid out."""
