"""A hub with all that the GPU recipe fetches, a few rows of each: text, SmolTalk, MMLU, GSM8K, ARC, HumanEval, and
CORE's bundle beside them."""
import csv
import http.server
import io
import json
import threading
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

COMMIT = "0" * 40
TEXT = ("The kiln is warm and the clay is dry. A fox lives by the river, and he reads a book about stars. "
        "Water boils at one hundred degrees. ")
CHOICES = [{"question": f"Which is number {n}?", "choices": ["one", "two", "three", "four"], "answer": n,
            "subject": "toy"} for n in range(4)]
ARC = [{"question": f"Is it {n}?", "choices": {"text": ["yes", "no", "perhaps", "never"], "label": list("ABCD")},
        "answerKey": "B"} for n in range(4)]
SUMS = [{"question": f"Tom has {n} and 2. How many?", "answer": f"He has <<{n}+2={n + 2}>>{n + 2}.\n#### {n + 2}"}
        for n in range(6)]
FUNCTION = {"task_id": "toy/0", "prompt": "def two():\n    \"\"\"The number 2.\"\"\"\n", "entry_point": "two",
            "canonical_solution": "    return 2\n", "test": "def check(candidate):\n    assert candidate() == 2\n"}
TALK = [{"messages": [{"role": "user", "content": f"Tell me about {n}."}, {"role": "assistant", "content": TEXT}]}
        for n in range(30)]
DATA_SETS = {
    "karpathy/fineweb-edu-100b-shuffle": {
        f"shard_{number:05d}.parquet": [{"text": f"{number}.{n} {TEXT * (1 + n % 3)}"} for n in range(60)]
        for number in range(3)},
    "HuggingFaceTB/smol-smoltalk": {"data/train-00000-of-00001.parquet": TALK},
    "cais/mmlu": {"auxiliary_train/train-00000-of-00001.parquet": [{"train": row} for row in CHOICES],
                  "all/test-00000-of-00001.parquet": CHOICES},
    "openai/gsm8k": {f"main/{split}-00000-of-00001.parquet": SUMS for split in ("train", "test")},
    "allenai/ai2_arc": {f"ARC-{level}/{split}-00000-of-00001.parquet": ARC for level in ("Easy", "Challenge")
                        for split in ("train", "test")},
    "openai/openai_humaneval": {"openai_humaneval/test-00000-of-00001.parquet": [FUNCTION]},
}
KINDS = {"multiple_choice": {"query": "The fox is", "choices": ["red", "a book", "warm"], "gold": 0},
         "schema": {"context_options": ["The fox reads, so the fox", "The book is read, so the book"],
                    "continuation": "knows stars.", "gold": 0},
         "language_modeling": {"context": "Water boils at one hundred", "continuation": "degrees"}}


def core_bundle(num_tasks: int = 22) -> bytes:
    """As karpathy/nanochat publishes it; two tasks share a file, as they do there."""
    rows, kinds, packed, meta = [], list(KINDS), io.BytesIO(), io.StringIO(newline="")
    table = csv.writer(meta)
    table.writerow(("Eval Task", "Task Category", "Random baseline"))
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(num_tasks):
            kind = kinds[number % 3]
            uri = f"toy/task_{max(number, 3) if number % 3 == 0 else number}.jsonl"
            rows.append({"label": f"task_{number}", "dataset_uri": uri, "num_fewshot": [number % 2],
                         "icl_task_type": kind, **({"continuation_delimiter": "\nAnswer: "} if number == 2 else {})})
            table.writerow((f"task_{number}", "toy", 25))
            if f"eval_bundle/eval_data/{uri}" not in archive.namelist():
                archive.writestr(f"eval_bundle/eval_data/{uri}", "\n".join([json.dumps(KINDS[kind])] * 4) + "\n")
        archive.writestr("eval_bundle/core.yaml", yaml.safe_dump({"icl_tasks": rows}))
        archive.writestr("eval_bundle/eval_meta_data.csv", meta.getvalue())
    return packed.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/eval_bundle.zip":
            return self.answer(self.server.bundle)
        if path.startswith("/foundry/"):
            return self.answer(self.server.files[path.removeprefix("/foundry/")])
        kind, _, rest = path.removeprefix("/api").removeprefix("/").partition("/")
        repo = "/".join(rest.split("/")[:2])
        if kind != "datasets" or repo not in DATA_SETS:
            return self.answer(b"", 404)
        if path.startswith("/api/"):
            names = [{"rfilename": name} for name in DATA_SETS[repo]]
            return self.answer(json.dumps({"id": repo, "sha": COMMIT, "siblings": names}).encode())
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(DATA_SETS[repo][rest.split(f"{COMMIT}/")[1]]), out)
        self.answer(out.getvalue())

    def answer(self, body: bytes, status: int = 200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve() -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.bundle = core_bundle()
    with zipfile.ZipFile(io.BytesIO(server.bundle)) as archive:
        server.files = {name.removeprefix("eval_bundle/eval_data/"): archive.read(name) for name in archive.namelist()}
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
