"""Class schemes: every word of every database, the classes papers report, and what a scheme leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.emotions import CLASS_OF, CLASSES_3, SCHEMES, class_names, label, plain_emotion
from mesynth.core.errors import MesynthError

# the databases' own words and published counts (clips that a workbook or paper counts)
WORDS = {
    "casme": {"Disgust": 88, "Repression": 40, "Tense": 28, "Surprise": 20, "Sadness": 6, "Happiness": 5, "Contempt": 3,
              "Fear": 2},
    "casme2": {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2},
    "samm": {"Anger": 57, "Happiness": 26, "Other": 26, "Surprise": 15, "Contempt": 12, "Disgust": 9, "Fear": 8,
             "Sadness": 6},
    "smic": {"negative": 70, "positive": 51, "surprise": 43},
    "casme3": {"disgust": 250, "surprise": 187, "others": 158, "Others": 3, "fear": 86, "anger": 64, "sad": 57,
               "happy": 55},
    "mmew": {"happiness": 36, "anger": 8, "surprise": 89, "disgust": 72, "fear": 16, "sadness": 13, "others": 66},
}  # fmt: skip
SOME_WORD = st.sampled_from(sorted({word for words in WORDS.values() for word in words}))
DATABASES = st.sampled_from([*WORDS, "dfme", "4dme", "casme_sq", "rendered-7", ""])


def counted(database: str, scheme: str) -> dict[str, int]:
    """Class -> clips of a database by its published words; "" where the scheme leaves a word out."""
    found: dict[str, int] = {}
    for word, n in WORDS[database].items():
        name = label(word, scheme, database)
        found[name] = found.get(name, 0) + n
    return found


@pytest.mark.parametrize(
    ("database", "scheme", "classes"),
    [
        ("casme", "3", {"negative": 139, "positive": 5, "surprise": 20, "": 28}),
        ("casme2", "3", {"negative": 99, "positive": 32, "surprise": 25, "": 99}),
        ("samm", "3", {"negative": 92, "positive": 26, "surprise": 15, "": 26}),  # MEGC 2019: 133 clips
        ("smic", "3", {"negative": 70, "positive": 51, "surprise": 43}),
        ("casme3", "3", {"negative": 457, "positive": 55, "surprise": 187, "": 161}),
        ("casme3", "4", {"negative": 457, "positive": 55, "surprise": 187, "others": 161}),
        ("casme2", "4", {"negative": 99, "positive": 32, "surprise": 25, "others": 99}),
        ("casme", "4", {"negative": 139, "positive": 5, "surprise": 20, "others": 28}),
        # 246 clips of CASME II in five classes
        ("casme2", "5", {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "": 9}),
        # 136 clips of SAMM in five
        ("samm", "5", {"anger": 57, "happiness": 26, "others": 26, "surprise": 15, "contempt": 12, "": 23}),
        ("casme2", "7", WORDS["casme2"]),
        ("casme3", "7", {"disgust": 250, "surprise": 187, "others": 161, "fear": 86, "anger": 64, "sadness": 57,
                         "happiness": 55}),
        ("mmew", "7", WORDS["mmew"]),
        ("samm", "7", {"anger": 57, "happiness": 26, "": 26, "surprise": 15, "contempt": 12, "disgust": 9, "fear": 8,
                       "sadness": 6}),
    ],
)  # fmt: skip
def test_published_words_fold_into_published_classes(database: str, scheme: str, classes: dict[str, int]) -> None:
    assert counted(database, scheme) == classes


def test_the_composites_classes() -> None:
    assert class_names("3") == CLASSES_3 == ("negative", "positive", "surprise")
    assert {CLASS_OF[word] for word in CLASS_OF} == set(CLASSES_3)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Happy", "happiness"), ("sad", "sadness"), (" Other ", "others"), ("Others", "others"), ("Tension", "tense"),
        ("Surprise+Positive", "surprise+positive"), ("Negative，Repression", "negative+repression"),
        ("Positive / Surprise", "positive+surprise"), ("SUR", "surprise"), ("disgust & anger", "disgust+anger"),
        ("", ""), ("+", ""),
    ],
)  # fmt: skip
def test_spelling(text: str, plain: str) -> None:
    assert plain_emotion(text) == plain


@pytest.mark.parametrize(
    ("emotion", "scheme", "name"),
    [
        ("surprise+positive", "3", ""),  # two classes: none
        ("negative+repression", "3", "negative"),  # both negative
        ("disgust+anger", "3", "negative"),
        ("disgust+anger", "7", ""),
        ("disgust+others", "4", ""),
        ("boredom", "3", ""),
        ("boredom", "4", "others"),
        ("", "4", ""),
        ("", "3", ""),
    ],
)
def test_several_emotions_and_unknown_words(emotion: str, scheme: str, name: str) -> None:
    assert label(emotion, scheme) == name


@given(SOME_WORD, DATABASES, st.sampled_from(SCHEMES))
def test_a_label_is_one_of_the_schemes_classes_or_none(word: str, database: str, scheme: str) -> None:
    names = class_names(scheme, database)
    assert len(set(names)) == len(names)
    assert label(word, scheme, database) in {"", *names}


@given(SOME_WORD, DATABASES, st.sampled_from(SCHEMES), st.sampled_from([str.upper, str.title, str.lower]))
def test_case_and_blanks_do_not_matter(word: str, database: str, scheme: str, change) -> None:
    assert label(f"  {change(word)} ", scheme, database) == label(word, scheme, database)


@given(st.text(max_size=20))
def test_spelling_settles_at_once(text: str) -> None:
    assert plain_emotion(plain_emotion(text)) == plain_emotion(text)


@given(st.text(max_size=20), st.sampled_from(SCHEMES), DATABASES)
def test_any_text_has_a_class_or_none(text: str, scheme: str, database: str) -> None:
    assert label(text, scheme, database) in {"", *class_names(scheme, database)}


@given(st.lists(SOME_WORD, min_size=1, max_size=4), st.sampled_from(SCHEMES), DATABASES)
def test_several_emotions_have_a_class_only_where_all_agree(words: list[str], scheme: str, database: str) -> None:
    single = {label(word, scheme, database) for word in words}
    expected = single.pop() if len(single) == 1 else ""
    assert label("+".join(words), scheme, database) == expected


@given(SOME_WORD)
def test_scheme_4_refines_scheme_3(word: str) -> None:
    assert label(word, "4") == (label(word, "3") or "others")


@given(SOME_WORD, st.sampled_from(SCHEMES))
def test_rendered_folders_have_the_classes_of_casme2(word: str, scheme: str) -> None:
    assert label(word, scheme, "rendered-12") == label(word, scheme, "casme2")


@pytest.mark.parametrize("scheme", ["", "2", "8", "objective"])
def test_an_unknown_scheme_is_one_line(scheme: str) -> None:
    with pytest.raises(MesynthError, match=f"class scheme '{scheme}' is unknown; choose from 3, 4, 5, 7"):
        class_names(scheme)
