import re
from importlib import import_module

from huggingface_hub import ModelCard

from mesynth.generators.base import model_card
from mesynth.store.generator_folder import CARD, SHIPPED, shipped_models
from tests.generators.saved import FACTS


def test_a_card_says_what_the_facts_say() -> None:
    text = model_card(FACTS, title="T", what="what it is", limits="what it is not", parameters={"generator": 1234567})
    for part in (
        "# T",
        "what it is",
        "what it is not",
        "rendered/a",
        "CC0-1.0",
        "12 pairs",
        "seed 3",
        "1,234,567",
        "| epe | 0.5 |",
    ):
        assert part in text


def test_the_hub_reads_its_front_matter() -> None:
    facts = {**FACTS, "licences": ("CC0-1.0", 'terms: of "a: lab"')}
    card = ModelCard(model_card(facts, title="T", what="w", limits="l", parameters={}))
    held = card.data.to_dict()
    assert held["license_name"] == 'CC0-1.0; terms: of "a: lab"'
    assert held["library_name"] == "mesynth"
    assert FACTS["name"] in held["tags"]
    assert card.text.lstrip().startswith("# T")


def test_many_subjects_are_counted_and_no_figures_are_no_figures() -> None:
    many = {**FACTS, "subjects_seen": tuple(f"x/{i:03d}" for i in range(40)), "figures": {}, "licences": ()}
    text = model_card(many, title="T", what="", limits="", parameters={})
    assert "40 subjects" in text
    assert "x/011" in text
    assert "x/012" not in text
    assert "28 more" in text
    assert "| none | |" in text


def test_every_card_says_where_the_loader_is() -> None:
    shipped = [(SHIPPED / name / CARD).read_text() for name in shipped_models()]
    for text in (model_card(FACTS, title="T", what="", limits="", parameters={}), *shipped):
        lines = re.findall(r"^from ([\w.]+) import (\w+)$", text, re.MULTILINE)
        assert lines
        for module, name in lines:
            assert callable(getattr(import_module(module), name))
