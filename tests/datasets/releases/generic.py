"""Anyone's own recordings: videos whose frames tell their number, frame folders, and CSV files of many dialects."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.datasets.releases.common import write_frames

COLUMNS = ("video", "subject", "onset", "apex", "offset", "aus", "emotion")
_BITS, _CELL = 8, 8


def numbered_frame(number: int, h: int = 48, w: int = 64) -> np.ndarray:
    """[h,w,3] uint8 RGB whose top row of squares is ``number`` in binary: it survives any codec."""
    frame = np.empty((h, w, 3), np.uint8)
    frame[:] = (200, 40, 90)
    frame[h // 2 : h - 4, : w // 2] = 30 + number  # something moves, so that frames depend on each other
    for bit in range(_BITS):
        frame[: 2 * _CELL, bit * _CELL : (bit + 1) * _CELL] = 255 if number >> bit & 1 else 0
    return frame


def frame_number_shown(picture: np.ndarray) -> int:
    """The number of a :func:`numbered_frame`, read from the picture."""
    cells = picture[4 : 2 * _CELL - 4, : _BITS * _CELL].mean(axis=(0, 2)).reshape(_BITS, _CELL)[:, 2:-2].mean(axis=1)
    return int(((cells > 128) << np.arange(_BITS)).sum())


def write_video(file: Path, numbers: Iterable[int], codec: str = "mp4v", *, fps: float = 25.0) -> Path:
    """A video of :func:`numbered_frame` pictures; ``codec`` is a FourCC that OpenCV's wheel can write."""
    frames = [numbered_frame(number) for number in numbers]
    file.parent.mkdir(parents=True, exist_ok=True)
    h, w, _ = frames[0].shape
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (w, h))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return file


def csv_text(rows: Sequence[Mapping[str, object]], columns: Sequence[str] = (), delimiter: str = ",") -> str:
    """A CSV of ``rows``; columns are the usual ones and whatever else a row has."""
    names = list(columns) or [*COLUMNS, *dict.fromkeys(k for row in rows for k in row if k not in COLUMNS)]
    cells = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    return "".join(delimiter.join(line) + "\n" for line in cells)


ROWS: tuple[dict[str, object], ...] = (
    {"video": "clips/a.mp4", "subject": "p01", "onset": 5, "apex": 9, "offset": 14, "aus": "4+7", "emotion": "disgust"},
    {
        "video": "clips/a.mp4",
        "subject": "p01",
        "onset": 20,
        "apex": "",
        "offset": 29,
        "aus": "L12B",
        "emotion": "Happy",
    },
    {"video": "clips/b.avi", "subject": "p02"},
    {"video": "faces/c", "subject": "p02", "onset": 8, "apex": 10, "offset": 12, "emotion": "surprise", "fps": 120},
)


def write_recordings(root: Path, rows: Sequence[Mapping[str, object]] = ROWS, name: str = "annotations.csv") -> Path:
    """Two videos, a folder of frames 6..14 with junk in it, and a CSV of ``rows``."""
    write_video(root / "clips/a.mp4", range(40), "mp4v")
    write_video(root / "clips/b.avi", range(100, 112), "MJPG", fps=50)
    write_frames(root / "faces/c", range(6, 15), "frame_{}.png", junk=True)
    (root / name).write_text(csv_text(rows), encoding="utf-8")
    return root


def write_trimmed_h264(file: Path) -> Path:
    """H.264 with B-frames, trimmed without encoding it again: its header states 40 pictures, 0..9 are hidden.

    Made from pictures of :func:`numbered_frame` by ``ffmpeg -c:v libx264 -bf 3 -g 24 -crf 34``, then ``-ss 0.4 -c
    copy``; OpenCV's wheel can read such files but not write them.
    """
    file.write_bytes(gzip.decompress(base64.b64decode("".join(_TRIMMED))))
    return file


