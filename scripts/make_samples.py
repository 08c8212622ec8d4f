"""Make samples/ anew: contact sheets of the head and a small generated corpus. `python scripts/make_samples.py`"""

import shutil
import tempfile
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import skimage.data

from mesynth.core import facs
from mesynth.core.profiles import PROFILES
from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.previews import corpus_sheet
from mesynth.datasets.rendered import render_faces
from mesynth.generators.base import Generator
from mesynth.generators.registry import find_model
from mesynth.head import Subject
from mesynth.head.render import au_sheet, contact_sheet, identities_sheet
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import Face
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.landmarks import choose_landmarker
from mesynth.store.run_folder import write_bytes
from mesynth.store.shards import png_bytes
from mesynth.store.videos import encoded

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
MODEL = "motion_gan"
STRIP = ("4=0.6,7=0.3", "6=0.5,12=0.5", "1=0.6,2=0.6,5=0.4", "15=0.6,17=0.5", "L14=0.8")
"""Requests of the moving strip."""
SHOWN = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 23, 24, 25, 26, 27, 43)
"""AUs of the photo's sheet."""
PEOPLE = (8, 11, 2)
"""Rendered people beside the photo, of light, middle and dark skin."""


def photo(size: int) -> Face:
    """Astronaut Eileen Collins (NASA, public domain; ships with scikit-image), cropped to ``size``."""
    picture, landmarker = skimage.data.astronaut(), choose_landmarker("mediapipe")
    crop = SimilarityCrop.from_landmarks(landmarker.detect(picture), size).frames(picture[None])[0]
    face = Face(crop, landmarker.detect(crop))
    landmarker.close()
    return face


def person(seed: int, size: int) -> Face:
    """A rendered person at rest."""
    subject = Subject(seed, size, frontal=True)
    return Face(subject.render(np.zeros((1, len(facs.AU_CODES), 2), np.float32))[0], subject.landmarks())


def clip(generator: Generator, face: Face, request: str, frames: int = 9) -> tuple[np.ndarray, int]:
    """[T,H,W,3] uint8 and the apex' index."""
    made, _ = generator.generate(
        face, facs.parse_request(request), PROFILES["casme2"], n_frames=frames, fps=200, nuisance=Nuisance(), seed=0
    )
    return made.clip.frames, made.clip.apex


def strip(generator: Generator, size: int = 160) -> bytes:
    """An animated WebP: clips of the photo side by side, at a quarter of their speed, back and forth without a jump."""
    face = photo(size)
    clips = [clip(generator, face, request, 64)[0][::2] for request in STRIP]
    band = np.full((32, 22, size * len(STRIP), 3), 255, np.uint8)
    for i, request in enumerate(STRIP):
        text = f"AU {request.replace('=0', ' ').replace(',', '  ')}"
        for frame in band:
            cv2.putText(frame, text, (i * size + 6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (60, 60, 60), 1, cv2.LINE_AA)
    shown = np.concatenate([np.concatenate(clips, 2), band], 1)
    still = np.repeat(shown[:1], 6, 0)
    return imageio.imwrite(
        "<bytes>", np.concatenate([still, shown, shown[::-4]]), extension=".webp", plugin="pillow", duration=40, loop=0,
        quality=80, method=6,
    )  # fmt: skip


def sheet(generator: Generator, size: int = 112) -> np.ndarray:
    """[H,W,3] uint8: of the photo and of three rendered people the onset and every AU's apex at .25, .5 and 1."""
    cells, labels = [], []
    for code in SHOWN:
        for face in (photo(size), *(person(seed, size) for seed in PEOPLE)):
            cells.append(face.image)
            labels.append(f"AU {code}: onset")
            for intensity in (0.25, 0.5, 1.0):
                frames, apex = clip(generator, face, f"{code}={intensity}")
                cells.append(frames[apex])
                labels.append(f"{intensity:g}")
    return contact_sheet(cells, 16, labels)


def main() -> None:
    """Write the sheets, then the corpus."""
    write_bytes(SAMPLES / "identities.png", png_bytes(identities_sheet(range(100, 130), size=112, columns=10)))
    write_bytes(SAMPLES / "aus.png", png_bytes(au_sheet(79, size=112, columns=9)))
    generator = find_model(MODEL).load()
    write_bytes(SAMPLES / "photo.webp", strip(generator))
    write_bytes(SAMPLES / "photo_aus.jpg", encoded(sheet(generator), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 82]))
    corpus = SAMPLES / "corpus"
    shutil.rmtree(corpus, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        faces = render_faces(Path(folder) / "faces", subjects=4, seed=11)
        emotions = ("happiness", "surprise", "disgust", "repression")
        plan = PlanConfig(emotions=emotions, count=8, fps=50, duration=(0.3, 0.3), size=96, seed=2)
        manifest = generate(faces, plan, corpus, preview=Preview(count=0), workers=1)
    write_bytes(SAMPLES / "corpus.png", png_bytes(corpus_sheet(manifest, manifest)))


if __name__ == "__main__":
    main()
