"""Moving pictures for people: every clip as a GIF or an MP4, slowed to 25 frames a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mesynth.corpus.exports.form import FRAMES, Clip, Form, Options, Placed, PlacedClips
from mesynth.corpus.exports.names import clip_names, plain_people
from mesynth.corpus.exports.tables import write_csv
from mesynth.manifest import Manifest
from mesynth.run_folder import write_bytes

FOLDER, INDEX = "previews", "index.csv"


class PreviewsForm(Form):
    """``previews/<subject>/<clip>.gif`` and a table of them. Nothing to learn from: grey levels are lost."""

    name = "previews"
    needs = (FRAMES,)
    accepts = ("video",)
    comes_back = False  # a GIF has 256 colours, an MP4 is coded with loss, and both merge what hardly moves

    def __init__(self, source: Manifest, options: Options) -> None:
        super().__init__(source, options)
        self.people, self.clips = plain_people(source), clip_names(source)
        self.video = options.video or "gif"

    def write(self, out: Path, shard: int, shards: int, clips: Iterator[Clip]) -> Iterator[Placed]:
        from mesynth.corpus.generate import video_bytes  # the generators behind it would slow every other form's start

        for clip in clips:
            person, name = self.people[clip.row.subject_key], self.clips[clip.index]
            file = f"{FOLDER}/{person}/{name}.{self.video}"
            write_bytes(out / file, video_bytes(clip.frames(), self.video))
            yield Placed(clip.row, {"subject": person, "clip": name, "file": file})

    def finish(self, out: Path, placed: PlacedClips) -> dict[str, object]:
        from mesynth.corpus.generate import PREVIEW_FPS

        header = ("file", "clip_id", "emotion", "label", "au_text", "n_frames", "fps", "shown_at_fps")
        rows = (
            (
                str(o.place["file"]), o.row.clip_id, o.row.emotion, o.row.label, o.row.au_text, o.row.n_frames,
                o.row.fps, PREVIEW_FPS,
            )
            for o in placed()
        )  # fmt: skip
        write_csv(out / INDEX, header, rows)
        return {"shown at fps": PREVIEW_FPS}
