"""What the page shows, as HTML: every text that came from outside is escaped, every picture is inside the page."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path

import numpy as np

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import MAX_DURATION_S
from mesynth.corpus.previews import video_bytes
from mesynth.store.shards import png_bytes
from mesynth.studio.browse import PASSES, Card, ClipPage
from mesynth.studio.face import Intake, Shown, Wish, curve
from mesynth.studio.study import DONE, FAILED, RUNNING, State, Step

PRESETS = ("happiness", "surprise", "disgust", "anger", "sadness", "fear", "contempt", "repression")
SLOWER = 8
_GROUPS = {
    "Brows and eyes": (1, 2, 4, 5, 6, 7, 43, 45),
    "Nose and upper lip": (9, 10),
    "Lip corners": (12, 14, 15, 20),
    "Chin and lower lip": (16, 17),
    "Lips": (18, 22, 23, 24, 25, 28),
    "Jaw and cheeks": (26, 27, 34),
}
assert sorted(code for codes in _GROUPS.values() for code in codes) == sorted(facs.AU_CODES)


def info(text: str) -> str:
    """A small i that explains what stands before it."""
    return f'<i class="ms-i" title="{escape(text)}" aria-label="{escape(text)}" role="img">i</i>'


def title(text: str, explained: str) -> str:
    """A small heading with its explanation."""
    return f'<div class="ms-title">{escape(text)} {info(explained)}</div>'


def head() -> str:
    """The top of the page."""
    return (
        '<div class="ms-head"><b>mesynth studio</b><span>Micro-expressions with known action units. '
        "Everything stays on this machine.</span></div>"
    )


def message(text: str, kind: str = "done") -> str:
    """One line of what was done ("done"), is to be known ("note") or went wrong ("problem"); "" for nothing."""
    if not text:
        return ""
    role = "alert" if kind == "problem" else "status"
    return f'<div class="ms-message ms-{kind}" role="{role}">{escape(text)}</div>'


def picture(pixels: np.ndarray, alt: str) -> str:
    """[H,W,3] uint8 as an image inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png_bytes(pixels)).decode()}">'


def video(data: bytes, label: str) -> str:
    """An MP4 inside the page: silent, at once, over and over."""
    source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    return f'<video src="{source}" aria-label="{escape(label)}" autoplay loop muted playsinline></video>'


# ---------------------------------------------------------------- face


def faces(paths: Sequence[Path], chosen: str = "") -> str:
    """Pictures to choose from, as buttons."""
    from mesynth.store.videos import read_image

    buttons = [
        f'<button data-do="face" data-value="{number}" aria-label="rendered face {number + 1}"'
        f' class="{"on" if str(path) == chosen else ""}">'
        f"{picture(read_image(path)[::2, ::2], f'face {number + 1}')}</button>"
        for number, path in enumerate(paths)
    ]
    return f'<div class="ms-faces">{"".join(buttons)}</div>'


def intake_card(seen: Intake) -> str:
    """What a picture is worth: its faces, the sentence, and a chip for each measure."""
    tiles = "".join(picture(tile, f"face {i}") for i, tile in enumerate(seen.tiles, 1))
    chips = "".join(
        f'<span class="ms-chip {"good" if check.kept else "bad"}" '
        f'title="{escape(_measured(check.value, check.limit))}">'
        f"{escape(check.words)}</span>"
        for check in seen.checks
    )
    notes = "".join(f"<div class='ms-muted'>{escape(note)}</div>" for note in seen.notes)
    return (
        f'<div class="ms-card ms-intake"><div class="tiles">{tiles}</div><div>{escape(seen.sentence)}{notes}'
        f'<div class="ms-chips">{chips}</div></div></div>'
    )


def _measured(value: str, limit: str) -> str:
    return f"measured {value}, limit {limit}"


def presets() -> str:
    """A button for each emotion of the published tables."""
    buttons = "".join(f'<button data-do="preset" data-value="{name}">{name}</button>' for name in PRESETS)
    return (
        f'<div class="ms-chips ms-presets">{buttons}'
        '<button class="plain" data-do="again" title="Draw other action units for the same emotion">draw again</button>'
        '<button class="plain" data-do="preset" data-value="">clear</button></div>'
    )


