"""Make samples/ anew: contact sheets of the head and a small generated corpus. `python scripts/make_samples.py`"""

import shutil
import tempfile
from pathlib import Path

from mesynth.corpus.generate import Preview, generate
from mesynth.corpus.plan import PlanConfig
from mesynth.corpus.previews import corpus_sheet
from mesynth.datasets.rendered import render_faces
from mesynth.head.render import au_sheet, identities_sheet
from mesynth.store.run_folder import write_bytes
from mesynth.store.shards import png_bytes

SAMPLES = Path(__file__).resolve().parent.parent / "samples"


def main() -> None:
    """Write the sheets, then the corpus."""
    write_bytes(SAMPLES / "identities.png", png_bytes(identities_sheet(range(100, 130), size=112, columns=10)))
    write_bytes(SAMPLES / "aus.png", png_bytes(au_sheet(79, size=112, columns=9)))
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
