"""litellm: its three ways to a server of OpenAI's format."""
import json
import sys

import litellm

CALCULATOR = {"type": "function", "function": {"name": "calculator", "parameters": {
    "type": "object", "properties": {"expression": {"type": "string"}}}}}
for provider in ("openai", "hosted_vllm"):
    asked = {"model": f"{provider}/m", "api_base": f"{sys.argv[1]}/v1", "api_key": "any",
             "messages": [{"role": "user", "content": "What is 123 * 456?"}]}
    assert litellm.completion(**asked).choices[0].message.content.endswith("56088.")
    chunks = litellm.completion(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).endswith("56088.")
    answer = litellm.completion(**asked, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert litellm.completion(**asked, tools=[CALCULATOR]).choices[0].message.tool_calls
text = litellm.text_completion(model="text-completion-openai/m", api_base=f"{sys.argv[1]}/v1", api_key="any",
                               prompt="Once", max_tokens=4)
assert len(text.choices[0].text) == 4
