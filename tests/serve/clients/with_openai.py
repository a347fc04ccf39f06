"""openai-python: structured answers, tools; the rest is in test_clients.py."""
import sys

from openai import NotFoundError, OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


PARAMETERS = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
TOOL = {"type": "function", "function": {"name": "calculator", "parameters": PARAMETERS}}
client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="any", max_retries=0)
question = {"role": "user", "content": "What is 123 * 456?"}
chat = client.chat.completions
message = chat.create(model="m", messages=[question], tools=[TOOL]).choices[0].message
[call] = message.tool_calls
assert call.function.arguments == '{"expression": "123*456"}', call
answer = {"role": "tool", "tool_call_id": call.id, "content": "56088"}
assert "56088" in chat.create(model="m", messages=[question, message, answer], tools=[TOOL]).choices[0].message.content
with chat.stream(model="m", messages=[question], tools=[TOOL]) as stream:
    assert any(event.type == "tool_calls.function.arguments.done" for event in stream)
assert isinstance(chat.parse(model="m", messages=[question], response_format=Person).choices[0].message.parsed, Person)
without_v1 = OpenAI(base_url=sys.argv[1], api_key="any").chat.completions.create(model="m", messages=[question])
assert without_v1.choices[0].message.content
try:
    client.responses.create(model="m", input="hi")
except NotFoundError as error:
    assert "/v1/chat/completions" in str(error)
