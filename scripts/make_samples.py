"""Make samples/ anew: sheets of the head, action units on photographs, a small corpus. `python scripts/make_samples.py`

With `--photos FOLDER` nothing of that: a sheet and a moving strip of every face in the folder, in `--out`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import imageio.v3 as imageio
import matplotlib.cbook
import numpy as np
import skimage.data

from mesynth.commandline import refusal
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import PROFILES, Profile
from mesynth.corpus.faces import choose_faces, margin, prepare_faces
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.previews import corpus_sheet
from mesynth.datasets.rendered import render_faces
from mesynth.generators.base import Generator
from mesynth.generators.registry import find_model
from mesynth.head import Subject
from mesynth.head.render import au_sheet, contact_sheet, identities_sheet
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.onset import OnsetError
from mesynth.motion.prior import Face
from mesynth.preprocess.face_quality import FaceLimits
from mesynth.store.run_folder import write_bytes
from mesynth.store.shards import png_bytes, read_frames, read_landmarks
from mesynth.studio.face import difference

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
PHOTOGRAPHS = SAMPLES / "photographs"
MODEL = "motion_gan"
STRIP = ("4=0.6,7=0.3", "6=0.5,12=0.5", "1=0.6,2=0.6,5=0.4", "15=0.6,17=0.5", "L14=0.8")
"""Requests of a moving strip."""
SHOWN = facs.AU_CODES
"""AUs of a sheet."""
PEOPLE = {"light": 8, "tan": 11, "brown": 9, "dark": 21}
"""Rendered people beside the photographs: seeds at .02, .28, .53 and .90 of the head's range of skin tones."""
_ACROSS = 3
"""AUs beside each other on a sheet."""
_LINE = 15
"""Height of a caption, pixels."""


def photographs() -> dict[str, Path]:
    """Photographs in the public domain, in packages that this one needs: astronaut Eileen Collins (NASA; scikit-image),
    and Rear Admiral Grace Hopper (U.S. Navy; matplotlib)."""
    return {
        "astronaut": Path(skimage.data.__file__).parent / "astronaut.png",
        "hopper": Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)),
    }


