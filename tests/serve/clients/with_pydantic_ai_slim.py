"""pydantic-ai: text, an agent with a tool, structured output by a tool and by response_format."""
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str
    age: int


model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=f"{sys.argv[1]}/v1", api_key="any"))
assert Agent(model).run_sync("Hello?").output
for kind in (Person, NativeOutput(Person)):
    assert isinstance(Agent(model, output_type=kind).run_sync("Who?").output, Person)
agent, called = Agent(model), []


@agent.tool_plain
def calculator(expression: str) -> str:
    called.append(expression)
    return "56088"


assert "56088" in agent.run_sync("What is 123 * 456?").output and called == ["123*456"]
