"""Answers that are JSON of a given schema: a grammar forbids every token after which no valid JSON could follow.

1. A JSON schema becomes an expression over bytes (expressions.py).
2. Its derivatives are the states of an automaton. A state gets its number when it is first reached, and each step from
   a state to the next is computed once.
3. A token is allowed if its bytes lead to a state from which the JSON can still be completed with the tokens that are
   left. So an answer that reaches its limit is complete JSON too.

Objects have the properties of their schema in its order. There is at most one space after a comma or a colon, and no
line break: a small model that may write spaces writes nothing else. Keywords of a schema that are not in `KEYWORDS` (a
pattern, or a largest number) have no effect; `Grammar.ignored` lists them.
"""

import json
from functools import lru_cache
from typing import Any

import numpy as np

from nanochat.infer.expressions import EMPTY, NOTHING, Expressions, Node
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer

KEYWORDS = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties", "required", "items",
            "additionalProperties", "minItems", "maxItems", "minLength", "maxLength"}
COMMENTS = {"title", "description", "default", "examples", "$defs", "definitions", "$schema", "$id", "strict",
            "deprecated", "discriminator"}  # annotations: they do not change what is valid
STRUCTURAL = {"not", "if", "patternProperties", "prefixItems", "dependentSchemas", "$dynamicRef"}  # errors: see _read
ANYTHING = {"anyOf": [{"type": "object"}, {"type": "array"}, {"type": "string"}, {"type": "number"},
                      {"type": "boolean"}, {"type": "null"}]}
MAX_REPEATS = 1000  # a larger minLength or minItems does not fit any answer
# A larger schema would make other clients wait: the slowest schema that we found within these limits takes .1 s per
# generated token (vocabulary of 32,000) and .25 s to build. One level of nesting takes up to five Python calls, and
# Python's stack allows 1,000.
MAX_PARTS, MAX_LEVELS, MAX_SCHEMA = 500, 100, 32_000  # schemas and enum values; nesting; characters of all
MAX_DIGITS = 15  # digits of a number: all integers of this length are exact in a float
TOO_FAR = 2**15 - 1  # bytes to the end of the JSON if the end cannot be reached: infinity for int16


