"""Expressions over bytes, like regular expressions, and their derivatives.

The derivative of an expression by a byte is the expression for the text that may follow this byte (Brzozowski 1964):
the derivative of `yes|no` by `y` is `es`. So expressions are the states of an automaton, which is built while a text is
read. Rules may contain themselves, so the texts may be nested, as JSON is.

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


EMPTY, NOTHING = Node("empty"), Node("nothing")  # compared by identity


class Expressions:
    """Makes expressions and their derivatives."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Node] = {}
        self._derivatives: dict[tuple[Node, int], Node] = {}
        self._shortest: dict[Node, float] = {}
        self.rules: dict[Any, Node] = {}

    def node(self, kind: str, *parts: Any) -> Node:
        return self._made.setdefault((kind, *parts), Node(kind, *parts))

    def byte(self, allowed: Iterable[int]) -> Node:
        return self.node("byte", frozenset(allowed))

    def byte_sets(self) -> list[frozenset[int]]:
        """The sets of bytes that the expressions made so far tell apart."""
        return [node.parts[0] for node in self._made.values() if node.kind == "byte"]

    def text(self, text: str) -> Node:
        return self.sequence(*(self.byte([byte]) for byte in text.encode()))

    def sequence(self, *nodes: Node) -> Node:
        *waiting, rest = nodes or (EMPTY,)
        while waiting:  # from the last to the first, in a loop: recursion over a long text could exceed Python's stack
            first = waiting.pop()
            if first.kind == "sequence":  # nested to the right only, so that equal sequences are the same object
                waiting += first.parts
            elif NOTHING in (first, rest):
                rest = NOTHING
            elif first is not EMPTY:
                rest = first if rest is EMPTY else self.node("sequence", first, rest)
        return rest

    def choice(self, *nodes: Node) -> Node:
        options = frozenset(option for node in nodes for option in (node.parts[0] if node.kind == "choice" else [node]))
        options -= {NOTHING}  # a dead end adds no text
        rests: dict[Node, list[Node]] = {}  # first → what may follow it
        for option in options:
            first, rest = option.parts if option.kind == "sequence" else (option, EMPTY)
            rests.setdefault(first, []).append(rest)
        # `ab|ac` becomes `a(b|c)`: without that, k options on each of d nested levels would become k^d options.
        options = frozenset(self.sequence(first, self.choice(*rest) if len(rest) > 1 else rest[0])
                            for first, rest in rests.items())
        return self.node("choice", options) if len(options) > 1 else next(iter(options), NOTHING)

    def repeat(self, node: Node, least: int = 0, most: int | None = None) -> Node:
        return EMPTY if most == 0 else self.node("repeat", node, least, most)

    def may_end(self, node: Node) -> bool:
        """Whether the text may end here. A rule always has at least one byte."""
        match node.kind:
            case "sequence":
                return all(map(self.may_end, node.parts))
            case "choice":
                return any(map(self.may_end, node.parts[0]))
            case "repeat":
                return bool(node.parts[1] == 0)
        return node is EMPTY

    def derivative(self, node: Node, byte: int) -> Node:
        """The expression for the text that may follow `byte`; NOTHING if the byte is forbidden."""
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
        """The number of bytes of the shortest text that completes the expression."""
        if node not in self._shortest:
            match node.kind, *node.parts:
                case "choice", options:
                    self._shortest[node] = min(map(self.shortest, options))
                case "sequence", *_:
                    chain = [node]  # measured from its end, in a loop: recursion could exceed Python's stack
                    while (rest := chain[-1].parts[1]).kind == "sequence" and rest not in self._shortest:
                        chain.append(rest)
                    for part in reversed(chain):
                        self._shortest[part] = self.shortest(part.parts[0]) + self.shortest(part.parts[1])
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
