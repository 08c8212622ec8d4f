"""What a study writes: its page, tables and figures for a paper, a methods paragraph, the BibTeX of what was used.

Every number comes from the ablation's result, from the measures' CSV or from the manifests; nothing is computed twice.
"""

from __future__ import annotations

import csv
import os
import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mesynth import __version__
from mesynth.commandline import duration
from mesynth.config import read_yaml
from mesynth.generators.registry import find_model
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import write_bytes, write_text
from recognizer import ablation_page, sources
from recognizer.ablation_result import POOLED, AblationResult, Summary
from recognizer.report import ablation_columns, ablation_table, added, fold_table, form, many, p_text, tally
from recognizer.study_plan import FLOW_PRIOR, Expected, Maker, Plan

PAGE = "report.html"
FIGURES, TABLES, METHODS, BIBLIOGRAPHY = "figures", "tables", "methods", "references.bib"
Table = tuple[list[str], list[list[str]]]
_MEASURED = ("kid", "fid", "fid_at_n", "lpips_onset_apex", "lpips_between_clips")


def yaml_text(plain: Mapping[str, Any]) -> str:
    """A recipe."""
    return str(yaml.safe_dump(dict(plain), sort_keys=False))


def write(out: Path, plan: Plan, result: AblationResult, steps: Mapping[str, Mapping[str, Any]]) -> str:
    """All files of a finished study; returns the first sentence of its page."""
    words = answer(result)
    measured = measures_table(plan, out)
    made = generators_table(plan, out)
    cited = references(plan, out)
    text = methods(plan, result, out, list(cited))
    tables = {
        "conditions": (ablation_table(result)[1:], f"UF1 of every condition. {ablation_table(result)[0]}."),
        "comparisons": (comparisons_table(result), _COMPARED.format(n=result.comparisons)),
        "generators": (made, "Generators of the synthetic clips, and whom they learned from."),
        "measures": (measured, "Synthetic clips against the real ones."),
        "folds": (fold_table(result), "Fold by fold; these intervals are described, not tested."),
    }
    files = [
        (f"{TABLES}/{name}.tex", caption.partition(".")[0]) for name, ((_, rows), caption) in tables.items() if rows
    ]
    for name, ((header, rows), caption) in tables.items():
        if rows:
            write_text(out / TABLES / f"{name}.tex", latex_table(header, rows, caption, f"tab:{name}"))
    pictures = {
        "amount": ablation_page.amount_panels(result.summary),
        "subjects": ablation_page.subject_panels(result.summary),
    }
    for name, panels in pictures.items():
        for kind in ("pdf", "svg") if panels else ():
            write_bytes(out / FIGURES / f"{name}.{kind}", ablation_page.drawn(panels, result.summary, kind))
            files.append((f"{FIGURES}/{name}.{kind}", f"UF1 against {'the clips added' if name == 'amount' else name}"))
    write_text(out / f"{METHODS}.md", cite(text, "[@{}]") + "\n")
    write_text(out / f"{METHODS}.tex", cite(latex(text), r"~\cite{{{}}}") + "\n")
    write_text(out / BIBLIOGRAPHY, "\n".join(bibtex(key, entry) for key, entry in cited.items()))
    files += [
        (f"{METHODS}.md", "this paragraph"),
        (f"{METHODS}.tex", "the same in LaTeX"),
        (BIBLIOGRAPHY, "what it cites"),
    ]
    write_text(out / PAGE, page(out, plan, result, steps, words, made, measured, cite(text, ""), files))
    return words


# ---------------------------------------------------------------- the answer


def headline(result: AblationResult) -> Summary | None:
    """The comparison that answers, fixed beforehand: first recognizer and mode, all real subjects (or the most that
    were asked for), all generators pooled, at :func:`recognizer.ablation_page.shown_amount`."""
    amount = ablation_page.shown_amount(result.summary)
    found = [s for s in result.summary if (s.arm, s.source, s.amount) == ("synthetic", POOLED, amount)]
    return min(found, key=lambda s: (s.train_subjects != 0, -s.train_subjects)) if found else None


def answer(result: AblationResult) -> str:
    """One sentence: help, harm, or not shown, with the paired interval."""
    s = headline(result)
    if s is None or s.difference is None:
        return "Synthetic data were not asked to help here: no amount above 0 was run."
    d = s.difference
    few = f" with {many(s.train_subjects, 'real subject')} to learn from" if s.train_subjects else ""
    change = f"UF1 {d.value:+z.3f} [{d.low:+z.3f}, {d.high:+z.3f}]{few}, paired by subject"
    if s.verdict.startswith("gain"):
        return f"Synthetic data help here: {change}."
    if s.verdict.startswith("loss"):
        return f"Synthetic data harm here: {change}."
    return f"That synthetic data help here is not shown: {change}."


