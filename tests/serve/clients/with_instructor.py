"""instructor: its ways to structured answers."""
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


for mode in ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"):  # JSON leaves the fields to the model
    client = instructor.from_openai(OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="any"), mode=instructor.Mode[mode])
    got = client.chat.completions.create(model="m", response_model=Person, max_retries=0, messages=[
        {"role": "user", "content": "Who?"}])
    assert isinstance(got, Person), mode