def board() -> str:
    """A row for each action unit: name, slider, FACS letter, sides."""
    out = []
    for title, codes in _GROUPS.items():
        out.append(f"<h4>{title}</h4>")
        for code in codes:
            name = facs.AU_NAMES[code]
            middle = code in facs.MIDLINE
            sides = "".join(
                f'<button data-side="{side}" title="{words}">{shown}</button>'
                for side, shown, words in (
                    ("B", "both", "both sides alike"), ("L", "L", "the person's left side"),
                    ("R", "R", "the person's right side"),
                )
            )  # fmt: skip
            out.append(
                f'<div class="ms-au" data-code="{code}"><span class="name"><small>{code}</small>{name}</span>'
                f'<input type="range" min="0" max="1" step="0.01" value="0" aria-label="AU {code}, {name}">'
                f'<span class="letter">–</span><span class="sides {"none" if middle else ""}">{sides}</span></div>'
            )
    zero = '<datalist id="ms-zero"><option value="0"></option></datalist>'
    return f'<div class="ms-board">{"".join(out)}{zero}</div>'


def stage(shown: Shown | None, *, waiting: bool = False) -> str:
    """Six tiles: onset, apex, both speeds, where it moves, what changes."""
    if shown is None:
        return '<div class="ms-empty">Choose a face, then move a slider or take an emotion.</div>'
    moves = f"up to {shown.largest:.2f} px; colour: direction; hatched: stands still"
    if shown.frames is None:
        wait = '<div class="ms-wait">' + ("being made …" if waiting else "") + "</div>"
        real, slow, length = wait, wait, ""
    else:
        real = video(video_bytes(shown.frames, "mp4", shown.fps), "clip in real time")
        slow = video(video_bytes(shown.frames, "mp4", shown.fps / SLOWER), "clip, eight times slower")
        length = f"{1000 * (len(shown.frames) - 1) / shown.fps:.0f} ms"
    tiles = (
        ("slow", slow, "Clip, 8 times slower", "onset, apex, offset, again"),
        ("real", real, "Clip, real time", length or "as a camera sees it"),
        ("apex", picture(shown.apex, "apex"), "Apex", "the frame of full strength"),
        ("onset-tile", picture(shown.onset, "onset"), "Onset", "the picture itself, cropped"),
        ("flow", picture(shown.flow, "flow"), "Where it moves", moves),
        ("difference", picture(shown.difference, "difference"), "What changes", "apex minus onset, × 4"),
    )
    figures = "".join(
        f'<figure id="ms-{name}">{content}<figcaption>{title}<small>{escape(line)}</small></figcaption></figure>'
        for name, content, title, line in tiles
    )
    return f'<div class="ms-stage">{figures}</div>'


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 190, 48, 612, 40, 150
_MOST = 1000 * MAX_DURATION_S


def curve_svg(wish: Wish) -> str:
    """Intensity over time, with a grip at onset, apex and offset. The grips stay where they are if that is no clip."""

    def x(ms: float) -> float:
        return _LEFT + ms / _MOST * (_RIGHT - _LEFT)

    def y(share: float) -> float:
        return _BOTTOM - share * (_BOTTOM - _TOP)

    try:
        points = [(x(ms), y(share)) for ms, share in curve(wish)]
    except MesynthError:
        points = []
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    drawn = (
        f'<polygon class="area" points="{points[0][0]:.1f},{_BOTTOM} {line} {points[-1][0]:.1f},{_BOTTOM}"/>'
        f'<polyline class="line" points="{line}"/>'
        if points
        else ""
    )
    ticks = "".join(
        f'<text x="{x(ms):.0f}" y="{_BOTTOM + 30}" text-anchor="middle">{ms}</text>'
        for ms in range(0, int(_MOST) + 1, 100)
    )
    heights = {"onset": (_BOTTOM, _TOP - 16), "apex": (_TOP, _TOP - 16), "offset": (_BOTTOM, _TOP - 16)}
    grips = "".join(
        f'<g class="grip" data-name="{name}" transform="translate({x(getattr(wish, name)):.1f},0)">'
        f'<line x1="0" y1="{_TOP - 6}" x2="0" y2="{_BOTTOM}"/><circle cx="0" cy="{at}" r="8"/>'
        f'<text x="0" y="{text}" text-anchor="middle">{name} {getattr(wish, name):g}</text></g>'
        for name, (at, text) in heights.items()
    )
    return (
        f'<div class="ms-curve"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" data-width="{_WIDTH}" data-left="{_LEFT}" '
        f'data-right="{_RIGHT}" data-most="{_MOST:g}" role="img" aria-label="intensity over time">'
        f'<line class="axis" x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_BOTTOM}"/>{drawn}{ticks}'
        f"{grips}</svg></div>"
    )


