"""How well the tokenizer compresses: bytes per token on texts of several kinds, beside GPT-2's and GPT-4's.

    python -m scripts.tok_eval

More bytes per token: the same text is shorter, and a model reads further for the same work. A vocabulary learnt from
English is poor at other scripts, and here one sees how poor. GPT-2's and GPT-4's come from tiktoken's cache or from the
network; without either their columns are left out.
"""
import hashlib
import threading
import time
from itertools import islice

from rich.console import Console
from rich.table import Table

from nanochat.data import shards
from nanochat.system import cli, log, paths, results
from nanochat.tokenizer import Tokenizer

PEERS = {"gpt2": "GPT-2", "cl100k_base": "GPT-4"}
PATIENCE_SECONDS = 20  # for a network that does not answer

NEWS = """\
The harbour council voted late on Tuesday to reopen the old swing bridge to pedestrians, eleven years after a cargo
vessel tore through its northern span. "We've waited long enough," said councillor Ruth Adeyemi, who led the campaign.
Repairs are expected to cost $4.2 million, roughly half of what engineers feared when they first saw the piers in 2019.

Not everyone was pleased. Fishermen argued that the narrower channel would add forty minutes to each trip, and the
chairman of the ferry company warned that jobs couldn't be guaranteed. A second vote, on who'll pay for the lighting,
has been postponed until March 14.
"""
CODE = '''\
class Ring:
    """A queue of fixed size: the oldest item makes room for the newest."""

    def __init__(self, size: int):
        self.items, self.start, self.count = [None] * size, 0, 0

    def push(self, item):
        end = (self.start + self.count) % len(self.items)
        self.items[end] = item
        if self.count < len(self.items):
            self.count += 1
        else:
            self.start = (self.start + 1) % len(self.items)

static int clamp(int x, int lo, int hi) {
    if (x < lo) { return lo; }  /* too small */
    return x > hi ? hi : x;
}
for (const row of rows.filter(r => r.total !== null)) {
  console.log(`${row.name}:\\t${row.total.toFixed(2)}`);
}
'''
SCRIPTS = """\
По утрам старый мост закрыт туманом, и слышно только, как внизу шумит вода.
早上，旧桥被雾笼罩着，只能听见下面的流水声。图书馆九点开门，孩子们在门口排队。
朝になると古い橋は霧に包まれ、下を流れる水の音だけが聞こえる。
아침이면 낡은 다리는 안개에 싸이고 아래로 흐르는 물소리만 들린다.
في الصباح يختفي الجسر القديم في الضباب ولا يُسمع إلا صوت الماء.
सुबह पुराना पुल कोहरे में छिप जाता है और केवल पानी की आवाज़ सुनाई देती है।
Το πρωί η παλιά γέφυρα χάνεται στην ομίχλη. Où est passé l'été? Schöne Grüße, señor Nuñez! 🌫️🌉
"""
MATHS = r"""
Let $f(x) = \sum_{k=0}^{n} \binom{n}{k} x^k$. Then $f(x) = (1+x)^n$, so $f(1) = 2^n$ and $f'(1) = n \cdot 2^{n-1}$.
\begin{align} \int_0^1 x^2 \, dx &= \left[ \tfrac{1}{3} x^3 \right]_0^1 = \frac{1}{3} \\ \nabla \cdot \mathbf{E} &=
\frac{\rho}{\varepsilon_0} \end{align}
A baker sells 48 loaves at 3.75 each and 112 rolls at 0.40: 48*3.75 = 180, 112*0.40 = 44.80, 180 + 44.80 = 224.80.
Since 1,234,567 ≡ 1 (mod 3) and √2 ∉ ℚ, ∀ε > 0 ∃δ > 0: |x − a| < δ ⇒ |f(x) − f(a)| < ε.
"""


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, documents=cli.flag(500, "of training and of validation text", at_least=1))
    started = time.monotonic()
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    digest = hashlib.sha256((paths.tokenizer_dir() / "tokenizer.json").read_bytes()).hexdigest()
    texts = {"news": [NEWS], "code": [CODE], "other scripts": [SCRIPTS], "maths": [MATHS],
             "training text": list(islice(shards.iter_texts(shards.train_shards()), args.documents)),
             "validation text": list(islice(shards.iter_texts(shards.validation_shards()), args.documents))}
    encoders = {"ours": lambda texts: len(tokenizer.encode_batch(texts)[0])}
    vocab_sizes = {"ours": tokenizer.vocab_size}
    for name, title in PEERS.items():
        if peer := from_tiktoken(name):
            encoders[title] = lambda texts, peer=peer: sum(map(len, peer.encode_ordinary_batch(texts)))
            vocab_sizes[title] = peer.n_vocab
        else:
            log.say(f"{title}'s vocabulary is neither in tiktoken's cache nor to be had from the network: left out")
    rows = []
    for name, documents in texts.items():
        num_bytes = sum(len(text.encode()) for text in documents)
        rows.append({"text": name, "bytes": num_bytes,
                     "bytes_per_token": {title: num_bytes / count(documents) for title, count in encoders.items()}})
    show(rows, vocab_sizes)
    results.write(paths.results_dir("tokenizer") / "tok_eval.json", {
        "tokenizer": digest, "vocab_sizes": vocab_sizes, "rows": rows}, identity=("tokenizer",))
    log.write_run("tok_eval", seconds=time.monotonic() - started, flags=vars(args))


def from_tiktoken(name: str):
    """tiktoken's encoding, or None when it is not installed or cannot get the file in time."""
    found: list = []

    def get() -> None:
        try:
            import tiktoken
            found.append(tiktoken.get_encoding(name))
        except (ImportError, OSError, ValueError):  # requests' errors are OSErrors; ValueError: a damaged file
            pass

    thread = threading.Thread(target=get, daemon=True)  # tiktoken sets no time limit itself
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return found[0] if found else None


def show(rows: list[dict], vocab_sizes: dict[str, int]) -> None:
    """The table, the best of each row in bold."""
    table = Table(title="bytes per token (more is better)")
    for heading in ("text", "bytes", *(f"{title} ({size:,})" for title, size in vocab_sizes.items())):
        table.add_column(heading, justify="left" if heading == "text" else "right")
    for row in rows:
        values = row["bytes_per_token"].values()
        cells = [f"[bold]{value:.3f}[/]" if value == max(values) else f"{value:.3f}" for value in values]
        table.add_row(row["text"], f"{row['bytes']:,}", *cells)
    Console().print(table)


if __name__ == "__main__":
    cli.run(main)
