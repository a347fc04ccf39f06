"""Texts that the tests of this room share: real sentences in several scripts, and strings made to be awkward."""
from hypothesis import strategies as st

SENTENCES = [
    "The cat's hat isn't here; we've 12345 cats, they'll say 'tis 3.14!!\n\n  Next   line\r\n\tdone.  I'M SURE YOU'LL",
    "Les élèves n'ont pas été là. Größe, naïve, it'ſ, Привет мир, как дела?",
    "你好世界。こんにちは、世界 안녕하세요 שלום مرحبا بالعالم",
    "def f(x):\n    return {x: [1, 22, 333]}  # comment\n\n\n    if x != 1_000:\n\t\tpass\r\n\r\n",
    "👩‍👩‍👧 🎉🎉 ½ ② ٣٤٥ Ⅻ 𝟙𝟚𝟛 \u00a0nbsp\u3000wide\u2003em \u00a0\u00a0x e\u0301 क्षि “quoted” —dash— …",
    "\0\x00 \x1c \x85 \x0b\x0c 'LL'Re'x''s '\n's !'s  's\t's",
    "", " ", "\n", "   \n \n\n  x   ", "!!\n\n \n x", "?\r\n\r\n  "]

# Every class of character the pattern distinguishes, in UTF-8 lengths from 1 to 4.
AWKWARD = "ab  \n\r\t's'SſlLvVeErRtdm12½٣²!(“”\u00a0\u3000\x85\x1c\0é你😀𝐀𝟙\u0301\u200d"
awkward_texts = st.text(alphabet=AWKWARD, max_size=200)
any_texts = st.text(max_size=100)  # all planes; no lone surrogates


def runs(length: int) -> list[str]:
    """One thing again and again, `length` times."""
    units = (" ", "\n", "a", "1", "'", "!", "é", "\u00a0", "\r\n", " \n", "'s", "你", "ab")
    return [unit * length + end for unit in units for end in ("", "x", " x", "!", "\n")]
