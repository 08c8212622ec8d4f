"""Every stage of a frame's way, from motion to disk and back, each beside its peer or the plain way, in one run.

``python -m tests.bench.bench_frames [--clips 64] [--prepare 8] [--quick]``: a table of milliseconds a frame (one
thread, best of several, taken in turn), then whole corpora by the command: clips a minute with noise, blinks and head
motion at one process and two, start-up in; what `prepare` of 640 x 480 pixels takes beside a plain loop, in turn; and
the seconds of `measure`. Beside each the processor seconds a clip, of all processes, which other work disturbs least.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import PROFILES
from mesynth.head import Subject
from mesynth.metrics.base import METRICS, MeasureConfig, Setup, subset, walk
from mesynth.metrics.measure import measure
from mesynth.metrics.networks import Networks
from mesynth.motion.nuisance import Nuisance, recorded
from mesynth.motion.prior import Face, MotionPrior
from mesynth.motion.warp import backward_flow, planes_of, warp_planes
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.flow import estimate_flow
from mesynth.preprocess.prepare import landmarker_of, prepare
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.shards import frames_members, member_frames
from mesynth.store.videos import encoded, image_array, swapped_channels

SIZE, MARGIN, FRAMES = 128, 10, 64
REQUEST = "1=0.4,2=0.4,5=0.3,25=0.2"
_STILL = np.zeros((1, len(facs.AU_CODES), 2), np.float32)

Stage = tuple[str, int, Callable[[], object], str, Callable[[], object]]
"""Name, frames in one call, the call; the peer's name and call."""


def best(stages: list[Stage], rounds: int) -> list[tuple[str, float, str, float]]:
    """Milliseconds a frame of each stage and its peer, in turn, so that both meet the same machine."""
    out = []
    for name, frames, ours, peer, theirs in stages:
        seconds = [np.inf, np.inf]
        for _ in range(rounds + 1):  # the first of each warms up
            for i, call in enumerate((ours, theirs)):
                start = time.perf_counter()
                call()
                seconds[i] = min(seconds[i], time.perf_counter() - start)
        out.append((name, 1e3 * seconds[0] / frames, peer, 1e3 * seconds[1] / frames))
    return out