# ---------------------------------------------------------------- corpus


def grid(cards: Sequence[Card], marked: Collection[int]) -> str:
    """The clips of a page, moving; each opens when it is clicked, and is marked by the box in its corner."""
    if not cards:
        return '<div class="ms-empty">No clip of this corpus is like that. Take one of the filters back.</div>'
    out = []
    for card in cards:
        shown = f"data:image/png;base64,{base64.b64encode(card.picture).decode()}"
        seen = video(card.picture, card.title) if card.kind == "mp4" else f'<img alt="flow" src="{shown}">'
        on = card.index in marked
        verdict = ""
        if card.verdict:
            name = "passes" if card.verdict == PASSES else "fails"
            verdict = f'<small class="{name}" title="{escape(card.verdict)}">{escape(card.verdict)}</small>'
        out.append(
            f'<div class="ms-clip {"marked" if on else ""}" data-do="open" data-value="{card.index}" tabindex="0" '
            f'title="{escape(card.clip_id)}">{seen}'
            f'<button class="mark" data-do="mark" data-value="{card.index}" aria-pressed="{str(on).lower()}" '
            f'aria-label="mark clip {card.index}">{"✓" if on else ""}</button>'
            f'<div class="what"><b>{escape(card.title)}</b><small>{escape(card.line)}</small>{verdict}</div></div>'
        )
    return f'<div class="ms-grid">{"".join(out)}</div>'


def clip_page(page: ClipPage | None) -> str:
    """A clip's pictures, measures, provenance, and the one that is most alike."""
    if page is None:
        return ""
    tiles = []
    if page.video is not None:
        tiles.append((video(page.video, "clip"), "Clip", "shown in two seconds"))
    if page.apex is not None:
        tiles.append((picture(page.apex, "apex"), "Apex", f"frame {page.row.apex_index}"))
    if page.flow is not None:
        tiles.append((picture(page.flow, "flow"), "Where it moves", "colour is direction; hatched: stands still"))
    if page.difference is not None:
        tiles.append((picture(page.difference, "difference"), "What changes", "apex minus onset, × 4"))
    figures = "".join(
        f"<figure>{content}<figcaption>{title}<small>{line}</small></figcaption></figure>"
        for content, title, line in tiles
    )
    near = ""
    if page.neighbour is not None:
        n = page.neighbour
        near = (
            f"<h3>Most alike {info('The clip whose flow differs least: 0 is the same motion, 1 another one.')}</h3>"
            f'<dl><dt>clip</dt><dd><button class="ms-link" data-do="open" data-value="{n.index}">{escape(n.clip_id)}'
            f"</button></dd><dt>difference</dt><dd>{n.difference:.2f}</dd></dl>"
        )
    notes = "".join(message(note, "note") for note in page.notes)
    return (
        f'<div class="ms-card ms-detail"><div><div class="ms-stage">{figures}</div></div><div>'
        f"<h3>{escape(page.row.clip_id)}</h3>{_list(page.facts)}"
        f"<h3>Where it comes from {info('Whom a clip has seen decides in which folds it may be learned from.')}</h3>"
        f"{_list(page.provenance)}{near}{notes}</div></div>"
    )


def _list(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs) + "</dl>"


# ---------------------------------------------------------------- study


def study_state(state: State, link: str = "") -> str:
    """How a study stands: a bar over its steps, what the step says, the log's end, and the result's link."""
    share = state.done / state.steps if state.steps else float(state.status == DONE)
    kind = {RUNNING: "note", FAILED: "problem", DONE: "done"}.get(state.status, "")
    text = escape(state.text())
    if state.status == FAILED:
        text += " The log says why; the same button goes on once that is mended."
    result = (
        f'<p><a class="ms-link" href="{escape(link)}" target="_blank" rel="noopener">Open the result page</a></p>'
        if link and state.result is not None
        else ""
    )
    log = f'<pre class="ms-log">{escape(state.log.strip())}</pre>' if state.log.strip() else ""
    return (
        f'<div class="ms-card"><div class="ms-status ms-{kind}-text" id="ms-study-status">{text}</div>'
        f'<div class="ms-bar" role="progressbar" aria-valuenow="{100 * share:.0f}">'
        f'<i style="width:{100 * share:.0f}%"></i></div>'
        f"{result}{log}</div>"
    )


def commands(steps: Sequence[Step]) -> str:
    """The lines of a shell."""
    return "\n".join(step.text for step in steps)
