"""SpellingBee: how often a letter occurs in an English word, counted with the tool.

"How many times does the letter r appear in strawberry?" → <<'strawberry'.count('r')=3>> #### 3
The items are drawn from a word list in the public domain.
"""
import random
import string
from pathlib import Path
from zlib import crc32

from nanochat.system import files
from tasks.common import Item, WordProblem

NUM_ITEMS = {"train": 8192, "test": 256}  # at most
TEST_ONE_IN = 10  # one in ten words is for the test; a hash of the word decides, so no word is in both sets
LETTERS = string.ascii_lowercase
QUESTIONS = ("How many times does the letter {letter} appear in {word}?", "How many {letter} are in the word {word}?",
             "Count the letter {letter} in {word}.", "How often does {word} have the letter {letter}?")


class SpellingBee(WordProblem):
    """Items are made here, from `misc/english_words.txt`, which has one word per line."""

    def load(self, split: str, data_dir: Path | None = None) -> list[Item]:
        with files.open_text(self.require_path(split, data_dir)) as lines:
            words = sorted({word.strip() for word in lines if word.strip().isalpha() and word.islower()})
        words = [word for word in words if (crc32(word.encode()) % TEST_ONE_IN == 0) == (split == "test")]
        rng = random.Random(f"spellingbee {split}")
        return [_item(rng, word) for word in rng.sample(words, min(NUM_ITEMS[split], len(words)))]


def _item(rng: random.Random, word: str) -> Item:
    # The count is drawn before the letter, so that counts above 1 are not rare.
    count = rng.choice(sorted({word.count(letter) for letter in LETTERS}))
    letter = rng.choice([letter for letter in LETTERS if word.count(letter) == count])
    return {"question": rng.choice(QUESTIONS).format(letter=letter, word=word),
            "answer": f"<<'{word}'.count('{letter}')={count}>>\n#### {count}"}


TASK = SpellingBee("spellingbee", {split: "misc/english_words.txt" for split in NUM_ITEMS}, title="SpellingBee")
