"""Random tokens under a grammar are JSON of its schema, whatever the schema and the length limit."""

import json
import random

import numpy as np
import pytest

from nanochat.infer import Engine
from nanochat.infer.json_grammar import Grammar
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer

MARKS = [b'{"', b'":', b'",', b'"}', b"zq", b"null", b"tru", b"e,", b"12", b'": "', "né".encode(), b"[[", b"}]"]
TREE = {"$ref": "#/$defs/Tree", "$defs": {"Tree": {"type": "object", "required": ["value", "trees"], "properties": {
    "value": {"type": "integer"}, "trees": {"type": "array", "items": {"$ref": "#/$defs/Tree"}, "maxItems": 2}}}}}
PERSON = {"type": "object", "required": ["age", "likes"], "additionalProperties": False, "properties": {
    "name": {"type": "string", "minLength": 2, "maxLength": 4}, "age": {"type": ["integer", "null"]},
    "likes": {"type": "array", "items": {"enum": ["é", 7, None]}, "minItems": 1, "maxItems": 3},
    "size": {"anyOf": [{"type": "number"}, {"const": "tall"}]}, "glad": {"type": "boolean"}}}

ENDLESS = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/A"}}}}


def nested(levels, kind="array"):
    return {"type": kind, "items": nested(levels - 1)} if levels else {"type": "null"}


def alternatives(number, levels):
    """On each level arrays of different least lengths, which begin alike."""
    kinds = {f"A{level}": {"anyOf": [{"type": "array", "minItems": least, "items": {"$ref": f"#/$defs/A{level + 1}"}}
                                     for least in range(number)]} for level in range(levels)}
    return {"$ref": "#/$defs/A0", "$defs": {**kinds, f"A{levels}": {"type": "string"}}}


def is_person(value):
    assert list(value) == [name for name in PERSON["properties"] if name in value] and {"age", "likes"} <= set(value)
    assert 2 <= len(value.get("name", "ab")) <= 4 and value.get("glad", True) in (True, False)
    assert value["age"] is None or type(value["age"]) is int
    assert 1 <= len(value["likes"]) <= 3 and all(like in ("é", 7, None) for like in value["likes"])
    return value.get("size", 1.5) == "tall" or isinstance(value.get("size", 1.5), int | float)


def is_tree(value):
    return type(value["value"]) is int and len(value["trees"]) <= 2 and all(map(is_tree, value["trees"]))


@pytest.fixture(scope="module")
def words():
    return Tokenizer([*(bytes([byte]) for byte in range(256)), *MARKS])


@pytest.mark.parametrize("schema, is_valid", [
    (PERSON, is_person), (TREE, is_tree), ({"type": "object"}, lambda value: isinstance(value, dict)),
    ({}, lambda value: True), ({"type": "string"}, lambda value: isinstance(value, str)),
    ({"type": "object", "additionalProperties": {"type": "integer"}},
     lambda value: all(type(number) is int for number in value.values())),
    ({"allOf": [{"type": "array", "items": {"type": "number"}}]},
     lambda value: all(type(number) in (int, float) for number in value)),
    ({"type": "object", "properties": {}}, lambda value: isinstance(value, dict))])
def test_random_tokens_become_json_of_the_schema(words, schema, is_valid):
    end = words.special_id("<|assistant_end|>")
    draw = random.Random(0)
    texts = set()
    for num_tokens in (30, 31, 45, 80) * 2:
        grammar = Grammar(schema, words, end)
        state, data = grammar.start, b""
        for num_left in range(num_tokens, 0, -1):
            token = int(draw.choice(np.flatnonzero(grammar.allowed(state, num_left)).tolist()))
            if token == end:
                break
            data += words.decode_bytes([token])
            state = grammar.advance(state, words.decode_bytes([token]))
            if grammar.is_complete(state):
                break
        assert is_valid(json.loads(data.decode())), data
        texts.add(data)
    assert len(texts) > 4


@pytest.mark.parametrize("schema, text", [
    (nested(90), "[" * 90 + "null" + "]" * 90), ({"const": "x" * 1500}, '"' + "x" * 1500 + '"'),
    ({"properties": {"a name of some length" + str(number): {"type": "null"} for number in range(90)},
      "required": ["a name of some length" + str(number) for number in range(90)]},
     json.dumps({"a name of some length" + str(number): None for number in range(90)})),
    (alternatives(20, 8), "[" * 8 + '"a"' + "]" * 8)])
def test_large_schemas_take_little_work(words, schema, text):
    """Texts beyond the depth of Python's stack; 20 arrays on each of 8 levels are not 20^8 states behind 8 brackets."""
    grammar = Grammar(schema, words, words.special_id("<|assistant_end|>"))
    state = grammar.start
    for byte in text.encode():
        assert grammar.allowed(state, 10_000)[byte]
        state = grammar.advance(state, bytes([byte]))
    assert grammar.is_complete(state) and len(grammar.expressions._made) < 25_000


@pytest.mark.parametrize("schema, word", [
    ({"not": {}}, "'not'"), ({"$ref": "#/$defs/X"}, "#/$defs/X"), ({"$ref": "http://other/x"}, "http://other"),
    ({"type": "date"}, "'date'"), ({"properties": {"a": 5}}, "'5'"), ({"type": 5}, "wrong type"),
    ({"enum": []}, "empty"), ({"allOf": [{}, {}]}, "allOf"),
    ({"type": "string", "minLength": 5, "maxLength": 4}, "minLength"), (ENDLESS, "endless"),
    ({"enum": ["x" * 40_000]}, "40,0"), ({"enum": list(range(600))}, "too large: at most 500"),
    ({"type": "object", "properties": {f"k{number}": {} for number in range(600)}}, "too large"),
    (nested(110), "100 of them inside"), ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "back to itself"),
    ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"anyOf": [{"$ref": "#/$defs/A"}, {}]}}},
     "back to itself")])
def test_schemas_that_cannot_be_followed(words, schema, word):
    with pytest.raises(UserError, match=word.replace("$", r"\$")):
        Grammar(schema, words, 0)


def test_what_is_ignored_is_named(words):
    schema = {"title": "x", "properties": {"a": {"type": "string", "pattern": "a+", "description": "an a"}, "b": {
        "type": "integer", "maximum": 3}}}
    assert Grammar(schema, words, 0).ignored == ["maximum", "pattern"]


def test_nested_values_neither_recurse_without_end_nor_slow_down(words):
    grammar = Grammar({}, words, 0)
    state = grammar.advance(grammar.start, b"[" * 5000)
    assert state and grammar.advance(state, b"]" * 4999 + b"x") == 0
    assert grammar.is_complete(grammar.advance(state, b"]" * 5000))


def test_the_engine_keeps_to_the_grammar(model):
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)] + [b"{}" + bytes([97 + i]) for i in range(35)])
    engine = Engine(model, tokenizer, tool=str, max_rows=3)
    grammar = Grammar(PERSON, tokenizer, tokenizer.special_id("<|assistant_end|>"))
    prompts = [[5], [6]]
    plain = engine.generate(prompts, max_tokens=40, seed=3)
    for temperature in (0.0, 1.0):
        for [answer] in engine.generate(prompts, max_tokens=60, temperature=temperature, seed=3, grammar=grammar):
            assert is_person(json.loads(answer.text)) and answer.stop_reason == "stop"
    assert engine.generate(prompts, max_tokens=40, seed=3) == plain
