"""The functions that a client offers in `tools`, and how the model calls them.

The model has learnt to call a calculator: it writes an expression between <|python_start|> and <|python_end|>. So

- a function of one string argument whose name says that it computes (`CALCULATOR`) gets any expression that the model
  writes. Without such a function the server's own calculator answers;
- another function of one string argument is called by an expression such as `weather('Oslo')`;
- `tool_choice` "required", or a named function, makes the answer a call: a grammar (nanochat/infer/json_grammar.py)
  allows only {"name": …, "arguments": …} with arguments that fit the function's schema;
- other functions are ignored, and the answer says so.
"""

import ast
import json
import re
import uuid
from typing import Any

CALCULATOR = re.compile(r"calc|python|arithmetic|evaluate|math", re.IGNORECASE)  # in the function's name


class Tools:
    """`tools` and `tool_choice` of a request. Raises ValueError with the fault if they are not valid."""

    def __init__(self, tools: list[dict[str, Any]], choice: str | dict[str, Any] | None):
        functions = dict(_name_and_schema(i, tool) for i, tool in enumerate(tools) if tool.get("type") != "custom")
        self.is_forced = choice in ("required", "any") or isinstance(choice, dict)
        if isinstance(choice, dict):
            name = (choice.get("function") or {}).get("name")
            if name not in functions:
                raise ValueError(f"tool_choice names the function {name!r}; tools has {', '.join(functions) or 'none'}")
            functions = {name: functions[name]}
        elif choice not in (None, "auto", "none", "required", "any"):
            raise ValueError(f'tool_choice is {choice!r}; expected "auto", "none", "required" or a function')
        if self.is_forced and not functions:
            raise ValueError("tool_choice demands a call, but tools has no function")
        self.functions = {} if choice == "none" else functions
        self.text_arguments = {name: argument for name, schema in self.functions.items()
                               if (argument := _only_text_argument(schema))}
        self.calculator = next((name for name in self.text_arguments if CALCULATOR.search(name)), "")
        self.unusable = len(functions) - len(functions if self.is_forced else self.text_arguments)

    @property
    def is_forced_calculator(self) -> bool:
        """Whether the answer must be a call of the calculator, which the model has learnt to write."""
        return self.is_forced and list(self.functions) == [self.calculator]

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of the call, if the answer must be a call; None if the model decides."""
        if not self.is_forced or self.is_forced_calculator:
            return None
        return {"anyOf": [{"type": "object", "properties": {"name": {"const": name}, "arguments": schema},
                           "required": ["name", "arguments"]} for name, schema in self.functions.items()]}

    def is_call(self, expression: str) -> bool:
        return self._called(expression) is not None

    def call(self, expression: str) -> dict[str, Any]:
        """OpenAI's object for the call that an expression of the model stands for."""
        called = self._called(expression)
        assert called is not None, f"{expression!r} calls no function of the client"
        return _tool_call(*called)

    def _called(self, expression: str) -> tuple[str, dict[str, Any]] | None:
        """(function, arguments) of an expression; None if the server's own calculator has to compute it."""
        try:
            match ast.parse(expression.strip(), mode="eval").body:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str() as text)], keywords=[]):
                    if name in self.text_arguments:
                        return name, {self.text_arguments[name]: text}
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
        return (self.calculator, {self.text_arguments[self.calculator]: expression}) if self.calculator else None


def forced_call(text: str) -> dict[str, Any] | None:
    """OpenAI's object for an answer that a grammar forced to be a call; None if the end of its JSON is missing."""
    try:
        call = json.loads(text)
        return _tool_call(call["name"], call["arguments"])
    except (ValueError, KeyError, TypeError):
        return None


def call_text(name: str, arguments: str | dict[str, Any]) -> str:
    """The text of a call that a client sends back: `call_text("calculator", '{"expression": "12*3"}')` → 12*3.

    >>> call_text("weather", '{"city": "Oslo"}'), call_text("python", "1+1")
    ("weather('Oslo')", '1+1')
    """
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return str(arguments)
    values = list(given.values()) if isinstance(given, dict) else [given]
    if len(values) == 1 and isinstance(values[0], str):
        return values[0] if CALCULATOR.search(name) else f"{name}({values[0]!r})"
    return arguments if not name and isinstance(arguments, str) else f"{name}({json.dumps(given)})"


def _tool_call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


def _name_and_schema(index: int, tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    schema = function.get("parameters") or {"type": "object", "properties": {}} if isinstance(function, dict) else None
    if not isinstance(name, str) or not isinstance(schema, dict):
        raise ValueError(f'tools.{index}: expected {{"type": "function", "function": {{"name": …, "parameters": …}}}}')
    return name, schema


def _only_text_argument(schema: dict[str, Any]) -> str:
    """The name of a function's only argument if this is a string, otherwise ""."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or len(properties) != 1:
        return ""
    [(name, value)] = properties.items()
    return name if isinstance(value, dict) and value.get("type") == "string" and "enum" not in value else ""