_TRIMMED = (
    "H4sICA1DAWsCA3QubXA0AL1UfUwcRRSfvTsMBdoex9eBaKGeisn1ekdpU2wbWTgMBuQjKRViG265vS/Y69G77SkVY7FILv5RiZK0HM1uRErb"
    "2FpTSvUPCS3SNmKbomIiEhX8aHoFLWBjyuc6M7sXtq01mhgnOzvz3rz3mzfv/WYAAGl2tr7O5fO4AVAANMKeSfmtJnddlgkAEGn32mwAKB1u"
    "mmKhvNEWaAJ9C+ZPorZseOlEbN/Q4y9U0o7+gPn7QOKbCVOBXY4dhWvihV1Th1crrm3peniV5Ummdxw6riKDjzFmYdHHN052bmuAmiiSI19u"
    "7lsa7C5BEsFV1+RVLZ1LrYFSPBl0PHecdLYVRfLBP545dOD6/oxTUB9Dcm/kx+o3Ckv67M+hrCG4TrZQWPi1SdUn/LKoLNw+ArXRBNcFsRaL"
    "qMMhEex9CMYgsGNfdFSsn4lk9uOQuM/yExBY6+VP24aQhuBuQLipDuXXlxvsJNSsJLibKKyzv/VH/YicVpPBWyLYitcuVTxFIxuSXyni6A0H"
    "GqEiluD1sqga+sdxULxBFpSObM+UgrIKs8qU8ndetUx0TVa38XMt6wuK+IoK+0AmtEsk+VII3jc9F9Hi1CWWm1cc8Z46fxufnd+DQhtQRNAZ"
    "V35uqn8CBZxCtvsl3Frh5mjZxy3bI42q26AsF0WvIflWhDYP5jf7t70bO1OfIyJ1w3iXDK9MfVd81ZgbOJKOk8H3IPzBkVxT6MokTmT7R+Gz"
    "zwyHeg8688lsqDfbAq+DNcJSzw+ZF82/f6MKCBQ5H6p07bHYU7SHNtm72aSIdQvXLcPJOsetnJKOsrEP4+oWL7U+PxB9ofnG0Y6DjV+9eEHk"
    "iA5yhLMcLz2tfg/FG01yuZAjcxnD4yixMQRHsXlVs42n09/OFWVrTaEw80hEczZaTyCDzjBteiOGni0+Z/jy2rTIm2aRN6Yxteh4lEVn+xZU"
    "bRYLfwwCzVeP7ryaWuwT63wyfNaLOtUZEWQQ13kugwuJNAvhaDr58yJVJiDGQk/M2p/GMA1kVJn1ZJUUl2OQMFkGu+Mw7zEtIO9rAVBNuj0e"
    "P9Qybr8TUUvWEBm2AkDgb7kRd1vdK+eAv20KuGcS66Xg3mAnW4v3VN6PtvV+z3+yL/oZsaiz0SzKaqqN8bHLHghXK/kq33LTLgpO0tz0X529"
    "FJQPYGGdk2a84RW/i7bJLXdA2VNA7aYZG7JRPu127bYj6vrdGFQepo4W11Jpr80uO0bMXi+TJs4Vcz62moHzD3ysj5bZcOiNfEAq0MGNoACO"
    "BQ+0uLdpBQH+syBqHkGDKGEcJDngeHLEvE+NSoJ+yrTptZUWAjzknBhrOqNfvHMHecZXs14ppepRsQOtj8XpDu+dgSuN9T7fcunxWjIcjNZl"
    "e52oV0m+kZKtQpKjwN3r4T3+q/V/tZ9iWf+/xpUK82iV5VfKMR7PwrV9ssoiPXokNeiZkboWFQs97uihkWSN1GNhj5PGBGkdYaRI9o9KY6Jk"
    "r5V4ppFs1VJPls01EqZasgljq6V44n2s1SM7D7q01F6aRdex0m3DI2rp8qsHr6uXqqtj5DTWu8T7rTvBejz4alHYGSe0iPLbN20wmAwmY+af"
    "PPNCnnsIAAA="
)