def detail(result: AblationResult) -> str:
    """What :func:`answer` is about."""
    s = headline(result)
    if s is None or s.difference is None:
        return ""
    without = s.uf1.value - s.difference.value
    more = ablation_columns(result.summary)
    words = [s.model, *([s.mode] if "mode" in more else [])]
    words += [f"{s.train_subjects or 'all'} real subjects"] if "train_subjects" in more else []
    words += ["all generators together"] if "source" in more else []
    return (
        f"{', '.join(words)}, {s.amount_text}: UF1 {without:.3f} without synthetic clips, "
        f"{s.uf1.value:.3f} with them (95 % interval of a paired bootstrap over {many(result.n_subjects, 'subject')}; "
        f"corrected p {p_text(s.p_holm or 0.0)})."
    )


# ---------------------------------------------------------------- tables


_COMPARED = "UF1 with added clips against none, paired by subject; {n} comparisons, corrected together (Holm)."


def comparisons_table(result: AblationResult) -> Table:
    """A row a comparison with nothing added."""
    more = ablation_columns(result.summary)
    rows = []
    for s in result.summary:
        d = s.difference
        if d is None or s.p_holm is None:
            continue
        kinds = [str(getattr(s, name) or ("all" if name == "train_subjects" else "-")) for name in more]
        rows.append(
            [s.model, added(s), *kinds, f"{s.uf1.value - d.value:.3f}", f"{s.uf1.value:.3f}",
             f"{d.value:+z.3f}", f"[{d.low:+z.3f}, {d.high:+z.3f}]", p_text(d.p), p_text(s.p_holm)]
        )  # fmt: skip
    shown = ["subjects" if name == "train_subjects" else name for name in more]
    return ["model", "added", *shown, "without", "with", "difference", "95 % interval", "p", "corrected p"], rows


def generators_table(plan: Plan, out: Path) -> Table:
    """A row a generator, and one for each corpus that was there already."""
    rows = []
    for maker in plan.makers:
        place = out / ("corpora" if maker.flow else "estimated") / maker.name
        parts = [place / f"group-{g}" for g in range(len(maker.groups))] or [place]
        n = sum(len(Manifest.read(part)) for part in parts)
        what = "fine-tuned by " + maker.given if maker.recipe is not None else maker.given
        facts = [find_model(name).facts for name in _models(maker, out) if name != FLOW_PRIOR]
        seen = sorted({len(f.subjects_seen) for f in facts}) or [0]
        span = str(seen[0]) if len(seen) == 1 else f"{seen[0]} to {seen[-1]}"
        weights = ", ".join(f.weights_sha256[:12] for f in facts if getattr(f, "weights_sha256", ""))
        rows.append([maker.name, what, str(len(maker.groups) or 1), f"{n:,}", span, weights or "-"])
    for path in plan.config.study.synthetic:
        clips = Manifest.read(path)
        names = sorted({str(n) for n in clips.column("provenance.generator")})
        seen_by = len({s for seen in clips.subjects_seen() for s in seen})
        rows.append([Path(path).resolve().name, ", ".join(names), "1", f"{len(clips):,}", str(seen_by), "-"])
    return ["generator", "what it is", "trained", "clips", "subjects seen", "weights (sha256)"], rows


def _models(maker: Maker, out: Path) -> list[str]:
    if maker.recipe is None:
        return list(maker.models)
    return [str(out / "generators" / maker.name / f"group-{g}") for g in range(len(maker.groups))]


def measures_table(plan: Plan, out: Path) -> Table:
    """Distances between distributions, LPIPS and the measures' other headlines, as `mesynth measure` wrote them: a row
    a measure, a column a generator; of a generator with groups the least and the greatest value over them."""
    made = [maker for maker in plan.makers if not maker.flow]
    rows: list[list[str]] = []
    for file in measure_files(out):
        with file.open(newline="", encoding="utf-8") as text:
            found = [row for row in csv.DictReader(text) if row["key"] in _MEASURED or row["headline"] == "1"]
        corpora = list(dict.fromkeys(row["corpus"] for row in found))  # in the order in which they were named
        parts = [max(len(maker.groups), 1) for maker in made]
        places = [corpora[sum(parts[:i]) : sum(parts[: i + 1])] for i in range(len(parts))]
        for name in dict.fromkeys(row["measure"] for row in found):
            here = {row["corpus"]: row for row in found if row["measure"] == name}
            one = next(iter(here.values()))
            cells = [_spread([here[c] for c in place if c in here]) for place in places]
            rows.append([name + (f" ({one['unit']})" if one["unit"] else ""), _beside(here.values()), *cells])
    return ["measure", "real clips", *(maker.name for maker in made)], rows


