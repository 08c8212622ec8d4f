"""Forms of export by name."""

from __future__ import annotations

from mesynth.corpus.exports.casme2 import Casme2Form
from mesynth.corpus.exports.flow_folders import FlowFoldersForm
from mesynth.corpus.exports.flow_npy import FlowNpyForm
from mesynth.corpus.exports.form import Form
from mesynth.corpus.exports.frames import FramesForm
from mesynth.corpus.exports.huggingface import HuggingFaceForm
from mesynth.corpus.exports.meb import MebForm
from mesynth.corpus.exports.previews import PreviewsForm
from mesynth.corpus.exports.samm import SammForm
from mesynth.corpus.exports.webdataset import WebDatasetForm
from mesynth.errors import ConfigError

FORMS: dict[str, type[Form]] = {
    form.name: form
    for form in (
        FlowFoldersForm, Casme2Form, SammForm, WebDatasetForm, HuggingFaceForm, FramesForm, PreviewsForm, FlowNpyForm,
        MebForm,
    )
}  # fmt: skip


def require_form(name: str) -> type[Form]:
    """The form of that name. Raises ConfigError on an unknown one."""
    if name not in FORMS:
        raise ConfigError(f"form '{name}' is unknown; choose from {', '.join(FORMS)}")
    return FORMS[name]
