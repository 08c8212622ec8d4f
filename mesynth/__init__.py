"""Synthesis of micro-expression sequences with controlled action units, exact flow and provenance.

Everything for a day's work is here and is imported when it is first used::

    import mesynth

    mesynth.generate("photo.jpg", aus="12=B,L4=0.2", out="smile", model="motion_gan")
    real = mesynth.prepare("casme2", "/data/CASME2", "prepared/casme2")
    mesynth.measure(real, "corpus", "quality")

What is not in ``__all__`` is private and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesynth.core import lazy_names

if TYPE_CHECKING:
    from mesynth.api import (
        compare,
        drive,
        fid,
        filter_corpus,
        generate,
        load_corpus,
        load_generator,
        measure,
        plan,
        prepare,
        render,
        train,
    )
    from mesynth.config import list_recipes
    from mesynth.core.errors import LeakError, MesynthError
    from mesynth.core.facs import format_vector, parse_annotation, parse_request
    from mesynth.core.profiles import Profile
    from mesynth.core.types import AUVector, Clip, Flow, Sample
    from mesynth.corpus.exports.run import export
    from mesynth.corpus.verify import verify
    from mesynth.data import ClipDataset, clip_loader
    from mesynth.metrics.fid import kid
    from mesynth.motion.prior import Face
    from mesynth.preprocess.augment import augment
    from mesynth.store.generator_folder import shipped_models
    from mesynth.store.hub import push_to_hub
    from mesynth.store.manifest import Manifest

__version__ = "0.2.0"
__all__ = [
    "AUVector",
    "Clip",
    "ClipDataset",
    "Face",
    "Flow",
    "LeakError",
    "Manifest",
    "MesynthError",
    "Profile",
    "Sample",
    "__version__",
    "augment",
    "clip_loader",
    "compare",
    "drive",
    "export",
    "fid",
    "filter_corpus",
    "format_vector",
    "generate",
    "kid",
    "list_recipes",
    "load_corpus",
    "load_generator",
    "measure",
    "parse_annotation",
    "parse_request",
    "plan",
    "prepare",
    "push_to_hub",
    "register_database",
    "register_generator",
    "register_metric",
    "render",
    "shipped_models",
    "train",
    "verify",
]
# Where each name lives: "module", or "module:attribute".
_HOME = {
    "AUVector": "core.types",
    "Clip": "core.types",
    "ClipDataset": "data",
    "Face": "motion.prior",
    "Flow": "core.types",
    "LeakError": "core.errors",
    "Manifest": "store.manifest",
    "MesynthError": "core.errors",
    "Profile": "core.profiles",
    "Sample": "core.types",
    "augment": "preprocess.augment",
    "clip_loader": "data",
    "compare": "api",
    "drive": "api",
    "export": "corpus.exports.run",
    "fid": "api",
    "filter_corpus": "api",
    "format_vector": "core.facs",
    "generate": "api",
    "kid": "metrics.fid",
    "list_recipes": "config",
    "load_corpus": "api",
    "load_generator": "api",
    "measure": "api",
    "parse_annotation": "core.facs",
    "parse_request": "core.facs",
    "plan": "api",
    "prepare": "api",
    "push_to_hub": "store.hub",
    "register_database": "datasets.registry:register",
    "register_generator": "store.generator_folder:FAMILIES.register",
    "register_metric": "metrics.base:register",
    "render": "api",
    "shipped_models": "store.generator_folder",
    "train": "api",
    "verify": "corpus.verify",
}
__getattr__, __dir__ = lazy_names(__name__, _HOME)
