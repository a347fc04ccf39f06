"""Expressions over bytes, like regular expressions, and their derivatives.

The derivative of an expression by a byte is the expression for what may follow that byte (Brzozowski 1964): that of
`yes|no` by `y` is `es`. So expressions are the states of an automaton, which is built while a text is read. Rules may
contain themselves, so the texts may be nested, as JSON is.

>>> grammar = Expressions()
>>> yes_or_no = grammar.choice(grammar.text("yes"), grammar.text("no"))
>>> grammar.derivative(yes_or_no, ord("y")) is grammar.text("es"), grammar.shortest(yes_or_no)
(True, 2)
"""

from collections.abc import Iterable
from math import inf
from typing import Any


class Node:
    """An expression. Equal expressions are the same object, so that states can be compared and looked up by identity.

    kind: "byte" (a frozenset of bytes), "sequence" (first, rest), "choice" (a frozenset of nodes),
    "repeat" (node, at least, at most or None), "rule" (name), "empty" (nothing may follow), "nothing" (a dead end).
    """

    __slots__ = ("kind", "parts")

    def __init__(self, kind: str, *parts: Any):
        self.kind, self.parts = kind, parts


EMPTY, NOTHING = Node("empty"), Node("nothing")


class Expressions:
    """Makes expressions, and takes them apart byte by byte."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Node] = {}
        self._derivatives: dict[tuple[Node, int], Node] = {}
        self._shortest: dict[Node, float] = {}
        self.rules: dict[Any, Node] = {}

    def node(self, kind: str, *parts: Any) -> Node:
        return self._made.setdefault((kind, *parts), Node(kind, *parts))

    def byte(self, allowed: Iterable[int]) -> Node:
        return self.node("byte", frozenset(allowed))

    def text(self, text: str) -> Node:
        return self.sequence(*(self.byte([byte]) for byte in text.encode()))

    def sequence(self, *nodes: Node) -> Node:
        *firsts, rest = nodes or (EMPTY,)
        for first in reversed(firsts):
            if first.kind == "sequence":  # nested to the right only: else equal sequences could differ
                rest = self.sequence(*first.parts, rest)
            elif NOTHING in (first, rest):
                rest = NOTHING
            elif first is not EMPTY:
                rest = first if rest is EMPTY else self.node("sequence", first, rest)
        return rest

    def choice(self, *nodes: Node) -> Node:
        options = frozenset(option for node in nodes for option in (node.parts[0] if node.kind == "choice" else [node]))
        options -= {NOTHING}
        return self.node("choice", options) if len(options) > 1 else next(iter(options), NOTHING)

    def repeat(self, node: Node, least: int = 0, most: int | None = None) -> Node:
        return EMPTY if most == 0 else self.node("repeat", node, least, most)

    def may_end(self, node: Node) -> bool:
        """Whether nothing needs to follow. A rule always has a byte at least."""
        match node.kind:
            case "sequence":
                return all(map(self.may_end, node.parts))
            case "choice":
                return any(map(self.may_end, node.parts[0]))
            case "repeat":
                return bool(node.parts[1] == 0)
        return node is EMPTY

    def derivative(self, node: Node, byte: int) -> Node:
        """The expression for what may follow `byte`; NOTHING where the byte is forbidden."""
        if (node, byte) not in self._derivatives:
            self._derivatives[node, byte] = self._derive(node, byte)
        return self._derivatives[node, byte]

    def _derive(self, node: Node, byte: int) -> Node:
        match node.kind, *node.parts:
            case "byte", allowed:
                return EMPTY if byte in allowed else NOTHING
            case "sequence", first, rest:
                after = self.sequence(self.derivative(first, byte), rest)
                return self.choice(after, self.derivative(rest, byte)) if self.may_end(first) else after
            case "choice", options:
                return self.choice(*(self.derivative(option, byte) for option in options))
            case "repeat", body, least, most:
                again = self.repeat(body, max(least - 1, 0), None if most is None else most - 1)
                return self.sequence(self.derivative(body, byte), again)
            case "rule", name:
                return self.derivative(self.rules[name], byte)
        return NOTHING

    def shortest(self, node: Node) -> float:
        """Bytes of the shortest text that completes the expression."""
        if node not in self._shortest:
            match node.kind, *node.parts:
                case "choice", options:
                    self._shortest[node] = min(map(self.shortest, options))
                case "sequence", first, rest:
                    self._shortest[node] = self.shortest(first) + self.shortest(rest)
                case "repeat", body, least, _:
                    self._shortest[node] = least * self.shortest(body) if least else 0
                case kind, *_:
                    self._shortest[node] = {"empty": 0, "byte": 1}.get(kind, inf)
        return self._shortest[node]

    def measure_rules(self) -> None:
        """Find the shortest texts of rules, which may contain each other: round by round, until nothing changes."""
        before: dict[Node, float] = {}
        lengths: dict[Node, float] = {self.node("rule", name): inf for name in self.rules}
        while lengths != before:
            self._shortest, before = dict(lengths), lengths
            lengths = {self.node("rule", name): self.shortest(node) for name, node in self.rules.items()}
        self._shortest = lengths
