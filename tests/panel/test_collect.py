"""Answers are checked like anything a stranger wrote, and counted as by hand."""

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.panel import collect as room
from mesynth.panel.agreement import alpha
from mesynth.panel.collect import AnswersError, answer, collect, page, panel_rows, read_all, read_answers, read_key
from mesynth.store.manifest import Manifest
from tests.panel.conftest import Panel
from tests.panel.corpora import answers, save, truth

Item = dict[str, Any]


def of_role(panel: Panel, role: str) -> list[str]:
    return [name for name, item in panel.key["items"].items() if item["role"] == role]


def found(panel: Panel, tmp_path: Path, *files: dict[str, Any], **options: Any) -> room.Results:
    return collect(panel.key, read_all([save(tmp_path, one) for one in files], panel.key), **options)


def nothing(name: str, item: Item) -> list[dict[str, Any]]:
    return []


def test_coders_who_see_everything(panel: Panel, tmp_path: Path) -> None:
    rated = {"real": 6, "rendered": 3, "synthetic": 2}
    results = found(
        panel, tmp_path, *(answers(panel.key, c, naturalness=lambda n, i: rated[i["kind"]]) for c in ("anna", "ben"))
    )
    assert [(s["kind"], s["clips"], s["naturalness"]["value"], s["f1"]["value"]) for s in results.sources] == [
        ("real", 6, 6.0, 1.0), ("rendered", 6, 3.0, 1.0), ("synthetic", 6, 2.0, 1.0),
    ]  # fmt: skip
    assert [s["called_real"]["value"] for s in results.sources] == [1, 0, 0]
    for name in ("presence", "naturalness", "naturalness_interval", "verdict", "side"):
        assert results.agreement[name]["value"] == 1, name
    assert results.agreement["intensity"]["value"] is None  # every letter is C
    assert results.accuracy["balanced"]["value"] == 1
    assert results.pairs[0]["presence"]["value"] == 1
    assert [r["presence"]["value"] for r in results.repeats] == [1, 1]
    assert all(au["f1"]["value"] in (1, None) for au in results.per_au)
    assert "can tell real clips from others: 100 % [100, 100]" in answer(results)


def test_coders_who_guess_and_see_nothing(panel: Panel, tmp_path: Path) -> None:
    lazy = answers(panel.key, "anna", aus=nothing, verdict=lambda n, i: "real")
    results = found(panel, tmp_path, lazy, answers(panel.key, "ben", aus=nothing, verdict=lambda n, i: "real"))
    assert results.accuracy["balanced"]["value"] == 0.5
    assert results.accuracy["real"]["value"] == 1
    assert results.accuracy["others"]["value"] == 0
    assert [s["f1"]["value"] for s in results.sources] == [0, 0, 0]
    assert results.agreement["presence"]["value"] is None  # nobody named anything
    assert "were not shown to tell" in answer(results)