def _beside(rows: Iterable[Mapping[str, str]]) -> str:
    """What the real clips themselves come to, where that is one number for all corpora."""
    found = {part.strip() for row in rows for part in row["beside"].split(";") if part.strip().startswith("real")}
    return _figure(found.pop().rpartition("=")[2]) if len(found) == 1 else "-"


def _spread(rows: Sequence[Mapping[str, str]]) -> str:
    values = [float(row["value"]) for row in rows if row["value"]]
    if not values:
        return "not measured"
    if len(rows) > 1:
        return f"{_figure(min(values))} to {_figure(max(values))}"
    row = rows[0]
    span = f" [{_figure(row['low'])}, {_figure(row['high'])}]" if row["low"] and row["high"] else ""
    return _figure(values[0]) + span


def measure_files(out: Path) -> list[Path]:
    """The CSV of every database's measures."""
    return sorted([*out.glob("measures/measures.csv"), *out.glob("measures/*/measures.csv")])


def _measured_kinds(out: Path) -> dict[str, str]:
    """Of kid, fid and lpips what was measured, and what it is called: a stand-in has a name of its own."""
    kinds: dict[str, str] = {}
    for file in measure_files(out):
        with file.open(newline="", encoding="utf-8") as text:
            for row in csv.DictReader(text):
                if row["value"] and row["key"] in _MEASURED:
                    kinds.setdefault(row["key"].partition("_")[0], row["measure"].partition(" ")[0])
    return kinds


