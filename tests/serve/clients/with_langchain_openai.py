"""LangChain: invoke, batch, stream, tools, structured output in both of its ways."""
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@tool
def calculator(expression: str) -> str:
    """Compute an expression."""
    return expression


QUESTION = "What is 123 * 456?"
model = ChatOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="any", model="m")
assert model.invoke(QUESTION).content.endswith("56088.")
assert len(model.batch([QUESTION, QUESTION])) == 2
assert "".join(chunk.content for chunk in model.stream(QUESTION)).endswith("56088.")
with_tools = model.bind_tools([calculator])
answer = with_tools.invoke(QUESTION)
[call] = answer.tool_calls
assert call["args"] == {"expression": "123*456"}, call
result = ToolMessage("56088", tool_call_id=call["id"])
assert "56088" in with_tools.invoke([HumanMessage(QUESTION), answer, result]).content
for method in ("json_schema", "function_calling"):
    assert isinstance(model.with_structured_output(Person, method=method).invoke("Who?"), Person), method