def test_figures_by_hand(panel: Panel, tmp_path: Path) -> None:
    """One coder names AU 25 too on one clip, another leaves half open: counts, means and alpha as by hand."""
    clips = of_role(panel, "clip")
    extra = {"au": 25, "side": "B", "intensity": None, "onset": None, "apex": None, "offset": None}
    anna = answers(
        panel.key, "anna", aus=lambda n, i: [*truth(i), extra] if n == clips[0] else truth(i),
        naturalness=lambda n, i: 1 + clips.index(n) % 7 if n in clips else 7,
    )  # fmt: skip
    ben = answers(
        panel.key, "ben", aus=lambda n, i: None if n in clips[9:] else truth(i),
        naturalness=lambda n, i: None if n in clips[9:] else 4, verdict=lambda n, i: None,
    )  # fmt: skip
    results = found(panel, tmp_path, anna, ben)
    first = panel.key["items"][clips[0]]["kind"]
    for source in results.sources:
        mine = [c for c in clips if panel.key["items"][c]["kind"] == source["kind"]]
        units = sum(len(truth(panel.key["items"][c])) for c in mine)
        units += sum(len(truth(panel.key["items"][c])) for c in mine if c not in clips[9:])
        wrong = int(source["kind"] == first)
        assert source["f1"]["value"] == pytest.approx(2 * units / (2 * units + wrong))
        natural = [(1 + clips.index(c) % 7 + 4) / 2 if c not in clips[9:] else 1 + clips.index(c) % 7 for c in mine]
        assert source["naturalness"]["value"] == pytest.approx(np.mean(natural))
        low, high = source["naturalness"]["low"], source["naturalness"]["high"]
        assert low <= source["naturalness"]["value"] <= high
    ratings = np.full((2, 18), np.nan)
    ratings[0] = [1 + i % 7 for i in range(18)]
    ratings[1, :9] = 4
    for name, metric in (("naturalness", "ordinal"), ("naturalness_interval", "interval")):
        assert results.agreement[name]["value"] == pytest.approx(alpha(ratings, metric))
    assert results.agreement["naturalness"]["n"] == 9
    assert results.agreement["verdict"]["value"] is None
    assert results.accuracy["balanced"]["value"] == 1  # anna alone answered
    au = next(a for a in results.per_au if a["au"] == 25)
    assert au["named"] == 1
    assert "ben left the action units of 9 of 18 clips open" in results.notes


def test_practice_counts_nowhere_and_repeats_only_for_oneself(panel: Panel, tmp_path: Path) -> None:
    def spoiled(name: str, item: Item) -> int:
        return 7 if item["role"] != "clip" else 2

    whole = answers(panel.key, "anna", naturalness=spoiled)
    results = found(panel, tmp_path, whole, answers(panel.key, "ben", naturalness=spoiled))
    assert [s["naturalness"]["value"] for s in results.sources] == [2, 2, 2]
    assert [r["naturalness"]["value"] for r in results.repeats] == [5, 5]
    assert [r["clips"] for r in results.repeats] == [4, 4]
    assert sum(s["clips"] for s in results.sources) == 18


def test_sides_and_letters(panel: Panel, tmp_path: Path) -> None:
    def unit(side: str, letter: str | None) -> dict[str, Any]:
        return {"au": 12, "side": side, "intensity": letter, "onset": 0, "apex": 2, "offset": 5}

    sides = [("L", "A"), ("R", "B"), ("B", "C"), ("L", "D")]
    clips = of_role(panel, "clip")

    def coder(name: str, shift: int) -> dict[str, Any]:
        return answers(
            panel.key, name,
            aus=lambda n, i: [unit(*sides[(clips.index(n) if n in clips else 0) % 4])] if shift == 0 else
            [unit("L", "A"), unit("R", "E")],
        )  # fmt: skip

    results = found(panel, tmp_path, coder("anna", 0), coder("ben", 1))
    letters, both = np.array([[1, 2, 3, 4], [5, 5, 5, 5]]), np.array([[1, 2, 0, 1], [0, 0, 0, 0]])
    index = [i % 4 for i in range(18)]
    assert results.agreement["intensity"]["value"] == pytest.approx(alpha(letters[:, index].astype(float), "ordinal"))
    assert results.agreement["side"]["value"] == pytest.approx(alpha(both[:, index].astype(float)))


def test_unknown_action_units_count_neither_way(panel: Panel, tmp_path: Path) -> None:
    key = copy.deepcopy(panel.key)
    for item in key["items"].values():
        if item["kind"] == "real":
            item["present"] = [[-1, -1]] * len(item["present"])
    results = collect(key, read_all([save(tmp_path, answers(panel.key, "anna"))], key))
    f1 = {source["kind"]: source["f1"] for source in results.sources}
    assert f1["real"]["value"] is None
    assert f1["synthetic"]["value"] == 1