def faces_of(source: Path, size: int, which: str = "largest") -> Iterator[tuple[str, Face]]:
    """Every face of a picture or folder as ``mesynth generate`` crops it, whatever it looks like, with its name."""
    limits = FaceLimits.parse(",".join(f"{name}=off" for name in FaceLimits().__dict__))
    examination = choose_faces(source, face=which, limits=limits)
    for file, reasons in examination.reasons.items():
        print(f"{file} is left out: {'; '.join(reasons)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        made = prepare_faces(examination.taken, Path(folder) / "faces", size, examination=examination)
        for row in made:
            image = read_frames(made.root, row, [0])[0]
            yield row.subject, Face(image, read_landmarks(made.root, row), margin(size))


def person(seed: int, size: int) -> Face:
    """A rendered person at rest."""
    subject = Subject(seed, size, frontal=True)
    return Face(subject.render(np.zeros((1, len(facs.AU_CODES), 2), np.float32))[0], subject.landmarks())


def clip(
    generator: Generator, face: Face, request: str, frames: int = 3, profile: Profile = Profile(apex=0.5)
) -> tuple[np.ndarray, int]:
    """[T,H,W,3] uint8 and the apex' index."""
    made, _ = generator.generate(
        face, facs.parse_request(request), profile, n_frames=frames, fps=200, nuisance=Nuisance(), seed=0
    )
    return made.clip.frames, made.clip.apex


def moving(frames: np.ndarray, quality: int = 80) -> bytes:
    """An animated WebP of [T,H,W,3] uint8: first still, then there and quickly back, without a jump."""
    still = np.repeat(frames[:1], 6, 0)
    return imageio.imwrite(
        "<bytes>", np.concatenate([still, frames, frames[::-4]]), extension=".webp", plugin="pillow", duration=40,
        loop=0, quality=quality, method=6,
    )  # fmt: skip


def strip(generator: Generator, face: Face, step: int = 2) -> np.ndarray:
    """[T,H,W,3] uint8: clips of a face side by side, every ``step``-th of 200 frames a second."""
    clips = []
    for request in STRIP:
        frames = clip(generator, face, request, 64, PROFILES["casme2"])[0][::step]
        text = f"AU {request.replace('=0', ' ').replace(',', '  ')}"
        clips.append(np.stack([captioned(frame, text, 22, frame.shape[1] / 420) for frame in frames]))
    return np.concatenate(clips, 2)


def captioned(tile: np.ndarray, text: str, height: int = _LINE, scale: float = 0.36) -> np.ndarray:
    """The tile [H,W,3] uint8 with a line of text below it."""
    band = np.full((height, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(band, text, (3, height - 5), cv2.FONT_HERSHEY_SIMPLEX, scale, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([tile, band])


def sheet(generator: Generator, face: Face) -> np.ndarray:
    """[H,W,3] uint8: for every AU the onset, the apex at half and at full intensity, and what changes at full
    (difference x 4); then every AU that this onset shows and that can be lowered, lowered. Refused ones are empty."""
    cells: list[np.ndarray] = []
    for code, sign in [*((code, 1) for code in SHOWN), *((code, -1) for code in facs.LOWERABLE)]:
        try:
            apexes = []
            for share in (0.5, 1.0):
                frames, apex = clip(generator, face, f"{code}={sign * share:g}")
                apexes.append(frames[apex])
            onset, words = frames[0], (f"AU {code}", f"{sign * 0.5:g}", f"{sign:g}", "difference")
        except OnsetError:
            if sign < 0:
                continue
            onset = inside(face)
            apexes, words = [np.full_like(onset, 225)] * 2, (f"AU {code}", "refused", "", "")
        tiles = (onset, *apexes, difference(onset, apexes[1]) if words[3] else np.full_like(onset, 225))
        cells += [captioned(tile, text) for tile, text in zip(tiles, words, strict=True)]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % (4 * _ACROSS))
    return contact_sheet(cells, 4 * _ACROSS)


def inside(face: Face) -> np.ndarray:
    """The face's picture without its margin."""
    edge = face.margin
    return face.image[edge : face.image.shape[0] - edge, edge : face.image.shape[1] - edge]


def write_pictures(generator: Generator, name: str, face: Face, out: Path, quality: int) -> None:
    """``NAME.webp``, the sheet, and ``NAME-moving.webp``, the strip."""
    still = imageio.imwrite(
        "<bytes>", sheet(generator, face), extension=".webp", plugin="pillow", quality=quality, method=6
    )
    write_bytes(out / f"{name}.webp", still)
    write_bytes(out / f"{name}-moving.webp", moving(strip(generator, face, 3), quality))
    print(out / f"{name}.webp")


def write_photographs(generator: Generator, out: Path, size: int, quality: int) -> None:
    """Sheets and strips of the photographs in the public domain and of rendered people."""
    for name, file in photographs().items():
        for _, face in faces_of(file, size):
            write_pictures(generator, name, face, out, quality)
    for name, seed in PEOPLE.items():
        write_pictures(generator, name, person(seed, size), out, quality)


def write_samples() -> None:
    """The sheets, then the corpus."""
    write_bytes(SAMPLES / "identities.png", png_bytes(identities_sheet(range(100, 130), size=112, columns=10)))
    write_bytes(SAMPLES / "aus.png", png_bytes(au_sheet(79, size=112, columns=9)))
    generator = find_model(MODEL).load()
    [(_, face)] = faces_of(photographs()["astronaut"], 160)
    write_bytes(SAMPLES / "photo.webp", moving(strip(generator, face)))
    write_photographs(generator, PHOTOGRAPHS, 96, 66)
    corpus = SAMPLES / "corpus"
    shutil.rmtree(corpus, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        faces = render_faces(Path(folder) / "faces", subjects=4, seed=11)
        emotions = ("happiness", "surprise", "disgust", "repression")
        plan = PlanConfig(emotions=emotions, count=8, fps=50, duration=(0.3, 0.3), size=96, seed=2)
        manifest = generate(faces, plan, corpus, preview=Preview(count=0), workers=1)
    write_bytes(SAMPLES / "corpus.png", png_bytes(corpus_sheet(manifest, manifest)))


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and write the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="a picture or a folder of them: make theirs alone"
    )
    parser.add_argument("--out", type=Path, help="folder of the pictures of --photos")
    parser.add_argument("--face", default="largest", help="of several in a picture: largest, all or a number")
    parser.add_argument("--model", default=MODEL, help="generator of the pictures of --photos")
    parser.add_argument("--size", type=int, default=128, help="pixels of a face of --photos")
    args = parser.parse_args(argv)
    if (args.photos is None) != (args.out is None):
        parser.error("--photos and --out go together; give both, or neither to make samples/ anew")
    try:
        if args.photos is None:
            write_samples()
            return 0
        PlanConfig(emotions=("surprise",), size=args.size)  # as `mesynth generate` refuses sizes
        generator = find_model(args.model).load()
        for name, face in faces_of(args.photos, args.size, args.face):
            write_pictures(generator, name, face, args.out, 90)
    except (MesynthError, OSError) as error:
        parser.exit(2, f"{refusal(error) or ' '.join(str(error).split())}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
