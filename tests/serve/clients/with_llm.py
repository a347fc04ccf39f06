"""simonw's llm: questions, --schema, functions, a conversation that goes on."""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = "- model_id: nano\n  model_name: m\n  api_base: {}/v1\n  supports_schema: true\n  supports_tools: true\n"


def llm(*words: str) -> str:
    command = [sys.executable, "-m", "llm", *words, "--key", "any"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


with tempfile.TemporaryDirectory() as folder:
    os.environ["LLM_USER_PATH"] = folder
    (Path(folder) / "extra-openai-models.yaml").write_text(MODEL.format(sys.argv[1]))
    assert "56088" in llm("-m", "nano", "What is 123 * 456?")
    assert "Answer" in llm("-c", "And now?")
    assert set(json.loads(llm("-m", "nano", "--no-stream", "--schema", "name, age int", "Who?"))) == {"name", "age"}
    function = "def calculator(expression: str) -> str:\n    return 'so ' + expression"
    assert "56088" in llm("-m", "nano", "--functions", function, "What is 123 * 456?")
