"""A clip's frames wherever they lie: here as frames of a video file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mesynth.preprocess.prepare import Source, fingerprint
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.videos import frame_name
from tests.datasets.releases.generic import numbered_frame, write_video


def test_a_clip_of_a_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", range(30), "FFV1")
    row = Row(
        clip_id="own/p/a/5", database="own", subject="p", clip="a", onset=5, apex=9, offset=14, fps=25.0, n_frames=10,
        apex_index=4, height=48, width=64, frame_files=tuple(frame_name("a.mkv", n) for n in range(5, 15)),
        provenance=Provenance(kind="real", database="own", subject="p", licence="own", subjects_seen=("own/p",)),
    )  # fmt: skip
    source = Source.of(tmp_path, row)
    assert (len(source.names), source.apex, source.warnings) == (10, 4, ())
    digests = [hashlib.sha256() for _ in range(3)]
    frames = list(source.frames([0, 4, 9], digests[0]))
    np.testing.assert_array_equal(frames, [numbered_frame(n) for n in (5, 9, 14)])
    list(source.frames([0, 4, 9], digests[1]))
    list(source.frames([0, 5, 9], digests[2]))
    assert digests[0].digest() == digests[1].digest() != digests[2].digest()
    before = fingerprint(Manifest.from_rows([row], tmp_path))
    write_video(tmp_path / "a.mkv", range(60), "FFV1")
    assert fingerprint(Manifest.from_rows([row], tmp_path)) != before