def person(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A rendered person's picture and landmarks."""
    subject = Subject(3, size, frontal=True)
    return subject.render(_STILL)[0], subject.landmarks()


def stages() -> list[Stage]:
    """All that happens to a frame of 128 px."""
    side = SIZE + 2 * MARGIN
    image, points = person(side)
    prior = MotionPrior(Face(image, points, MARGIN))
    profile, aus = PROFILES["casme2"], facs.parse_request(REQUEST)
    steps = list(prior.steps(aus, profile, FRAMES, 200, Nuisance(head=1, blink=1), 1))
    step = steps[profile.apex_index(FRAMES)]
    assert step.head is not None
    moved = np.ascontiguousarray(step.skin + step.head)
    planes, layers = planes_of(image), prior.face.layers
    back = backward_flow(moved, inset=MARGIN)
    grid = np.stack(np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32)), -1)
    middle = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
    there = np.ascontiguousarray(grid[middle] + back[middle])
    frame = warp_planes(planes, back, MARGIN)
    rng = np.random.default_rng(0)

    def by_remap() -> None:
        b = -moved
        for _ in range(6):
            b = -cv2.remap(moved, grid + b, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def plain_noise() -> None:
        np.clip(frame + np.float32(1.5) * rng.standard_normal(frame.shape, np.float32) + 0.5, 0, 255).astype(np.uint8)

    found: list[Stage] = [
        ("invert the motion", 1, lambda: backward_flow(moved, inset=MARGIN), "6 x cv2.remap, all of it", by_remap),
        ("warp, kept part", 1, lambda: warp_planes(planes, back, MARGIN), "cv2.remap cubic, kept part",
         lambda: cv2.remap(image, there, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)),
        ("a frame: lids, lips, folds, head", 1, lambda: layers.frame(step, inset=MARGIN), "all of it, margin too",
         lambda: layers.frame(step)),
        ("noise, rounding", 1, lambda: recorded(frame, 1.5, rng), "standard_normal, clip", plain_noise),
    ]  # fmt: skip
    for name, noise in (("quiet", 0.0), ("noise 1.5", 1.5)):
        clip = prior.generate(
            aus, profile, n_frames=FRAMES, fps=200, nuisance=Nuisance(noise=noise, head=1, blink=1), seed=1
        )[0].clip  # fmt: skip
        forms = {form: frames_members(clip.frames, form, clip.apex) for form in ("video", "png")}
        sizes = {form: sum(map(len, members.values())) / FRAMES / 1000 for form, members in forms.items()}
        apex, ends = clip.apex, [0, clip.apex]
        video = partial(frames_members, clip.frames, "video", apex)
        found += [
            (f"store as video, {name}: {sizes['video']:.1f} kB", FRAMES,
             video, f"as PNG: {sizes['png']:.1f} kB",
             partial(frames_members, clip.frames)),
            (f"store as video, {name}", FRAMES, video,
             f"QOI (PyAV): {_qoi(clip.frames) / FRAMES / 1000:.1f} kB", partial(_qoi, clip.frames)),
            (f"read all of a video, {name}", FRAMES, partial(member_frames, forms["video"], "clip"), "of PNG",
             partial(member_frames, forms["png"], "clip")),
            (f"read onset and apex, {name}", 2,
             partial(member_frames, forms["video"], "clip", ends), "of PNG",
             partial(member_frames, forms["png"], "clip", ends)),
        ]  # fmt: skip
    return found + wide_stages()


def _qoi(frames: np.ndarray) -> int:
    """Bytes of the frames as Quite OK Images."""
    import av

    total = 0
    codec = av.CodecContext.create("qoi", "w")
    codec.width, codec.height, codec.pix_fmt = frames.shape[2], frames.shape[1], "rgb24"
    codec.time_base = Fraction(1, 25)
    for picture in frames:
        total += sum(p.size for p in codec.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    return total


def wide_stages() -> list[Stage]:
    """What `prepare` does to a frame of 640 x 480."""
    frame, points = wide()
    jpeg = encoded(frame, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    bgr = swapped_channels(frame)
    crop = SimilarityCrop.from_landmarks(points, SIZE)
    sigma = 0.5 * np.sqrt(max(1 / crop.scale**2 - 1, 0))

    def whole() -> None:
        soft = cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        cv2.warpAffine(soft, crop.matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    return [
        ("BGR to RGB, 640 x 480", 1, lambda: swapped_channels(bgr), "a copy of [..., ::-1]",
         lambda: np.ascontiguousarray(bgr[..., ::-1])),
        ("read a JPEG, 640 x 480", 1, lambda: image_array(jpeg, "a frame"), "Pillow", lambda: _pillow(jpeg)),
        ("crop to 128 px", 1, lambda: crop.frames(frame[None]), "low-pass all of it", whole),
    ]  # fmt: skip


def _pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def wide() -> tuple[np.ndarray, np.ndarray]:
    """A frame of 640 x 480 with a face 300 pixels wide, and its landmarks."""
    image, points = person(300)
    frame = np.full((480, 640, 3), 90, np.uint8)
    frame[90:390, 170:470] = image
    return frame, points + np.array([170, 90], np.float32)


# ------------------------------------------------------------------- whole commands


def command(*words: object) -> tuple[float, float]:
    """Seconds of a mesynth command, start-up included; and of the processor, of all processes that it started."""
    if sys.platform == "linux":  # a server of processes is nobody's child once who started it has ended
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    before, start = _children(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "mesynth", *map(str, words)], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return seconds, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def generated(folder: Path, clips: int) -> list[tuple[str, float, float, float]]:
    """(how, clips a minute of the whole command, clips a minute of its processes' own seconds, processor seconds a clip
    of the whole command)."""
    faces = folder / "faces"
    command("render", "--layout", "faces", "--subjects", 8, "--size", 256, "--seed", 71, "--out", faces)
    out = []
    for form in ("png", "video"):
        for workers in (1, 2):
            where = folder / f"{form}-{workers}"
            seconds, processor = command(
                "generate", "--faces", faces, "--emotion", "negative,positive,surprise", "--count", clips, "--size",
                SIZE, "--noise", 1.5, "--blink", 1, "--head-motion", 1, "--frames", form, "--workers", workers, "--out",
                where,
            )  # fmt: skip
            times = json.loads((where / "throughput.json").read_text())
            busy = sum(sum(p[k] for k in ("model", "warp", "encode", "write", "other")) for p in times["processes"])
            out.append((f"{form}, {workers} process(es)", 60 * clips / seconds, 60 * clips / busy, processor / clips))
    return out


def prepared(folder: Path, clips: int) -> list[tuple[str, float, float]]:
    """(how, clips of 48 JPEG frames of 640 x 480 that `prepare` makes a minute, processor seconds a clip), landmarks
    found anew. One process and the plain loop in turn, the better of three each."""
    frame, points = wide()
    moved = MotionPrior(Face(frame, points)).generate(
        facs.parse_request(REQUEST), PROFILES["casme2"], n_frames=48, fps=200, nuisance=Nuisance(noise=1.5), seed=0
    )[0].clip.frames  # fmt: skip
    names = tuple(f"{number:03d}.jpg" for number in range(len(moved)))
    for name, picture in zip(names, moved, strict=True):
        (folder / name).write_bytes(encoded(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]))
    whose = Provenance(kind="real", database="own", subject="ann", licence="unknown", subjects_seen=("own/ann",))
    rows = [
        Row(
            clip_id=f"own/ann/{i}/0", database="own", subject="ann", clip=str(i), onset=0, apex=20, offset=47,
            fps=200.0, n_frames=48, apex_index=20, height=480, width=640, frame_files=names, provenance=whose,
        )
        for i in range(clips)
    ]  # fmt: skip
    manifest = Manifest.from_rows(rows, folder)
    prepare(manifest.filter(np.arange(clips) < 2), folder / "warm", cache=None)

    def loop() -> None:
        for _ in range(clips):
            plain_clip([folder / name for name in names], 20)

    ways: dict[str, Callable[[int], object]] = {
        "1 process": lambda turn: prepare(manifest, folder / f"prepared-{turn}", cache=None),
        "a plain loop": lambda turn: loop(),
    }
    best_of = {how: [np.inf, np.inf] for how in ways}
    for turn in range(1, 4):
        for how, way in ways.items():
            start, processor = time.perf_counter(), time.process_time()
            way(turn)
            taken = time.perf_counter() - start, time.process_time() - processor
            best_of[how] = [min(pair) for pair in zip(best_of[how], taken, strict=True)]
    start, processor = time.perf_counter(), _children()
    prepare(manifest, folder / "prepared-two", cache=None, workers=2)
    two, processor = time.perf_counter() - start, _children() - processor
    return [
        *((how, 60 * clips / seconds, processor / clips) for how, (seconds, processor) in best_of.items()),
        ("2 processes", 60 * clips / two, processor / clips),
    ]


def plain_clip(files: list[Path], apex: int) -> tuple[list[bytes], np.ndarray]:
    """What `prepare` makes of a clip, written down as one would: frame after frame, a step after the other."""
    frames = [np.ascontiguousarray(cv2.imread(str(file))[..., ::-1]) for file in files]
    detector = landmarker_of("mediapipe", "mediapipe", "cpu")
    crop = SimilarityCrop.from_landmarks(detector.detect(frames[0]), SIZE)
    sigma = 0.5 * np.sqrt(max(1 / crop.scale**2 - 1, 0))
    crops = []
    for frame in frames:
        soft = cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        crops.append(
            cv2.warpAffine(soft, crop.matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        )
    pictures = [encoded(picture, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) for picture in crops]
    return pictures, estimate_flow(crops[0], crops[apex]).uv


def measured(real: Manifest, made: Manifest, clips: int) -> list[tuple[str, float]]:
    """(how, seconds) of `measure` with so many clips a side, and of every measure by itself in one thread."""
    config = MeasureConfig(clips=clips)
    start = time.perf_counter()
    measure(real, made, config)
    out = [("measure", time.perf_counter() - start)]
    start = time.perf_counter()
    setup = Setup(config, Networks())
    for name in METRICS:
        metric = METRICS[name](setup)
        for side, manifest in (("real", real), ("synthetic", made)):
            for clip in walk(manifest, subset(manifest, clips, 0, side)[: getattr(metric, "limit", None)], side, {}):
                with suppress(MesynthError):
                    metric.update(clip)
        with suppress(MesynthError):
            metric.compute()
            if hasattr(metric, "plots"):
                metric.plots()
    return [*out, ("each measure by itself, one thread", time.perf_counter() - start)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--prepare", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="The stages alone.")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{'stage':44s} {'ms':>7s}   {'beside it':34s} {'ms':>7s}  ratio")
    for name, ours, peer, theirs in best(stages(), options.rounds):
        print(f"{name:44s} {ours:7.3f}   {peer:34s} {theirs:7.3f}  {theirs / ours:5.2f}")
    if options.quick:
        return
    with tempfile.TemporaryDirectory() as folder:
        print(
            f"\n{options.clips} clips of {FRAMES} frames of {SIZE} px, noise 1.5, blinks, head motion: clips a minute"
        )
        for how, whole, own, processor in generated(Path(folder), options.clips):
            print(f"  {how:22s} {whole:7.0f} by the command, {own:7.0f} a process; {processor:6.3f} processor s a clip")
        print(f"\nprepare, {options.prepare} clips of 48 frames of 640 x 480: clips a minute")
        ways = prepared(Path(folder), options.prepare)
        for how, whole, processor in ways:
            print(f"  {how:22s} {whole:7.0f}; {processor:6.3f} processor s a clip")
        print(f"  the plain loop takes {ways[1][2] / ways[0][2]:.2f} times the processor seconds of one process")
        clips = min(options.clips, options.prepare)
        print(f"\nmeasure, {clips} clips a side (of 48 and {FRAMES} frames of {SIZE} px): seconds")
        sides = (Manifest.read(Path(folder) / name) for name in ("prepared-1", "png-1"))
        for how, seconds in measured(*sides, clips):
            print(f"  {how:36s} {seconds:7.1f}")


if __name__ == "__main__":
    main()
