"""A small hub on this machine, which answers as badly as hubs, proxies and networks do."""
import hashlib
import http.server
import json
import time

from nanochat.data import hub as hub_module
from nanochat.data import shards

REPO = "toy/stories"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIRST, SECOND, THIRD, LAST = (f"shard_{number:05d}.parquet" for number in range(4))
HTML = b"<html>Welcome to the hotel. Please log in.</html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"


class Hub(http.server.ThreadingHTTPServer):
    """The two routes of the hub that a download uses.

    `answers[name]` (name of a shard, or "listing") are given first, one a request: (status, headers, body), or a word:
    "half" closes the connection in the middle, "stall" is silent after the first half, "corrupt" changes the last byte,
    "no ranges" ignores the range, "no length" names no length and ends early.
    """

    def __init__(self, contents: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents, self.ranges, self.gets, self.listings = contents, [], [], []
        self.answers: dict[str, list] = {}
        self.sizes, self.hashes = True, True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        pass  # clients that hang up


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = "listing" if self.path.startswith("/api/") else self.path.rpartition("/")[2]
        self.server.gets.append(name)
        left = self.server.answers.get(name)
        answer = left.pop(0) if left else None
        if isinstance(answer, tuple):
            return self._send(*answer)
        if name == "listing":
            return self._listing()
        assert self.path == f"/datasets/{REPO}/resolve/{COMMIT}/{self.path.split('/resolve/')[1].split('/', 1)[1]}"
        self._file(self.path.split(COMMIT + "/")[1], answer)

    def _send(self, status: int, headers: dict, body: bytes = b""):
        self.send_response_only(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _listing(self):
        self.server.listings.append(self.path)
        if self.path.split("?")[0] not in (f"/api/datasets/{REPO}", f"/api/datasets/{REPO}/revision/{COMMIT}"):
            return self._send(404, {})
        siblings = [{"rfilename": name,
                     **({"size": len(data)} if self.server.sizes else {}),
                     **({"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
                        if self.server.hashes else {"lfs": None})}
                    for name, data in {**self.server.contents, "README.md": b"x", ".hid.parquet": b"x"}.items()]
        self._send(200, {"Content-Type": "application/json"},
                   json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())

    def _file(self, name: str, answer: str | None):
        data, start = self.server.contents[name], 0
        if asked := self.headers.get("Range"):
            self.server.ranges.append((name, asked))
            start = 0 if answer == "no ranges" else int(asked.removeprefix("bytes=").split("-")[0])
        if start >= len(data):
            return self._send(416, {"Content-Range": f"bytes */{len(data)}"})
        part = data[start:]
        self.send_response(206 if start else 200)
        if answer == "no length":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if answer == "corrupt":
            part = part[:-1] + bytes([part[-1] ^ 1])
        if answer in ("half", "stall", "no length"):
            part = part[:len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)
        if answer == "stall":
            self.wfile.flush()
            time.sleep(1.5)


def fetch(count, folder):
    hub_module.fetch(hub_module.HUB["toy"], count, folder / "text")


def is_whole(hub, folder, *names):
    there = {path.name: path.read_bytes() for path in shards.in_folder(folder / "text")}
    return there == {name: hub.contents[name] for name in names} and not (folder / "text/.fetching").exists()
