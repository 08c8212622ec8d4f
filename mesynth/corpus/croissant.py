"""Croissant metadata (MLCommons Croissant format specification 1.0) of a corpus: files with hashes, records, terms."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from mesynth import __version__
from mesynth.core.process import counted
from mesynth.corpus.card import CardConfig, CorpusFacts, licence_id
from mesynth.store.manifest import FILE_NAME, SCHEMA, Manifest
from mesynth.store.run_folder import write_beside
from mesynth.store.stage import Progress

CROISSANT_FILE = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_SPDX = {
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}
_BLOCK = 1 << 20
_PLAIN = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, **{name: f"cr:{name}" for name in _PLAIN},
}  # fmt: skip
"""The JSON-LD context that the specification recommends."""
_DESCRIPTIONS = {
    "clip_id": "Key of the clip: database, subject, clip, onset.",
    "database": "Where the face comes from.",
    "subject": "Person shown; unique within the database.",
    "onset": "Frame number of the onset.",
    "apex": "Frame number of the apex.",
    "offset": "Frame number of the offset.",
    "apex_index": "Apex, counted from 0 in the stored frames.",
    "emotion": "Emotion word.",
    "label": "Class of the MEGC 2019 composite: negative, positive, surprise, or empty.",
    "objective_class": "Objective class I to VII (Davison et al. 2018).",
    "au_text": "Action units as asked for or annotated.",
    "au_intensity": "Intensity in [0,1] per action unit and side (subject's left, right).",
    "au_present": "1 present, 0 absent, -1 undecided, per action unit and side.",
}


def write_croissant(
    manifest: Manifest,
    facts: CorpusFacts,
    folder: Path | None = None,
    config: CardConfig = CardConfig(),
    *,
    progress: Progress | None = None,
) -> Path:
    """Write croissant.json into ``folder`` (the corpus'); file names in it are relative to that folder.

    Reads every file once for its sha256. Raises OSError when a file vanishes meanwhile.
    """
    folder = folder or manifest.root
    record = croissant(manifest, facts, folder, config, progress=progress)
    write_beside(folder / CROISSANT_FILE, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    return folder / CROISSANT_FILE


def croissant(
    manifest: Manifest, facts: CorpusFacts, folder: Path, config: CardConfig, *, progress: Progress | None = None
) -> dict[str, Any]:
    """The metadata as a plain mapping, see :func:`write_croissant`."""
    files = data_files(manifest)
    objects = []
    for file in counted(files, len(files), progress):
        objects.append(_file_object(manifest.root, file, folder))
    made = datetime.fromtimestamp((manifest.root / FILE_NAME).stat().st_mtime, UTC).date().isoformat()
    people = sum(len(found) for found in facts.people.values())
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": "mesynth-" + manifest.hash()[:12],
        "alternateName": config.title,
        "description": f"{facts.clips} facial micro-expression clips of {people} people with action units, optical "
        "flow and provenance. Synthetic or rendered where `kind` says so. Not for identifying people.",
        "license": _licences(facts),
        "url": config.url or f"urn:sha256:{manifest.hash()}",
        "creator": {"@type": "sc:Organization", "name": config.creator or f"mesynth {__version__} (creator not named)"},
        "datePublished": made,
        "version": "1.0.0",
        "keywords": ["micro-expression", "facial action coding system", "optical flow", "synthetic data"],
        "citeAs": f"{config.title}. Made with mesynth {__version__}, corpus {manifest.hash()[:12]}.",
        "isLiveDataset": False,
        **_responsible(facts),
        "distribution": objects,
        "recordSet": [_records(manifest)],
    }


def data_files(manifest: Manifest) -> list[str]:
    """The manifest and every shard it points into, relative to its folder."""
    shards: set[str] = set()
    for name in ("frames", "flow"):
        column = manifest.table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # an empty table
            continue
        shards.update(value for value in column.field("shard").unique().to_pylist() if value)
    return [FILE_NAME, *sorted(shards)]


def _file_object(root: Path, file: str, folder: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(root / file, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return {
        "@type": "cr:FileObject",
        "@id": file,
        "name": file,
        "contentUrl": os.path.relpath(root / file, folder).replace(os.sep, "/"),
        "contentSize": f"{(root / file).stat().st_size} B",
        "encodingFormat": "application/x-parquet" if file.endswith(".parquet") else "application/x-tar",
        "sha256": digest.hexdigest(),
    }


def _licences(facts: CorpusFacts) -> list[Any]:
    known = licence_id(facts)
    if known in _SPDX:
        return [_SPDX[known]]
    return [{"@type": "sc:CreativeWork", "name": name} for name in sorted(facts.of("licence"))]


def _responsible(facts: CorpusFacts) -> dict[str, Any]:
    """The part of the responsible-AI vocabulary that a corpus can fill truthfully."""
    return {
        "rai:dataCollection": "Generated: " + ", ".join(sorted(name for name in facts.of("generator") if name))
        if any(facts.of("generator"))
        else "Prepared from recordings",
        "rai:dataUseCases": "Training and testing of micro-expression recognition, spotting and action unit "
        "estimation under protocols that keep held-out subjects out.",
        "rai:dataLimitations": "Action units are those asked for; no FACS coder checked them. Nobody felt what "
        "synthetic clips show.",
        "rai:dataBiases": "People are those of the source faces, as unbalanced as there.",
        "rai:personalSensitiveInformation": "Faces. Not for identifying people.",
    }


def _records(manifest: Manifest) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "clips",
        "name": "clips",
        "description": "One record a clip, from manifest.parquet.",
        "key": {"@id": "clips/clip_id"},
        "field": [_field(column) for column in SCHEMA if not pa.types.is_struct(column.type)],
    }


def _field(column: pa.Field) -> dict[str, Any]:
    repeated = pa.types.is_list(column.type)
    value = column.type.value_type if repeated else column.type
    kind = (
        "sc:Boolean" if pa.types.is_boolean(value) else "sc:Float" if pa.types.is_floating(value)
        else "sc:Integer" if pa.types.is_integer(value) else "sc:Text"
    )  # fmt: skip
    return {
        "@type": "cr:Field",
        "@id": f"clips/{column.name}",
        "name": column.name,
        "description": _DESCRIPTIONS.get(column.name, column.name.replace("_", " ")),
        "dataType": kind,
        **({"repeated": True} if repeated else {}),
        "source": {"fileObject": {"@id": FILE_NAME}, "extract": {"column": column.name}},
    }