def _figure(value: float | str) -> str:
    return f"{float(value):.3g}"


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "→": r"$\rightarrow$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def latex(text: str) -> str:
    r"""Plain text as LaTeX.

    >>> latex("motion_gan, 95 % [-0.01, +0.02], p < .001")
    'motion\\_gan, 95 \\% [-0.01, +0.02], p $<$ .001'
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


_NUMBER = re.compile(r"^[+-]?[\d.,]+$")


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """A booktabs table (needs ``\\usepackage{booktabs}``); columns of numbers stand to the right."""
    numeric = [all(_NUMBER.match(row[c]) or row[c] in ("-", "") for row in rows) for c in range(len(header))]
    lines = [
        "% \\usepackage{booktabs}", "\\begin{table}", "\\centering", f"\\caption{{{latex(caption)}}}",
        f"\\label{{{label}}}", f"\\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}", "\\toprule",
        " & ".join(latex(name) for name in header) + r" \\", "\\midrule",
        # An empty group before a bracket: after \\ it would be read as a distance.
        *(("{}" if row[0].startswith("[") else "") + " & ".join(_minus(latex(cell)) for cell in row) + r" \\"
          for row in rows),
        "\\bottomrule", "\\end{tabular}", "\\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _minus(text: str) -> str:
    return re.sub(r"(?<![\w.])-(?=\.?\d)", "$-$", text)


# ---------------------------------------------------------------- methods


def methods(plan: Plan, result: AblationResult, out: Path, cited: Sequence[str]) -> str:
    """The paragraph that a reviewer asks for; what it cites stands as ``<<key>>``."""
    config, ablation, clips = plan.config, plan.ablation, plan.clips
    known = _called()

    def ref(*names: str) -> str:
        keys = [known[name] for name in names if name in known and known[name] in cited]
        return "".join(f"<<{key}>>" for key in dict.fromkeys(keys))

    databases = [str(name) for name in np.unique(clips.databases)]
    classes = ", ".join(f"{n} {name}" for name, n in zip(clips.classes, clips.class_counts.tolist(), strict=True))
    named = ", ".join(name + ref(name) for name in databases)
    manifests = [Manifest.read(path) for path in plan.real]
    hashes = ", ".join(m.hash()[:12] for m in manifests)
    held = sorted({len(fold.held_out) for fold in plan.folds})
    amounts = list(ablation.counts or ablation.ratios)
    tried = sources.tried_before(manifests, result.config_hash)
    whom = many(held[0], "subject") if len(held) == 1 else f"{held[0]} to {held[-1]} subjects"
    kind = ablation.protocol.kind
    asked = f"{_listed([n for n in amounts if n])} {'of each class' if ablation.counts else 'per real training clip'}"
    controls = f"; controls: {', '.join(ablation.controls)}" if ablation.controls else ""
    pool = result.sources.get(POOLED, sum(result.sources.values()))
    sentences = [
        [
            f"We tested on {many(len(clips), 'clip')} of {many(result.n_subjects, 'subject')} of {named} ({classes}; ",
            f"manifest {hashes}) under the protocol {kind}{ref(kind)}: {many(len(plan.folds), 'fold')}, each holding ",
            f"out {whom}.",
        ],
        [
            f"Recognizers were {', '.join(m + ref(m) for m in ablation.models)}, each trained with ",
            f"{many(len(ablation.seeds), 'seed')} ({', '.join(map(str, ablation.seeds))}); synthetic clips were mixed ",
            f"in by {', '.join(ablation.modes)}: {asked}{controls}.",
        ],
        [_made_by(maker, out, ref) for maker in plan.makers if maker.given == FLOW_PRIOR][:1],
        *([_made_by(maker, out, ref)] for maker in plan.makers if maker.given != FLOW_PRIOR),
        [f"The pool held {many(pool, 'synthetic clip')}."],
        ["A fold learned from no clip that shows, or whose generator saw, a subject it tests on."],
        [
            f"UF1{ref('uf1')} is over all test clips, the mean over seeds, with 95 % intervals of a bootstrap over ",
            f"subjects ({ablation.resamples} draws); differences from no synthetic clips are paired by subject, ",
            f"tested by permutation and corrected (Holm) for {many(result.comparisons, 'comparison')}.",
        ],
        [
            f"Before this ablation, {many(tried, 'other configuration was', 'other configurations were')} finished on ",
            "these clips (ledger).",
        ],
        [_measures_words(config.study.measures.clips, out, ref)],
        [
            f"Software: mesynth{ref('mesynth')} {__version__}, Python {platform.python_version()}, {_versions()}; ",
            f"settings {result.config_hash[:12]} (sha256).",
        ],
    ]
    parts = ["".join(sentence) for sentence in sentences]
    return " ".join(part for part in parts if part)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _made_by(maker: Maker, out: Path, ref: Any) -> str:
    if maker.given == FLOW_PRIOR:
        return "The flow prior learned from nobody."
    facts = [find_model(name).facts for name in _models(maker, out)]
    family = facts[0].name
    counts = sorted({len(f.subjects_seen) for f in facts})
    seen = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seen = f"{seen} {form(counts[-1], 'subject', 'subjects')}"
    who = f"Generator {maker.name} ({family}{ref(family)})"
    if maker.recipe is not None:
        hashes = ", ".join(f.weights_sha256[:12] for f in facts)
        return (
            f"{who} was fine-tuned {many(len(facts), 'time')} ({maker.recipe.run.images:,} images each), each time "
            f"without one group of {_sizes(maker)} of those subjects, and learned from {seen} (weights {hashes})."
        )
    if counts == [0]:
        return f"Generator {maker.name} learned from nobody."
    groups = f", in {len(facts)} groups" if maker.groups else ""
    return f"{who} had learned from {seen}, none of whom its folds test on{groups}."


def _sizes(maker: Maker) -> str:
    sizes = sorted({len(group) for group in maker.groups})
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _measures_words(clips: int, out: Path, ref: Any) -> str:
    said = [f"{name}{ref(kind)}" for kind, name in _measured_kinds(out).items()]
    return f"Up to {clips} clips a side were compared by {', '.join(said)}." if said else ""


def _versions() -> str:
    found = []
    for name in ("torch", "numpy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # installed by other means
            continue
    return ", ".join(found)


def cite(text: str, form_of: str) -> str:
    """``<<key>>`` as a citation; the marks survive :func:`latex`.

    >>> cite("CASME II<<yan2014casme2>>", "[@{}]"), cite(latex("x<<a>>"), r"~\\cite{{{}}}")
    ('CASME II[@yan2014casme2]', 'x~\\\\cite{a}')
    """
    return re.sub(r"(?:<<|\$<\$\$<\$)(\w+)(?:>>|\$>\$\$>\$)", lambda m: form_of.format(m[1]) if form_of else "", text)


# ---------------------------------------------------------------- references


def known_references() -> dict[str, dict[str, Any]]:
    """Every entry by its key."""
    return dict(read_yaml(resources.files("recognizer").joinpath("references.yaml").read_text(encoding="utf-8")))


def _called() -> dict[str, str]:
    return {name: key for key, entry in known_references().items() for name in entry["for"]}


def references(plan: Plan, out: Path) -> dict[str, dict[str, Any]]:
    """Entries of what the study used: databases, protocol, recognizers, families of generators, measures."""
    used = {"uf1", "mesynth", *_measured_kinds(out), plan.ablation.protocol.kind, *plan.ablation.models}
    used |= {str(name) for name in np.unique(plan.clips.databases)}
    for maker in plan.makers:
        if maker.recipe is not None:
            used.add(maker.recipe.task)
        elif not maker.flow or maker.given != FLOW_PRIOR:
            used |= {find_model(model).name for model in maker.models}
    called = _called()
    keys = {called[name] for name in used if name in called}
    return {key: entry for key, entry in known_references().items() if key in keys}


def bibtex(key: str, entry: Mapping[str, Any]) -> str:
    """An entry of a .bib file.

    >>> print(bibtex("a", {"type": "misc", "for": [], "title": "T", "year": 2020}))
    @misc{a,
      title = {T},
      year = {2020},
    }
    <BLANKLINE>
    """
    fields = {name: value for name, value in entry.items() if name not in ("for", "type")}
    if key == "mesynth":
        fields["note"] = f"Version {__version__}"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{entry['type']}{{{key},", *lines, "}", ""])


# ---------------------------------------------------------------- before it is run


def expected_lines(found: Sequence[Expected]) -> list[str]:
    """A forecast for people: a line a command with its hours and bytes, then what they add up to."""
    lines = []
    for one in found:
        if one.done:
            said = "finished"
        else:
            time = "time not measured" if one.seconds is None else f"about {duration(one.seconds)}"
            size = "" if one.bytes is None else f", {_bytes(one.bytes)}"
            said = f"{time}{size}" + (f" (by {one.how})" if one.how else "")
        lines += [one.step.text, f"    {said}"]
    known = [one for one in found if one.seconds is not None]
    without = [one.step.name for one in found if one.seconds is None]
    hours = sum(one.seconds or 0.0 for one in known) / 3600
    beside = f" without {', '.join(without)}" if without else ""
    total = _bytes(sum(one.bytes or 0 for one in found))
    return [
        *lines,
        f"{many(len(found), 'command')}, about {hours:.2g} hours on this machine{beside}, and {total} on disk",
    ]


def expected_plain(found: Sequence[Expected]) -> dict[str, Any]:
    """The same for programs."""
    steps = [
        {"name": e.step.name, "kind": e.step.kind, "command": e.step.text, "finished": e.done, "seconds": e.seconds,
         "bytes": e.bytes, "measured": e.how}
        for e in found
    ]  # fmt: skip
    hours = sum(e.seconds or 0.0 for e in found) / 3600
    return {"steps": steps, "hours": hours, "bytes": sum(e.bytes or 0 for e in found)}


def _bytes(size: int) -> str:
    for unit, of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= of:
            return f"{size / of:.3g} {unit}"
    return f"{size} bytes"


# ---------------------------------------------------------------- the page


def page(
    out: Path, plan: Plan, result: AblationResult, steps: Mapping[str, Mapping[str, Any]], words: str, made: Table,
    measured: Table, text: str, files: Sequence[tuple[str, str]],
) -> str:  # fmt: skip
    """The ablation's page between the answer and what goes into the paper: one look, one owner."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("recognizer").joinpath("study_page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    own = template.render(
        answer=words, detail=detail(result), tally=tally(result), generators=made,
        measures=measured, picked=any(maker.groups for maker in plan.makers), methods=text, files=files,
        measure_pages=[os.path.relpath(file.parent / "report.html", out) for file in measure_files(out)],
        steps=list(steps.values()), further=_further(plan, out),
    )  # fmt: skip
    first, last = own.split("<!-- the ablation -->")
    whole = ablation_page.page(result)
    head, main, body = re.split(r"(<main[^>]*>)", whole, maxsplit=1)
    body = re.sub(r"^\s*<h1>.*?</h1>\s*<p class=\"lead\">.*?</p>", "", body, count=1, flags=re.S)  # said above
    inside, end = body.rsplit("</main>", 1)
    return f"{head}{main}{first}{inside}{last}</main>{end}"


def _further(plan: Plan, out: Path) -> list[tuple[str, str]]:
    again = shlex.join(["recognizer", "study", str(out / "study.yaml"), "--out", f"{out}-more"])
    real = plan.real[0]
    return [
        ("More seeds, another recognizer, other ratios: change a key; generators are trained again in the new folder.",
         again.replace(" --out", " 'seeds=[0,1,2,3,4,5,6,7,8,9]' --out")),
        ("With how few real people does it pay?",
         shlex.join(["recognizer", "ablate", "ablation/few_subjects", "--real", str(real),
                     *(word for path in plan.corpora for word in ("--synthetic", str(path))), "--out", f"{out}-few"])),
        ("Is every file of this study as it was written?", shlex.join(["mesynth", "verify", str(out)])),
    ]  # fmt: skip