class SchemaReader(Expressions):
    """Turns JSON schemas into expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.ignored: set[str] = set()
        self.num_parts = self.level = 0
        self.comma, self.colon = (self.sequence(self.text(mark), self.repeat(self.text(" "), 0, 1)) for mark in ",:")
        digit, follows = self.byte(b"0123456789"), self.byte(range(0x80, 0xC0))
        plain = self.byte(set(range(0x20, 0x80)) - set(b'"\\'))
        # Unpaired surrogates (\\ud83e alone) are not valid text, so characters beyond ASCII are written as UTF-8 only:
        # those whose first byte allows any continuation bytes, so not E0, ED, F0 and F4.
        self.character = self.choice(
            plain, self.sequence(self.text("\\"), self.byte(b'"\\/bfnrt')),
            *(self.sequence(self.byte(range(low, high)), *[follows] * number)
              for low, high, number in ((0xC2, 0xE0, 1), (0xE1, 0xED, 2), (0xF1, 0xF4, 3))))
        natural = self.sequence(self.byte(b"123456789"), self.repeat(digit, 0, MAX_DIGITS - 1))
        self.integer = self.choice(self.text("0"), self.sequence(self.repeat(self.text("-"), 0, 1), natural))
        fraction = self.sequence(self.text("."), self.repeat(digit, 1, MAX_DIGITS))
        self.number = self.choice(self.integer, self.sequence(self.repeat(self.text("-"), 0, 1), self.choice(
            self.text("0"), natural), fraction))

    def read(self, schema: Any, root: Any) -> Node:
        """The expression of `schema`, whose references point into `root`. UserError names what is not supported."""
        self.level += 1
        self.num_parts += 1 + len(schema.get("enum", ()) if isinstance(schema, dict) else ())
        if self.num_parts > MAX_PARTS or self.level > MAX_LEVELS:
            raise UserError(f"the JSON schema is too large: at most {MAX_PARTS} schemas and enum values are allowed, "
                            f"and {MAX_LEVELS} of them inside each other")
        node = self._read(schema, root)
        self.level -= 1
        return node

    def _read(self, schema: Any, root: Any) -> Node:
        if schema is True or schema == {}:
            return self.rule("any", ANYTHING, root)  # one rule for all: it refers to itself
        if not isinstance(schema, dict):
            raise UserError(f"a JSON schema has {str(schema)[:60]!r} where a schema is expected")
        if wrong := STRUCTURAL & schema.keys():
            raise UserError(f"this server does not know the keyword {min(wrong)!r} of JSON schemas; leave it out")
        root = schema if "$defs" in schema or "definitions" in schema else root
        self.ignored |= schema.keys() - KEYWORDS - COMMENTS
        if "$ref" in schema:
            return self.rule((id(root), schema["$ref"]), _resolve(schema["$ref"], root), root)
        if "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return self.choice(*(self.text(json.dumps(value, ensure_ascii=False)) for value in values))
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                if keyword == "allOf" and len(schema[keyword]) != 1:
                    raise UserError("this server reads 'allOf' with one schema only; join its schemas")
                return self.choice(*(self.read(option, root) for option in schema[keyword]))
        kinds = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else None)
        if kinds is None:
            return self.read(True, root)
        return self.choice(*(self.value(kind, schema, root) for kind in ([kinds] if isinstance(kinds, str) else kinds)))

    def rule(self, name: Any, schema: Any, root: Any) -> Node:
        if name not in self.rules:
            self.rules[name] = NOTHING  # if the schema refers to itself, the inner reference is only the rule's name
            self.rules[name] = self.read(schema, root)
        return self.node("rule", name)

    def value(self, kind: str, schema: dict[str, Any], root: Any) -> Node:
        match kind:
            case "object":
                return self.object(schema, root)
            case "array":
                return self.sequence(self.text("["), self.items(schema, root), self.text("]"))
            case "string":
                least, most = _bounds(schema, "minLength", "maxLength")
                return self.sequence(self.text('"'), self.repeat(self.character, least, most), self.text('"'))
            case "integer" | "number":
                return self.integer if kind == "integer" else self.number
            case "boolean":
                return self.choice(self.text("true"), self.text("false"))
            case "null":
                return self.text("null")
        raise UserError(f"a JSON schema has the unknown type {kind!r}")

    def items(self, schema: dict[str, Any], root: Any) -> Node:
        least, most = _bounds(schema, "minItems", "maxItems")
        item = self.read(schema.get("items", True), root)
        others = self.repeat(self.sequence(self.comma, item), max(least - 1, 0), None if most is None else most - 1)
        some = self.sequence(item, others) if most != 0 else NOTHING
        return some if least else self.choice(EMPTY, some)

    def object(self, schema: dict[str, Any], root: Any) -> Node:
        """The properties in the schema's order; without any, an object of any names."""
        if not schema.get("properties"):
            name, values = self.value("string", {}, root), schema.get("additionalProperties", True)
            pair = self.sequence(name, self.colon, self.read(values, root)) if values is not False else NOTHING
            pairs = self.sequence(pair, self.repeat(self.sequence(self.comma, pair)))
            return self.sequence(self.text("{"), self.choice(EMPTY, pairs), self.text("}"))
        at_start = later = self.text("}")  # what may follow before the first property, and after one
        for name, value in reversed(schema["properties"].items()):
            pair = self.sequence(self.text(json.dumps(name, ensure_ascii=False)), self.colon, self.read(value, root))
            first, next_one = self.sequence(pair, later), self.sequence(self.comma, pair, later)
            is_optional = name not in schema.get("required", ())
            at_start = self.choice(first, at_start) if is_optional else first
            later = self.choice(next_one, later) if is_optional else next_one
        return self.sequence(self.text("{"), at_start)


def _resolve(reference: str, root: Any) -> Any:
    """The schema that "#/$defs/Name" means."""
    target = root
    for step in reference.removeprefix("#").split("/")[1:]:
        target = target.get(step) if isinstance(target, dict) else None
    if not reference.startswith("#") or target is None:
        raise UserError(f"a JSON schema refers to {reference}, which it does not define")
    return target


def _bounds(schema: dict[str, Any], low: str, high: str) -> tuple[int, int | None]:
    least, most = max(schema.get(low, 0), 0), schema.get(high)
    if least > MAX_REPEATS or most is not None and most < least:
        raise UserError(f"a JSON schema has {low} {least} and {high} {most}; expected {low} ≤ {high}, and {low} at "
                        f"most {MAX_REPEATS:,}")
    return least, most if most is None or most <= MAX_REPEATS else None


