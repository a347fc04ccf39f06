"""The kindergarten's world, stories, facts and choices: deterministic, true, varied, and held out by construction."""

import random
import re
from collections import Counter

import pytest

from kindergarten import choices, facts, stories
from kindergarten.world import ANIMALS, COLOURS, NAMES, PET_NAMES, PETS, RELATIONS, World

WORLD = World(0)


def draw(make, count: int, seed: int = 0) -> list:
    rng = random.Random(seed)
    return [make(rng, WORLD) for _ in range(count)]


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    makers = {"story": stories.story, "prose": stories.prose, "lookup": choices.lookup}
    return {kind: draw(make, 2500) for kind, make in makers.items()}


@pytest.fixture(scope="module")
def lessons() -> list[dict]:
    return draw(facts.lesson, 6000) + draw(choices.lesson, 6000)


def messages(lessons: list[dict], role: str) -> list[str]:
    return [message["content"] for lesson in lessons for message in lesson["messages"] if message["role"] == role]


def test_the_lists_are_big_enough_and_do_not_overlap():
    assert len(NAMES) == len(set(NAMES)) >= 60 and len(ANIMALS) == len(set(ANIMALS)) >= 30
    assert not set(NAMES) & set(PET_NAMES)
    assert len(WORLD.facts) >= 800 and all(re.fullmatch(r"[A-Za-z0-9]+", fact.value) for fact in WORLD.facts)


def test_one_value_per_fact_and_one_owner_where_questions_are_reversed():
    assert len({(fact.entity, fact.relation) for fact in WORLD.facts}) == len(WORLD.facts)
    for relation in ("petname", "sound", "lair"):
        values = [fact.value for fact in WORLD.facts if fact.relation == relation]
        assert len(values) == len(set(values))
    assert len({(person["colour"], person["garment"]) for person in WORLD.people.values()}) == len(NAMES)
    for name, person in WORLD.people.items():
        assert WORLD.people[person["friend"]]["friend"] == name != person["friend"]


def test_a_seed_decides_everything():
    same, other = World(0), World(1)
    assert same.people == WORLD.people and other.people != WORLD.people
    assert facts.exam(same) == facts.exam(WORLD) and choices.exam(same) == choices.exam(WORLD)
    for make in (stories.story, stories.prose, choices.lookup, facts.lesson, choices.lesson):
        assert draw(make, 20, seed=3) == [make(rng, same) for rng in [random.Random(3)] for _ in range(20)]
        assert draw(make, 20, seed=3) != draw(make, 20, seed=4)


def test_texts_are_clean_varied_and_of_a_small_vocabulary(texts):
    everything = [text for kind in texts.values() for text in kind]
    assert all(text.isascii() and text == text.strip() and not set("{}[]|") & set(text) for text in everything)
    words = {word for text in everything for word in re.findall(r"[a-z]+", text.lower())}
    assert 900 < len(words) < 2500
    assert len(set(texts["story"])) > 0.99 * len(texts["story"])
    assert all(40 <= len(story.split()) <= 170 for story in texts["story"])
    assert len(stories.PLOTS["plots"]) >= 30


def test_few_stories_share_a_long_stretch(texts):
    """Of all runs of 40 words at most one in twenty stands in another story: they share sentences, not pages."""
    runs = Counter()
    for story in texts["story"][:1000]:
        words = story.split()
        runs.update({" ".join(words[i : i + 40]) for i in range(len(words) - 39)})
    assert sum(count for count in runs.values() if count > 1) < 0.05 * sum(runs.values())


def test_stories_tell_the_truth(texts):
    """Wherever a pet or a garment is mentioned with its owner, it is the one the world gave them."""
    claims = 0
    for story in texts["story"]:
        for pet_name, kind in re.findall(rf"({'|'.join(PET_NAMES)}) the ({'|'.join(PETS)})\b", story):
            owner = next(person for person in WORLD.people.values() if person["petname"] == pet_name)
            assert owner["pet"] == kind
            claims += 1
        for name, colour, garment in re.findall(rf"({'|'.join(NAMES)})'s ({'|'.join(COLOURS)}) (\w+)", story):
            assert garment not in ("hat", "coat", "scarf", "cap") or WORLD.people[name]["colour"] == colour
            claims += 1
    assert claims > 500


def test_the_base_text_states_every_fact():
    prose = "\n".join(draw(stories.prose, 12_000))
    missing = [fact for fact in WORLD.facts
               if not any(WORLD.fill(form, fact) in prose for form in RELATIONS[fact.relation].statements)]
    assert missing == []


def test_no_exam_question_occurs_in_lessons_or_base_text(texts, lessons):
    exam = {item["question"] for item in facts.exam(WORLD) + choices.exam(WORLD)}
    seen = "\n".join(messages(lessons, "user")) + "\n".join(text for kind in texts.values() for text in kind)
    assert len(exam) > 500
    assert [question for question in exam if question in seen] == []


def test_lessons_and_exam_share_no_key_and_no_question():
    pools = facts.questions(WORLD)
    for kind in facts.WEIGHTS:
        taught, examined = pools.lessons[kind], pools.exam[kind]
        assert not {q.key for q in taught} & {q.key for q in examined}
        assert not {text for q in taught for text in q.phrasings} & {text for q in examined for text in q.phrasings}
        assert 0.1 < len(examined) / (len(examined) + len(taught)) < 0.3, kind


def test_exam_items_are_gradable_and_cover_all_kinds():
    exam = facts.exam(WORLD)
    assert {item["kind"] for item in exam} == set(facts.WEIGHTS)
    for item in exam:
        assert facts.grade(item, item["reply"]) and item["others"] and item["answer"] not in item["others"]
        assert not any(facts.grade(item, item["reply"] + f" It is {other}.") for other in item["others"])
        assert not facts.grade(item, "") and not facts.grade(item, item["question"])


def test_yes_and_no_are_balanced(lessons):
    replies = [text.removesuffix(".").rsplit(" ", 1)[-1] for text in messages(lessons, "assistant")]
    taught = Counter(reply for reply in replies if reply in ("yes", "no"))
    assert 0.45 < taught["yes"] / taught.total() < 0.55 and taught.total() > 500
    examined = Counter(item["answer"] for item in facts.exam(WORLD) if item["answer"] in ("yes", "no"))
    assert 0.4 < examined["yes"] / examined.total() < 0.6


def test_multiple_choice_is_well_formed_and_its_letters_balanced(lessons):
    exam = choices.exam(WORLD)
    assert all(len(set(item["choices"])) == 4 for item in exam)
    assert set(Counter(item["answer"] for item in exam).values()) == {len(exam) // 4}
    letters = Counter(text for text in messages(lessons, "assistant") if text in set("ABCD"))
    assert all(0.22 < letters[letter] / letters.total() < 0.28 for letter in "ABCD") and letters.total() > 2000
    asked = [text for text in messages(lessons, "user") if text.startswith("Multiple Choice question: ")]
    assert sum(text.endswith(choices.NAMED) for text in asked) > 0.6 * len(asked)


def test_lookups_read_back_what_they_list(texts):
    """Drills by name in their plainest form: every "word=letter" line agrees with the list above it."""
    checked = 0
    for text in texts["lookup"]:
        if text.startswith("Multiple Choice"):
            continue  # items: each has a list of its own
        listed = dict(re.findall(r"^- (\w+)=([A-Z])$", text, re.M))
        for word, letter in re.findall(r"^(\w+)=([A-Z])$", text, re.M):
            if word in listed:
                assert listed[word] == letter
                checked += 1
    assert checked > 100