@pytest.mark.parametrize("bootstrap", room.BOOTSTRAPS)
def test_intervals_draw_subjects_or_clips(panel: Panel, tmp_path: Path, bootstrap: str) -> None:
    """Ratings go with the subject: whole subjects drawn anew give a wider interval than clips do."""
    one = answers(panel.key, "anna", naturalness=lambda n, i: 1 + 2 * int(i["subject"][-1]))
    results = found(panel, tmp_path, one, bootstrap=bootstrap)
    again = collect(panel.key, read_all([save(tmp_path, one)], panel.key), bootstrap=bootstrap)
    assert results.to_dict() == again.to_dict()
    real = results.sources[0]["naturalness"]
    assert real["low"] < real["value"] < real["high"]
    groups = {i["subject"] for i in panel.key["items"].values() if i["role"] == "clip"}
    assert any(f"draw {len(groups) if bootstrap == 'subject' else 18} {bootstrap}s anew" in n for n in results.notes)


def test_an_unknown_bootstrap_is_refused(panel: Panel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bootstrap 'coder' is unknown; choose from subject, clip"):
        found(panel, tmp_path, answers(panel.key, "anna"), bootstrap="coder")


# ------------------------------------------------------------------- rows and files


def test_rows_stand_in_the_report(panel: Panel, tmp_path: Path) -> None:
    from mesynth.api import _judged

    one = answers(panel.key, "anna", naturalness=lambda n, i: {"real": 6, "rendered": 3, "synthetic": 2}[i["kind"]])
    files = read_all([save(tmp_path, one), save(tmp_path, answers(panel.key, "ben"))], panel.key)
    results = collect(panel.key, files)
    results.write(tmp_path / "out", files, panel.key)
    rows = panel_rows(tmp_path / "out")
    assert set(rows) == {m.hash() for m in panel.corpora.values()}
    synthetic = {row.key: row for row in rows[panel.corpora["synthetic"].hash()]}
    assert set(synthetic) == {
        "panel_naturalness", "panel_called_real", "panel_f1", "panel_alpha", "panel_accuracy",
    }  # fmt: skip
    assert synthetic["panel_naturalness"].value == 3
    assert synthetic["panel_naturalness"].reference == {"real": 5}
    assert synthetic["panel_accuracy"].reference == {"chance": 0.5}
    assert all(row.n > 0 for row in synthetic.values())
    assert rows == panel_rows(tmp_path / "out" / "panel.json")
    joined = _judged(tmp_path / "out", {"mine": panel.corpora["synthetic"]})
    assert [row.key for row in joined["mine"]] == list(synthetic)
    (tmp_path / "elsewhere").mkdir()
    other = panel.corpora["synthetic"][:3]
    with pytest.raises(ConfigError, match="showed none of mine; give the results of a panel made of these corpora"):
        _judged(tmp_path / "out", {"mine": other})


def test_measure_has_the_panels_rows(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the other measures' rows, in the report of the corpus that was shown; another corpus has none."""
    import mesynth
    from mesynth.metrics.base import MeasureRow
    from mesynth.metrics.report import Comparison, MeasureReport

    files = read_all([save(tmp_path, answers(panel.key, "anna"))], panel.key)
    collect(panel.key, files).write(tmp_path / "out", files, panel.key)
    report = MeasureReport(rows=(MeasureRow(group="count", name="clips", value=1.0),), corpora={}, settings={})

    def measured(real: Manifest, synthetic: dict[str, Manifest], *_: Any, **__: Any) -> Comparison:
        empty: dict[str, Any] = dict.fromkeys(synthetic, ())
        return Comparison(real=real, synthetic=synthetic, reports=dict.fromkeys(synthetic, report), clips=empty)

    monkeypatch.setattr("mesynth.metrics.measure.measure_all", measured)
    corpora = {"shown": panel.corpora["synthetic"], "other": panel.corpora["synthetic"][:4]}
    found = mesynth.measure(panel.corpora["real"], corpora, clips=4, panel=tmp_path / "out")
    assert [r.key for r in found.reports["other"].rows] == ["clips"]
    assert found.reports["shown"].rows[0].key == "clips"
    assert found.reports["shown"].row("panel_f1").value == 1
    assert found.reports["shown"].row("panel_naturalness").group == "coders' panel"
    assert "naturalness by coders" in found.to_csv()
    assert "taken for filmed by coders" in found.to_markdown()


def test_files_of_the_results(panel: Panel, tmp_path: Path) -> None:
    anna = answers(panel.key, "anna", aus=lambda n, i: [] if i["kind"] == "real" else truth(i))
    files = read_all([save(tmp_path, anna)], panel.key)
    results = collect(panel.key, files)
    written = results.write(tmp_path / "out", files, panel.key)
    assert [f.name for f in written] == ["panel.json", "panel.csv", "answers.csv", "panel.html"]
    assert json.loads(written[0].read_text())["format"] == room.RESULT_FORMAT
    lines = list(csv.DictReader(written[1].open()))
    assert {line["corpus"] for line in lines} == {"real", "rendered", "synthetic"}
    told = list(csv.DictReader(written[2].open()))
    assert len({line["item"] for line in told}) == len(panel.key["items"])
    assert {line["au"] for line in told if line["kind"] == "real"} == {"none"}
    assert {line["intensity"] for line in told if line["kind"] != "real"} == {"C"}
    assert all(line["clip_id"] == panel.key["items"][line["item"]]["clip_id"] for line in told)


def test_the_page_answers_first_and_escapes(panel: Panel, tmp_path: Path) -> None:
    key = copy.deepcopy(panel.key)
    key["notes"] = ["<script>alert(1)</script>"]
    results = collect(key, read_all([save(tmp_path, answers(panel.key, "anna"))], key))
    text = page(results)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.index("can tell real clips from others") < text.index("<h2>") < text.index("<table>")
    assert "one coder: nothing can be said of agreement between coders" in text
    assert "http" not in text


# ------------------------------------------------------------------- untrusted files

Change = Callable[[dict[str, Any], list[str]], object]


def first(data: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return data["items"][names[0]]


def unit(data: dict[str, Any], names: list[str], **values: Any) -> None:
    one = {"au": 12, "side": "B", "intensity": "A", "onset": None, "apex": None, "offset": None}
    first(data, names)["aus"] = [one | values]


WRONG: dict[str, tuple[Change, str]] = {
    "format": (lambda d, n: d.update(format="other"), "format 'other' is not mesynth-panel-1-answers"),
    "no format": (lambda d, n: d.pop("format"), "format None is not"),
    "panel": (lambda d, n: d.update(panel="0" * 16), "the answers are to panel '0000000000000000', the key is of"),
    "coder": (lambda d, n: d.update(coder="=cmd()"), "coder '=cmd()' is no name"),
    "coder type": (lambda d, n: d.update(coder=["a"]), "is no name"),
    "long coder": (lambda d, n: d.update(coder="a" * 500), "is no name"),
    "no coder": (lambda d, n: d.pop("coder"), "coder 'None' is no name"),
    "items": (lambda d, n: d.update(items=[1]), "items are [1], not clips by name"),
    "unknown clip": (lambda d, n: d["items"].update({"../../x": {}}), "clip '../../x' is not in the panel"),
    "no answer": (lambda d, n: d["items"].update({n[0]: 5}), "5 is no answer"),
    "question": (lambda d, n: first(d, n).update(smile=1), "'smile' is no question of the panel"),
    "verdict": (lambda d, n: first(d, n).update(verdict="maybe"), "verdict 'maybe' is neither real nor synthetic"),
    "verdict type": (lambda d, n: first(d, n).update(verdict=["real"]), "verdict ['real'] is neither"),
    "seconds": (lambda d, n: first(d, n).update(seconds=-1), "seconds -1 is no time"),
    "seconds text": (lambda d, n: first(d, n).update(seconds="x"), "seconds 'x' is no time"),
    "naturalness": (lambda d, n: first(d, n).update(naturalness=8), "naturalness 8 is no whole number from 1 to 7"),
    "half": (lambda d, n: first(d, n).update(naturalness=3.5), "naturalness 3.5 is no whole number"),
    "true": (lambda d, n: first(d, n).update(naturalness=True), "naturalness True is no whole number"),
    "aus": (lambda d, n: first(d, n).update(aus="12"), "action units '12' are no list"),
    "au entry": (lambda d, n: first(d, n).update(aus=[12]), "12 is no action unit"),
    "wrong au": (lambda d, n: unit(d, n, au=99), "AU 99 is not in the panel; it has 1, 2, 4"),
    "au text": (lambda d, n: unit(d, n, au="12"), "AU '12' is not in the panel"),
    "au true": (lambda d, n: unit(d, n, au=True), "AU True is not in the panel"),
    "side": (lambda d, n: unit(d, n, side="X"), "side 'X' of AU 12 is none of L, R and B (both)"),
    "side list": (lambda d, n: unit(d, n, side=[]), "side [] of AU 12"),
    "midline": (lambda d, n: unit(d, n, au=25, side="L"), "AU 25 (lips part) has no sides"),
    "letter": (lambda d, n: unit(d, n, intensity="F"), "intensity 'F' of AU 12 is none of A, B, C, D, E"),
    "letter dict": (lambda d, n: unit(d, n, intensity={}), "intensity {} of AU 12"),
    "frame": (lambda d, n: unit(d, n, apex=10), "apex of AU 12 10 is no whole number from 0 to 9"),
    "order": (lambda d, n: unit(d, n, onset=5, offset=3), "onset, apex and offset of AU 12 are out of order: 5, 3"),
    "extra": (lambda d, n: unit(d, n, size=3), "'size' is nothing that is coded of an action unit"),
    "twice": (
        lambda d, n: first(d, n).update(aus=[{"au": 12, "side": "B"}, {"au": 12, "side": "L"}]),
        "AU 12 is coded twice on one side",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_answers_that_cannot_be_are_one_line(panel: Panel, tmp_path: Path, name: str) -> None:
    change, says = WRONG[name]
    data = answers(panel.key, "anna")
    change(data, of_role(panel, "clip"))
    path = save(tmp_path, data, "anna")
    with pytest.raises(AnswersError) as error:
        read_answers(path, panel.key)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 500 + len(str(path))
    result = CliRunner().invoke(
        main, ["panel", "--collect", str(panel.folder), str(path), "--out", str(tmp_path / "o")]
    )
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is torn or no JSON"),
        ('{"format": "mesynth-panel-1-answers", "items": {', "it is torn or no JSON"),
        ("[" * 100_000, "it is torn or no JSON"),
        ("[1, 2]", "it holds a list"),
        ("null", "it holds a NoneType"),
        ("\ud800", "it is torn or no JSON"),
        ('{"a": ' + "9" * 5000 + "}", "it is torn or no JSON"),
    ],
)
def test_torn_files_are_one_line(panel: Panel, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "torn.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(AnswersError) as error:
        read_answers(path, panel.key)
    assert says in str(error.value)


def test_missing_and_huge_files(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnswersError, match="cannot be read"):
        read_answers(tmp_path / "none.json", panel.key)
    with pytest.raises(AnswersError, match="cannot be read"):
        read_answers(tmp_path, panel.key)
    monkeypatch.setattr(room, "MOST_BYTES", 100)
    with pytest.raises(AnswersError, match="more than 100 bytes, which no file of answers has"):
        read_answers(save(tmp_path, answers(panel.key, "anna")), panel.key)


def test_one_coder_has_one_file(panel: Panel, tmp_path: Path) -> None:
    one = save(tmp_path, answers(panel.key, "anna"))
    two = save(tmp_path, answers(panel.key, "Anna"), "later")
    with pytest.raises(AnswersError, match=r"coder 'Anna' is in .*answers-anna.json, too; give the latest file"):
        read_all([one, two], panel.key)
    with pytest.raises(AnswersError, match="no answers were given"):
        read_all([], panel.key)


def test_only_those_who_were_asked(panel: Panel, tmp_path: Path) -> None:
    key = panel.key | {"coders": ["anna", "ben"]}
    assert read_answers(save(tmp_path, answers(panel.key, "ben")), key).coder == "ben"
    with pytest.raises(AnswersError, match="coder 'eve' is none of anna, ben"):
        read_answers(save(tmp_path, answers(panel.key, "eve")), key)


def test_what_was_left_open_is_missing(panel: Panel, tmp_path: Path) -> None:
    data = answers(panel.key, "anna")
    data["items"] = {of_role(panel, "clip")[0]: {"aus": None, "naturalness": 3, "verdict": None}}
    results = collect(panel.key, read_all([save(tmp_path, data)], panel.key))
    assert results.coders[0]["clips"] == 0
    assert results.accuracy["balanced"]["value"] is None
    assert "Naturalness of 7:" in answer(results)
    page(results)
    data["items"] = {}
    empty = collect(panel.key, read_all([save(tmp_path, data)], panel.key))
    assert answer(empty) == "One coder answered nothing that can be counted yet."
    page(empty)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda k: k.pop("items"), "is damaged (KeyError at 'items')"),
        (lambda k: k.update(format="x"), "has the format 'x', not mesynth-panel-1"),
        (lambda k: k.update(items=[]), "is damaged"),
        (lambda k: next(iter(k["items"].values())).update(kind="alien"), "is damaged"),
        (lambda k: next(iter(k["items"].values())).update(present=[1]), "is damaged"),
        (lambda k: next(iter(k["items"].values())).update(corpus="gone"), "is damaged"),
        (lambda k: k.update(coders=["<b>"]), "is damaged"),
        (lambda k: k.update(fps="fast"), "is damaged"),
    ],
)
def test_a_damaged_key_is_one_line(panel: Panel, tmp_path: Path, change: Callable[[Any], object], says: str) -> None:
    key = copy.deepcopy(panel.key)
    change(key)
    (tmp_path / "key.json").write_text(json.dumps(key))
    with pytest.raises(AnswersError) as error:
        read_key(tmp_path)
    assert says in str(error.value)
    with pytest.raises(AnswersError, match=r"no key.json in .*for-coders; give the folder that"):
        read_key(panel.folder / "for-coders")


_RESULT = '{"format": "mesynth-panel-1-results", "rows": {"a": %s}, "corpora": {"a": {"hash": "h"}}}'


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", _RESULT % '[{"x": 1}]', _RESULT % '[{"group": "g", "name": "n", "value": "x"}]', _RESULT % "3",
     (_RESULT % "[]").replace('"hash"', '"hush"')],
)  # fmt: skip
def test_damaged_results_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "panel.json").write_text(text)
    with pytest.raises(MesynthError, match=r"is damaged|is no result"):
        panel_rows(tmp_path)
    with pytest.raises(MesynthError, match="collect the answers first"):
        panel_rows(tmp_path / "nowhere")


def test_the_command_counts(panel: Panel, tmp_path: Path) -> None:
    files = [str(save(tmp_path, answers(panel.key, name))) for name in ("anna", "ben", "chris")]
    ask = ["panel", "--collect", str(panel.folder), *files, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("3 coders can tell real clips from others: 100 %")
    assert (tmp_path / "out" / "panel.html").is_file()
    plain = CliRunner().invoke(main, [*ask, "--json"])
    assert json.loads(plain.stdout)["agreement"]["presence"]["value"] == 1