class Grammar:
    """The automaton of a schema, and which tokens it allows. A state is a number; `start` is the first."""

    def __init__(self, schema: dict[str, Any], tokenizer: Tokenizer, end_id: int):
        """`end_id`: the token that ends an answer. UserError if the schema is not supported."""
        self.expressions = reader = SchemaReader()
        try:
            if (size := len(json.dumps(schema))) > MAX_SCHEMA:
                raise UserError(f"the JSON schema has {size:,} characters; at most {MAX_SCHEMA:,} are allowed")
            whole = reader.read(schema, schema)
            reader.measure_rules()
            for name in reader.rules:  # left recursion: the derivative never ends, and becomes a RecursionError
                reader.derivative(reader.node("rule", name), ord("{"))
        except (RecursionError, AttributeError, TypeError, KeyError, UnicodeEncodeError):
            raise UserError("a $ref of the JSON schema leads back to itself without a byte of JSON, or a keyword has "
                            "a value of a wrong type") from None
        if reader.shortest(whole) >= TOO_FAR:
            raise UserError("no answer can satisfy the JSON schema: every answer would be endless, or an enum is empty")
        self.ignored = sorted(reader.ignored)
        self.tokenizer, self.end_id = tokenizer, end_id
        self.nodes = [NOTHING, whole]  # by state
        self.states = {NOTHING: 0, whole: 1}
        self.start = 1
        # Bytes that the grammar treats alike form a class, for which the automaton uses the first byte of the class.
        sets = reader.byte_sets()
        classes: dict[tuple[bool, ...], int] = {}
        self.same_as = np.array([classes.setdefault(tuple(byte in allowed for allowed in sets), byte)
                                 for byte in range(256)], np.uint8)
        self._needs = lru_cache(64)(self._compute_needs)  # 64 states at most: each has an array over the vocabulary

    def advance(self, state: int, data: bytes) -> int:
        for byte in self.same_as[list(data)].tolist():
            node = self.expressions.derivative(self.nodes[state], byte)
            state = self.states.setdefault(node, len(self.nodes))
            if state == len(self.nodes):
                self.nodes.append(node)
        return state

    def is_complete(self, state: int) -> bool:
        """Whether the JSON has ended and nothing can follow."""
        return self.nodes[state] is EMPTY

    def allowed(self, state: int, num_left: int) -> np.ndarray:
        """Which tokens may come next, bool (V,), if the answer may have `num_left` more tokens."""
        # A byte is a token too, so as many tokens as bytes are enough to complete the JSON.
        needs = self._needs(state)
        allowed: np.ndarray = needs < max(num_left, int(needs.min()) + 1)  # + 1: the shortest way is always allowed
        return allowed

    def _compute_needs(self, state: int) -> np.ndarray:
        """For each token, int16 (V,): how many bytes must follow it until the JSON is complete; TOO_FAR if it is
        forbidden."""
        table, lengths = _byte_table(self.tokenizer)
        states = np.where(lengths > 0, state, 0)
        for place in range(table.shape[1]):  # the byte at this index, of all tokens that are still allowed
            alive = np.flatnonzero((lengths > place) & (states > 0))
            if not len(alive):
                break
            steps, which = np.unique(states[alive] * 256 + self.same_as[table[alive, place]], return_inverse=True)
            states[alive] = np.array([self.advance(step // 256, bytes([step % 256])) for step in steps.tolist()])[which]
        reached, which = np.unique(states, return_inverse=True)
        far = [min(self.expressions.shortest(self.nodes[number]), TOO_FAR) for number in reached.tolist()]
        needs = np.array(far, np.int16)[which]
        if self.expressions.may_end(self.nodes[state]):
            needs[self.end_id] = 0
        return needs


@lru_cache(4)
def _byte_table(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all tokens, uint8 (V, longest), and their numbers, int32 (V,); special tokens have no bytes."""
    lengths = tokenizer.token_bytes()
    table = np.zeros((len(lengths), lengths.max()), np.uint8)  # (V, longest)
    for token, length in enumerate(lengths.tolist()):
        table[token, :length] = list(tokenizer.decode_bytes([token])[:length])
    return table, lengths
