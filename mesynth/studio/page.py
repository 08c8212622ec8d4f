"""The page itself: Gradio's components around :mod:`mesynth.studio.view`, and the server that shows it on this machine.

Nothing leaves the machine: the server listens on the loopback address alone, answers to its names alone, and tells the
browser to fetch nothing from elsewhere.
"""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported

import asyncio
import errno
import functools
import inspect
import re
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mesynth.commandline import refusal
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.studio import browse, face, study, view
from mesynth.studio.browse import ANY, Library
from mesynth.studio.face import FaceDesk, Wish

HOST = "127.0.0.1"
_CSP = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline' data:; connect-src 'self' data: blob:; frame-ancestors 'self'; form-action 'self'"
)
"""Gradio's own scripts compile templates, hence unsafe-eval; what matters is that all of it comes from here."""
_ASSETS = Path(__file__).parent
_WIDE = 230
"""Pixels that a slider takes at least, with its words."""
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_CALLS: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}


def said(error: BaseException) -> str:
    """One line for people. Raises ``error`` again where it is a fault of the program."""
    if isinstance(error, MesynthError):
        return " ".join(str(error).split())
    if words := refusal(error):
        return words
    raise error


def guarded(outputs: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, whose last output is a message: a user's mistake is said there, and all else stays as it was."""

    def wrong(error: BaseException) -> Any:
        problem = view.message(said(error), "problem")
        return problem if outputs == 1 else (*[gr.skip() for _ in range(outputs - 1)], problem)

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def each(*values: Any) -> Iterator[Any]:
            try:
                yield from function(*values)
            except _MISTAKES as error:
                yield wrong(error)

        return each

    @functools.wraps(function)
    def run(*values: Any) -> Any:
        try:
            return function(*values)
        except _MISTAKES as error:
            return wrong(error)

    return run


_MISTAKES = (MesynthError, OSError, MemoryError, ValueError, RuntimeError)
"""Of which :func:`said` raises again what is a fault of the program."""


class Studio:
    """What the page's handlers share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.desk = FaceDesk(folder)
        self.runner = study.Runner()
        self.libraries: dict[str, Library] = {}

    def warm(self) -> None:
        """Load what the first picture needs, while the page is still being opened."""
        with suppress(MesynthError, OSError):
            photo = face.rendered_faces(self.folder)[0]
            face.intake(photo)
            self.desk.clip(Wish(photo=photo, aus=face.preset("surprise")))

    def library(self, folder: str) -> Library:
        """The open corpus of that folder."""
        if folder not in self.libraries:
            self.libraries[folder] = Library(folder)
            while len(self.libraries) > 4:
                self.libraries.pop(next(iter(self.libraries)))
        return self.libraries[folder]


# ---------------------------------------------------------------- face


_WISHED = (
    "photo", "which", "anyway", "aus", "onset", "apex", "hold", "offset", "decay", "model", "size", "fps", "noise",
    "head_motion", "blink", "style", "seed",
)  # fmt: skip


def wish_of(*values: Any) -> Wish:
    """The wish that the components of :data:`_WISHED` hold. Raises ConfigError without a face or action unit."""
    given = dict(zip(_WISHED, values, strict=True))
    if not given["photo"]:
        raise ConfigError("no face is chosen; take a rendered one or drop a photo")
    if not given["aus"]:
        raise ConfigError("no action unit is asked for; move a slider or take an emotion")
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(f"{missing[0].replace('_', ' ')} is empty; give it a number")
    given["photo"] = Path(given["photo"])
    given["which"] = str(given["which"])
    given["size"], given["seed"] = int(given["size"]), int(given["seed"])
    return Wish(**given)


def _face_tab(studio: Studio, photos: list[Path]) -> None:
    photo = gr.State(str(photos[0]) if photos else "")
    emotion = gr.State(("surprise", 0))
    with gr.Row(equal_height=False, elem_id="ms-face"):
        with gr.Column(min_width=0, elem_id="ms-source"):
            gallery = gr.HTML(
                view.faces(photos, str(photos[0]) if photos else ""), js_on_load=_js("list"), elem_id="ms-gallery"
            )
            drop = gr.File(
                label="Your photo",
                file_types=["image", ".heic", ".heif"],
                height=74,
                show_label=False,
                elem_id="ms-drop",
            )
            verdict = gr.HTML(elem_id="ms-verdict")
            with gr.Row():
                which = gr.Dropdown(
                    [("largest face", "largest")], value="largest", label="Which face", visible=False,
                    info="counted from image left", elem_id="ms-which",
                )  # fmt: skip
                anyway = gr.Checkbox(
                    False, label="Take it anyway", visible=False, elem_id="ms-anyway",
                    info="Clips show throughout what the picture shows already.",
                )  # fmt: skip
        with gr.Column(min_width=0, elem_id="ms-shown"):
            message = gr.HTML(elem_id="ms-face-message")
            stage = gr.HTML(view.stage(None), elem_id="ms-stage")
        with gr.Column(min_width=0, elem_id="ms-expression"):
            gr.HTML(
                view.title(
                    "Expression",
                    "Action units (AUs) are the muscle movements of the Facial Action Coding System. Letters A to E "
                    "are their intensities, from a trace to the maximum. An emotion draws units as in databases. Where "
                    "the photo smiles, gapes or half closes its eyes, that slider goes on to the left and lowers it.",
                )
            )
            chips = gr.HTML(view.presets(), js_on_load=_js("list"), elem_id="ms-presets")
            board = gr.HTML(
                face.preset("surprise"), html_template=view.board(), js_on_load=_js("board"), elem_id="ms-board",
                lowest={},
            )  # fmt: skip
        with gr.Column(min_width=0, elem_id="ms-time"):
            gr.HTML(
                view.title(
                    "Over time, ms",
                    "Onset: nothing shows yet. Apex: full strength. Offset: gone again. Drag the circles, or use the "
                    "sliders. Micro-expressions last up to half a second.",
                )
            )
            curve = gr.HTML(view.curve_svg(Wish(photo=Path("-"), aus="")), js_on_load=_js("curve"), elem_id="ms-curve")
            with gr.Row():
                onset = gr.Slider(0, 450, 0, step=5, label="Onset", elem_id="ms-onset", min_width=230)
                apex = gr.Slider(5, 495, 160, step=5, label="Apex", elem_id="ms-apex-time", min_width=230)
                hold = gr.Slider(0, 200, 0, step=5, label="Held for", elem_id="ms-hold", min_width=230)
                offset = gr.Slider(40, 500, 320, step=5, label="Offset", elem_id="ms-offset", min_width=230)
            with gr.Accordion("Generator and recording", open=False, elem_id="ms-recording"):
                with gr.Row():
                    model = gr.Dropdown(
                        face.models(), value="motion-prior", label="Generator", min_width=420, elem_id="ms-model",
                        info="What moves the face. The prior answers at once; trained ones load first.",
                    )  # fmt: skip
                    size = gr.Slider(
                        64, 256, 128, step=8, label="Size, px", info="Side of the frames.", min_width=_WIDE
                    )
                    fps = gr.Slider(
                        25,
                        200,
                        200,
                        step=5,
                        label="Frames a second",
                        info="200 is usual in databases.",
                        min_width=_WIDE,
                    )
                with gr.Row():
                    noise = gr.Slider(
                        0, 5, 0, step=0.1, label="Sensor noise", info="Grey levels a camera adds.", min_width=_WIDE
                    )
                    head = gr.Slider(
                        0, 3, 0, step=0.1, label="Head motion", info="1 is a seated person's.", min_width=_WIDE
                    )
                    blink = gr.Slider(
                        0, 1, 0, step=0.05, label="Blink", info="Chance of a partial one.", min_width=_WIDE
                    )
                    style = gr.Slider(
                        0, 2, 0, step=0.1, label="Personal style", info="1: how people differ.", min_width=_WIDE
                    )
                with gr.Row():
                    decay = gr.Dropdown(
                        [("like it rose", "cosine"), ("fast, then slow", "exponential")], value="cosine",
                        label="Falls back", info="Shape between apex and offset.",
                    )  # fmt: skip
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="Same seed, same bytes.")
            with gr.Row():
                name = gr.Textbox(
                    label="Save as", placeholder="a name, or leave it empty", scale=3, min_width=180, elem_id="ms-name"
                )
                save = gr.Button(
                    "Save clip", variant="primary", scale=1, min_width=120, elem_id="ms-save", elem_classes="ms-beside"
                )
            saved = gr.HTML(elem_id="ms-saved")
            with gr.Accordion("The same from the command line and in Python", open=False, elem_id="ms-code"):
                shell = gr.Code(
                    language="shell", label="Command", interactive=False, elem_id="ms-shell", wrap_lines=True, lines=2,
                    max_lines=8,
                )  # fmt: skip
                lines = gr.Code(
                    language="python", label="Python", interactive=False, elem_id="ms-python", wrap_lines=True, lines=6,
                    max_lines=20,
                )  # fmt: skip

    wished = [
        photo, which, anyway, board, onset, apex, hold, offset, decay, model, size, fps, noise, head, blink, style,
        seed,
    ]  # fmt: skip

    def show(label: str, *values: Any) -> Iterator[Any]:
        """The apex as soon as it is there, then the clip."""
        wish = wish_of(*values)
        out = studio.desk.out_of(wish, _typed(label))
        shown = studio.desk.apex(wish)
        told = [text for text in shown.warnings if not text.startswith("face: ")]  # which the verdict has said
        lines = wish.command(out), wish.python(out), view.message("; ".join(told), "note")
        yield view.stage(shown, waiting=True), *lines
        yield view.stage(studio.desk.clip(wish)), *lines

    def redraw(*values: Any) -> str:
        given = dict(zip(_WISHED, values, strict=True)) | {"photo": Path("-"), "aus": ""}
        return view.curve_svg(Wish(**given))

    def look(path: str, chosen: str, all_the_same: bool) -> Any:
        found = face.intake(Path(path), str(chosen), anyway=all_the_same)
        numbers = [("largest face", "largest"), *((f"number {i}", str(i)) for i in range(1, found.faces + 1))]
        plain = found if not all_the_same else face.intake(Path(path), str(chosen))
        lowest = {str(code): ends for code, ends in found.lowest.items()}  # JSON has no other keys
        return (
            view.intake_card(found), gr.update(choices=numbers, visible=found.faces > 1),
            gr.update(visible=not plain.usable), gr.update(lowest=lowest), "",
        )  # fmt: skip

    def take_rendered(event: gr.EventData) -> Any:
        chosen = photos[int(event.value)]
        return str(chosen), view.faces(photos, str(chosen)), None, "largest", False, ""

    def take_photo(upload: str | None) -> Any:
        if not upload:
            return (*[gr.skip() for _ in range(5)],)
        kept = face.keep_photo(studio.folder, upload)
        return str(kept), view.faces(photos), "largest", False, ""

    def take_preset(state: tuple[str, int], event: gr.EventData) -> Any:
        name, turn = state
        if event.index == "again":
            turn += 1
        else:
            name, turn = event.value, 0
        return (face.preset(name, turn) if name else ""), (name or state[0], turn)

    def dragged(event: gr.EventData) -> Any:
        order = ("onset", "apex", "offset")
        return tuple(event.value if event.index == n else gr.skip() for n in order)

    def keep(label: str, *values: Any) -> Any:
        wish = wish_of(*values)
        out = studio.desk.save(wish, _typed(label))
        return view.message(
            f"Saved: {out / 'clips' / 'syn0000000' / 'clip.mp4'}, with frames, flow and provenance beside it."
        )

    looked: dict[str, Any] = {
        "fn": guarded(5, look), "inputs": [photo, which, anyway], "outputs": [verdict, which, anyway, board, message],
        **_CALLS,
    }  # fmt: skip
    made: dict[str, Any] = {
        "fn": guarded(4, show), "inputs": [name, *wished], "outputs": [stage, shell, lines, message], **_CALLS,
    }  # fmt: skip
    gallery.select(guarded(6, take_rendered), None, [photo, gallery, drop, which, anyway, message], **_CALLS)
    drop.upload(guarded(5, take_photo), drop, [photo, gallery, which, anyway, message], **_CALLS)
    gr.on([photo.change, which.input, anyway.input], **looked).then(**made)
    chips.select(take_preset, emotion, [board, emotion], **_CALLS).then(**made)
    curve.select(dragged, None, [onset, apex, offset], **_CALLS)
    gr.on([onset.change, apex.change, hold.change, offset.change, decay.change], redraw, wished, curve, **_CALLS)
    numbers: list[Any] = wished[4:]
    rest = [component.change for component in numbers]
    gr.on([board.input, *rest], **made)
    name.change(**made)
    save.click(guarded(1, keep), [name, *wished], saved, **_CALLS | {"show_progress": "minimal"})
    load = gr.context.Context.root_block.load  # type: ignore[union-attr]
    load(**looked).then(**made)


# ---------------------------------------------------------------- corpus


def _corpus_tab(studio: Studio, corpus: str) -> None:
    opened, wanted, marked = gr.State(""), gr.State([]), gr.State([])
    at, shown_clip = gr.State(1), gr.State(-1)
    with gr.Row():
        folder = gr.Textbox(
            corpus, label="Folder", placeholder="a corpus or a prepared database", scale=6, min_width=220,
            elem_id="ms-folder", info="What prepare, render or generate wrote.",
        )  # fmt: skip
        go = gr.Button("Open", variant="primary", scale=1, min_width=100, elem_id="ms-open", elem_classes="ms-beside")
    message = gr.HTML(elem_id="ms-corpus-message")
    summary = gr.HTML(elem_id="ms-summary")
    with gr.Group(visible=False) as inside, gr.Row():
        emotion = gr.Dropdown([ANY], value=ANY, label="Emotion or class", min_width=130, elem_id="ms-emotion")
        au = gr.Dropdown([ANY], value=ANY, label="Action unit", min_width=130, elem_id="ms-au")
        subject = gr.Dropdown([ANY], value=ANY, label="Person", min_width=130, elem_id="ms-subject")
        maker = gr.Dropdown([ANY], value=ANY, label="Generator", min_width=130, elem_id="ms-maker")
        verdict = gr.Dropdown(
                list(browse.VERDICTS), value=ANY, label="Verdict", min_width=130, elem_id="ms-verdicts",
            )  # fmt: skip
    with gr.Column(visible=False) as below:
        grid = gr.HTML(js_on_load=_js("list"), elem_id="ms-grid")
        with gr.Row():
            back = gr.Button("Back", min_width=80, elem_id="ms-back")
            pager = gr.HTML(elem_id="ms-pager")
            on = gr.Button("Next", min_width=80, elem_id="ms-next")
        detail = gr.HTML(js_on_load=_js("list"), elem_id="ms-clip")
        with gr.Accordion("Mark, check and export", open=True), gr.Column():
            with gr.Row():
                every = gr.Button("Mark all that match", min_width=130, elem_id="ms-mark-all")
                none = gr.Button("Take marks back", min_width=130)
                check = gr.Button("Check this page", min_width=130, elem_id="ms-check")
            with gr.Row():
                form = gr.Dropdown(
                    list(browse.FORM_NAMES), value=browse.SELECTION, label="Export the marked clips as", min_width=170,
                    info="corpus: a folder that points here; the others copy, for other programs.",
                )  # fmt: skip
                out = gr.Textbox(label="into the new folder", scale=3, min_width=200, elem_id="ms-export-to")
                export = gr.Button(
                    "Export", variant="primary", min_width=110, elem_id="ms-export", elem_classes="ms-beside"
                )
            told = gr.HTML(elem_id="ms-export-message")

    filters = [emotion, au, subject, maker, verdict]
    view_of = [grid, pager, at]

    def render(path: str, indices: list[int], marks: list[int], number: int) -> Any:
        library = studio.library(path)
        pages = library.pages(indices)
        number = min(max(number, 1), pages)
        cards = library.page(indices, number)
        marked_text = f", {len(marks):,} marked" if marks else ""
        text = f'<div class="ms-pager">{len(indices):,} clips{marked_text} · page {number:,} of {pages:,}</div>'
        return view.grid(cards, set(marks)), text, number

    def open_folder(path: str) -> Any:
        path = _typed(path)
        library = studio.library(path)
        facets = library.facets()

        def choices(found: dict[str, int]) -> Any:
            return gr.update(choices=[ANY, *((f"{name} ({n:,})", name) for name, n in found.items())], value=ANY)

        indices = library.select().tolist()
        return (
            path, indices, [], view.message(""), f'<div class="ms-card">{view.escape(library.summary())}</div>',
            choices(facets.emotions), choices(facets.aus), choices(facets.subjects), choices(facets.generators), ANY,
            gr.update(visible=True), gr.update(visible=True), *render(path, indices, [], 1), "", -1,
            str(Path(path + "-selection")), "",
        )  # fmt: skip

    def narrow(path: str, marks: list[int], *chosen: str) -> Any:
        names = ("emotion", "au", "subject", "generator", "verdict")
        indices = studio.library(path).select(**dict(zip(names, chosen, strict=True))).tolist()
        return (indices, *render(path, indices, marks, 1), "")

    def turn(step: int) -> Callable[..., Any]:
        return lambda path, indices, marks, number: render(path, indices, marks, number + step)

    def clicked(path: str, indices: list[int], marks: list[int], number: int, event: gr.EventData) -> Any:
        index = int(event.value)
        if event.index == "mark":
            marks = sorted(set(marks) ^ {index})
            return (marks, *render(path, indices, marks, number)[:2], gr.skip(), gr.skip(), "")
        return gr.skip(), gr.skip(), gr.skip(), view.clip_page(studio.library(path).clip(index)), index, ""

    def inspect(path: str, event: gr.EventData) -> Any:
        index = int(event.value)
        return view.clip_page(studio.library(path).clip(index)), index, ""

    def mark_all(path: str, indices: list[int], marks: list[int], number: int) -> Any:
        marks = sorted({*marks, *indices})
        return (marks, *render(path, indices, marks, number)[:2])

    def unmark(path: str, indices: list[int], _: list[int], number: int) -> Any:
        return ([], *render(path, indices, [], number)[:2])

    def run_checks(path: str, indices: list[int], marks: list[int], number: int, progress: Any = gr.Progress()) -> Any:
        library = studio.library(path)
        first = (number - 1) * browse.PER_PAGE
        part = indices[first : first + browse.PER_PAGE]
        found = library.check(part, lambda done, total: progress((done, total), desc="clips"))
        passed = sum(text == browse.PASSES for text in found.values())
        text = f"{passed} of {len(found)} clips pass the checks of identity, action units and artefacts."
        return (
            *render(path, indices, marks, number)[:2],
            view.message(text, "done" if passed == len(found) else "note"),
        )

    def hand_on(path: str, marks: list[int], kind: str, target: str) -> Any:
        return view.message(studio.library(path).export(marks, kind, target))

    opening: dict[str, Any] = {
        "fn": guarded(19, open_folder), "inputs": folder,
        "outputs": [
            opened, wanted, marked, told, summary, *filters, inside, below, *view_of, detail, shown_clip, out, message,
        ],
        **_CALLS,
    }  # fmt: skip
    gr.on([go.click, folder.submit], **opening)
    page_in = [opened, wanted, marked, at]
    for component in filters:
        component.input(guarded(5, narrow), [opened, marked, *filters], [wanted, *view_of, message], **_CALLS)
    back.click(turn(-1), page_in, view_of, **_CALLS)
    on.click(turn(1), page_in, view_of, **_CALLS)
    grid.select(guarded(6, clicked), page_in, [marked, grid, pager, detail, shown_clip, message], **_CALLS)
    detail.select(guarded(3, inspect), opened, [detail, shown_clip, message], **_CALLS)
    every.click(mark_all, page_in, [marked, grid, pager], **_CALLS)
    none.click(unmark, page_in, [marked, grid, pager], **_CALLS)
    check.click(guarded(3, run_checks), page_in, [grid, pager, told], **_CALLS | {"show_progress": "minimal"})
    export.click(guarded(1, hand_on), [opened, marked, form, out], told, **_CALLS | {"show_progress": "minimal"})
    if corpus:
        gr.context.Context.root_block.load(**opening)  # type: ignore[union-attr]


# ---------------------------------------------------------------- study


def _study_tab(studio: Studio) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            gr.HTML(
                '<div class="ms-card">Does synthetic data help on your database? Clips of others are made, '
                "recognizers learn with and without them, and everyone in the database is tested unseen.</div>"
            )
            name = gr.Textbox(
                "first", label="Name of the study", elem_id="ms-study-name", info="The same name goes on with it."
            )
            database = gr.Textbox(
                label="Prepared database", placeholder="folder that `mesynth prepare` wrote", elem_id="ms-database"
            )
            makers = gr.CheckboxGroup(
                [*face.models(), ("flow prior: flow images, no faces", study.FLOW_PRIOR)], value=["motion-prior"],
                label="Generators", info="What makes the synthetic clips; several are compared.",
            )  # fmt: skip
            readers = gr.Dropdown(
                study.recognizers(), value=["lda"], multiselect=True, label="Recognizers",
                info="lda is quick and reliable on few clips; networks take hours.",
            )  # fmt: skip
            ratios = gr.CheckboxGroup(
                [("0.5", 0.5), ("1", 1.0), ("2", 2.0), ("5", 5.0)], value=[0.5, 1.0, 2.0],
                label="Synthetic clips per real one",
                info="None at all is always run, to compare with.",
            )  # fmt: skip
            with gr.Accordion("How much", open=False):
                clips = gr.Number(
                    0, label="Clips of each generator", precision=0, minimum=0, elem_id="ms-clips",
                    info="0: as many as the largest ratio takes.",
                )  # fmt: skip
                people = gr.Number(
                    20, label="Rendered people", precision=0, minimum=1, elem_id="ms-people",
                    info="Faces that clips are made on, where no folder of pictures is given.",
                )  # fmt: skip
                faces = gr.Textbox(label="Folder of pictures instead", info="Of people who are not in the database.")
                seeds = gr.Number(
                    3,
                    label="Repetitions",
                    precision=0,
                    minimum=1,
                    info="Seeds: other draws, other weights.",
                    elem_id="ms-seeds",
                )
        with gr.Column(scale=7, min_width=320):
            with gr.Row():
                estimate = gr.Button("What will it take?", min_width=130, elem_id="ms-estimate")
                start = gr.Button("Start or go on", variant="primary", min_width=130, elem_id="ms-start")
                stop = gr.Button("Stop", variant="stop", min_width=100, elem_id="ms-stop")
            message = gr.HTML(elem_id="ms-study-message")
            progress = gr.HTML(view.study_state(study.State(study.IDLE)), elem_id="ms-progress")
            script = gr.Code(
                "# choose a database to see the commands", language="shell", label="Commands", interactive=False,
                elem_id="ms-commands", wrap_lines=True, lines=3, max_lines=24,
            )  # fmt: skip
    chosen = [name, database, makers, readers, ratios, clips, people, faces, seeds]

    def study_of(*values: Any) -> study.Study:
        title, real, generators, models, shares, count, persons, pictures, draws = values
        if not _typed(real):
            raise ConfigError("no database is named; give a folder that `mesynth prepare` wrote")
        if None in (count, persons, draws):
            raise ConfigError("a number is empty; give clips, people and repetitions")
        return study.Study(
            folder=study.study_folder(studio.folder, _typed(title)), database=Path(_typed(real)).expanduser(),
            generators=tuple(generators), recognizers=tuple(models), ratios=tuple(map(float, shares)), clips=int(count),
            people=int(persons), faces=_typed(pictures), seeds=int(draws),
        )  # fmt: skip

    def looked_at(*values: Any) -> Any:
        asked = study_of(*values)
        known = study.look_at(asked.database)
        return view.commands(asked.steps()), view.message(known.text(), "done")

    def reckon(*values: Any) -> Any:
        asked = study_of(*values)
        lines = view.commands(asked.steps())
        return lines, view.message(asked.estimate().text(), "done")

    def begin(*values: Any) -> Any:
        asked = study_of(*values)
        studio.runner.start(asked)
        return view.commands(asked.steps()), standing(values[0]), ""

    def end(title: str) -> Any:
        studio.runner.stop()
        return standing(title), ""

    def standing(title: str) -> str:
        try:
            folder = study.study_folder(studio.folder, _typed(title))
        except MesynthError:
            return view.study_state(study.State(study.IDLE))
        return view.study_state(studio.runner.state(folder), f"/study/{_typed(title)}")

    estimate.click(guarded(2, reckon), chosen, [script, message], **_CALLS | {"show_progress": "minimal"})
    start.click(guarded(3, begin), chosen, [script, progress, message], **_CALLS)
    stop.click(guarded(2, end), name, [progress, message], **_CALLS | {"show_progress": "minimal"})
    for component in (database, makers, readers, ratios, clips, people, seeds):
        event = component.submit if component is database else component.input
        event(guarded(2, looked_at), chosen, [script, message], **_CALLS)
    name.change(standing, name, progress, **_CALLS)
    gr.Timer(1.5).tick(standing, name, progress, **_CALLS)


# ---------------------------------------------------------------- page and server


def _typed(text: str | None) -> str:
    """What stands in a field; one that was never shown holds None."""
    return (text or "").strip()


def _js(what: str) -> str:
    return f"mesynthStudio.{what}(element, props, trigger, watch)"


def theme() -> Any:
    """Gradio's plain theme with this machine's own fonts: nothing is fetched."""
    return gr.themes.Base(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", radius_size="lg", font=_FONTS,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950", block_shadow="none",
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
    )  # fmt: skip


def build(studio: Studio, corpus: str = "") -> gr.Blocks:
    """The page with its three tabs; ``corpus``: a folder that the second opens with."""
    photos = face.rendered_faces(studio.folder)
    with gr.Blocks(title="mesynth studio", analytics_enabled=False, fill_width=False) as page:
        gr.HTML(view.head())
        with gr.Tabs(selected="corpus" if corpus else "face"):
            with gr.Tab("Face", id="face"):
                _face_tab(studio, photos)
            with gr.Tab("Corpus", id="corpus"):
                _corpus_tab(studio, corpus)
            with gr.Tab("Study", id="study"):
                _study_tab(studio)
    page.queue(api_open=False)
    return page


class Guard:
    """ASGI middleware: tells the browser to fetch nothing from elsewhere."""

    HEADERS: ClassVar = {
        "Content-Security-Policy": _CSP, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
    }  # fmt: skip

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def say(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.HEADERS)
            await send(message)

        await self.app(scope, receive, say)


class Due:
    """How many answers are due; ``some`` is set while there are any."""

    def __init__(self) -> None:
        self.count = 0
        self.some = asyncio.Event()

    def more(self, n: int) -> None:
        """So many more, or fewer."""
        self.count = max(self.count + n, 0)
        if self.count:
            self.some.set()
        else:
            self.some.clear()


class OpenStream:
    """ASGI middleware: a page's stream of answers stays open until the page goes.

    Gradio ends the stream whenever no answer is due. A browser that sends its next event at that moment has the event's
    number before it hears of the end, opens no new stream, and waits forever: a photo that was dropped did nothing,
    once in some thirty times. So the end is not passed on; what is answered later follows in the same response.
    """

    _END, _ANSWER = b'"close_stream"', b'"process_completed"'
    _SESSION = re.compile(rb'"session_hash"\s*:\s*"([^"]+)"')

    def __init__(self, app: Any) -> None:
        self.app = app
        self.due: dict[bytes, Due] = {}
        """Of every session that is open: what is still to be answered."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path.endswith("/queue/join"):
            await self.app(scope, self._joined(receive), send)
        elif path.endswith("/queue/data") and (session := parse_qs(scope["query_string"]).get(b"session_hash")):
            await self._stream(session[0], scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _joined(self, receive: Any) -> Any:
        body = bytearray()

        async def hear() -> Any:
            heard = await receive()
            body.extend(heard.get("body", b""))
            if not heard.get("more_body"):
                for session in self._SESSION.findall(body)[-1:]:
                    self.due.setdefault(session, Due()).more(1)
                body.clear()
            return heard

        return hear

    async def _stream(self, session: bytes, scope: Any, receive: Any, send: Any) -> None:
        due = self.due.setdefault(session, Due())
        begun = ended = False

        async def say(message: Any) -> None:
            nonlocal begun, ended
            body = message.get("body", b"")
            if message["type"] == "http.response.start":
                if begun:
                    return
                begun = True
            elif self._END in body:
                ended = True
                return
            elif ended and not message.get("more_body"):
                return
            due.more(-body.count(self._ANSWER))
            await send(message)

        try:
            while True:
                ended = False
                await self.app(scope, receive, say)
                if not ended:
                    return
                if not await _first(due.some.wait(), receive()):
                    return
                receive = _reading(receive)
        finally:
            self.due.pop(session, None)


def _reading(receive: Any) -> Any:
    """``receive`` of a request whose body was read before, for one who begins by reading it."""
    read = False

    async def hear() -> Any:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return hear


async def _first(one: Any, other: Any) -> bool:
    """Whether the first of two ends before the other does; the later one is given up."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()


def application(studio: Studio, corpus: str = "") -> FastAPI:
    """The page as a web application that answers on this machine alone."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/study/{name}")
    def result(name: str) -> Any:
        with suppress(MesynthError):
            found = study.study_folder(studio.folder, name) / study.RESULT / study.PAGE
            if found.is_file():
                return FileResponse(found, media_type="text/html")
        return PlainTextResponse("no result of that study yet", status_code=404)

    app.add_middleware(Guard)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other name leads here
    app.add_middleware(OpenStream)
    style, script = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("studio.css", "studio.js"))
    mounted: FastAPI = gr.mount_gradio_app(
        app, build(studio, corpus), path="", server_name=HOST, allowed_paths=[], max_file_size=face.MAX_UPLOAD,
        show_error=True, ssr_mode=False, enable_monitoring=False, theme=theme(), footer_links=[],
        css=style,
        head=f"<style>{style}</style><script>{script}</script>",  # css= reaches no further than the tabs
    )  # fmt: skip
    return mounted


def bound(port: int) -> socket.socket:
    """A socket of the loopback address; port 0: any that is free.

    Raises:
        ConfigError: the port is taken, not allowed, or none.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port} is none; choose one from 1024 to 65535, or 0 for any that is free")
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((HOST, port))
        made.listen(64)
    except OSError as error:
        made.close()
        why = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not allowed"}.get(
            error.errno or 0, f"fails ({error.strerror})"
        )
        raise ConfigError(f"port {port} {why}; choose another with --port, or 0 for any that is free") from None
    return made


def serve(
    folder: Path, *, port: int = 7860, corpus: str = "", browser: bool = True, told: Callable[[str], object] = print
) -> None:
    """Show the page until Ctrl-C.

    Raises:
        ConfigError: see :func:`bound`. ManifestError: ``corpus`` is no corpus.
        RunFolderError, OSError: ``folder`` cannot be written.
    """
    if corpus:
        Library(corpus)
    listening = bound(port)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        studio = Studio(folder)
        app = application(studio, corpus)
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        threading.Thread(target=studio.warm, name="warm", daemon=True).start()
        told(f"mesynth studio: {address} (Ctrl-C ends it; files go to {folder})")
        if browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            studio.runner.stop()
    finally:
        listening.close()
