r"""The pre-tokenizer: cuts text into words as the pattern in `bpe.py` does, 64 bytes at a time, one bit per byte.

Whether a word starts at a character depends, with few exceptions, only on its class (letter, number, white space, line
break, anything else) and on the classes of the characters before and after it. So every byte gets a class, and 64
answers to a question such as "is this byte a letter?" fill one 64-bit mask:

    It isn't    letter      11011101   one bit per byte, the first byte on the left
                letter << 1 01101110   the same, moved by one byte: "is the byte before this one a letter?"
                start       10010001   letter & ~(letter << 1): a letter whose left neighbour is no letter

Two instructions find the starts in 64 bytes. (Other rules then take the space to the word "isn" and make "'t" a word.)
Four rules need a loop, which runs only where they apply: runs of digits, contractions, white space after a line break,
white space outside ASCII.

All documents are in one buffer, each between two bytes 0xFF, which UTF-8 never contains. `reference.split` is the
slow twin with which the tests compare this file.
"""
import numpy as np

from nanochat.system.jit import njit
from nanochat.tokenizer import unicode_ranges
from nanochat.tokenizer.intrinsics import lowest_bit

SEPARATOR = bytearray(b"\xff")  # a byte that UTF-8 never contains
# The classes are bits, and a byte can have several. SPACE is white space except line breaks; BLANK is U+0020, which is
# a SPACE, too; an APOSTROPHE is an OTHER, too. INSIDE marks the second to fourth byte of a character, which also have
# the class of the character. The separator 0xFF has none.
LETTER, NUMBER, OTHER, SPACE, NEWLINE, BLANK, INSIDE, APOSTROPHE = (1 << bit for bit in range(8))
WORDLIKE = LETTER | NUMBER | OTHER  # the pattern's \S


def _class_table() -> np.ndarray:
    """The class of every code point, uint8."""
    table = np.full(0x110000, OTHER, np.uint8)
    for ranges, value in ((unicode_ranges.LETTERS, LETTER), (unicode_ranges.NUMBERS, NUMBER),
                          (unicode_ranges.SPACES, SPACE), (((10, 10), (13, 13)), NEWLINE),
                          (((32, 32),), SPACE | BLANK), (((39, 39),), OTHER | APOSTROPHE)):
        for first, last in ranges:
            table[first:last + 1] = value
    return table


CLASSES = _class_table()  # 1.1 MB: one byte per code point
ASCII_CLASSES = np.where(np.arange(256) < 128, CLASSES[:256], 0).astype(np.uint8)

ONE, TOP = np.uint64(1), np.uint64(63)  # typed: with Python's integers Numba would compute in floats
BYTE_LOW_BITS = np.uint64(0x0101010101010101)
BYTE_HIGH_BITS = np.uint64(0x8080808080808080)  # set in every byte of a character beyond ASCII
GATHER = np.uint64(0x0102040810204080)  # multiplied by eight bytes of 0 or 1: their eight bits in the top byte


def utf8(text: str) -> bytes:
    """The text as UTF-8. Surrogates cannot be encoded: a pair becomes its character, a single one U+FFFD, as in
    tiktoken."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def buffer(documents: list[bytes]) -> tuple[np.ndarray, int]:
    """The documents in one array, each between two 0xFF bytes, and the length up to the last of these."""
    # At least 64 more 0xFF follow: the loops read whole blocks of 64 bytes and the byte after a block.
    length = sum(map(len, documents)) + len(documents) + 1
    return np.frombuffer(SEPARATOR.join([b"", *documents, SEPARATOR * (128 - length % 64)]), np.uint8), length


class Splitter:
    """Finds the words of documents. It keeps its scratch memory between calls, so each thread needs its own."""

    def __init__(self, digits: int):
        self.digits = digits
        self._classes, self._starts = np.empty(0, np.uint8), np.empty(0, np.int32)

    def words(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """A uint8 buffer of the texts, and int32 indices where its words start; valid until the next call.

        Each 0xFF between two texts is a word, too. The last start is the 0xFF after the last text.
        """
        data, length = buffer([utf8(text) for text in texts])
        if len(data) > len(self._classes):
            self._classes, self._starts = np.empty(2 * len(data), np.uint8), np.empty(2 * len(data), np.int32)
        classes = self._classes[:len(data)]
        _classify(data, data.view(np.uint64), classes, CLASSES, ASCII_CLASSES)
        number = _starts(data, classes, classes.view(np.uint64), length, self.digits, self._starts)
        return data, self._starts[:number]


@njit(nogil=True)
def _classify(data, data64, classes, table, ascii_table):
    """Fills `classes`: ASCII by a small table, the characters beyond by decoding them."""
    for i in range(len(data)):
        classes[i] = ascii_table[data[i]]
    for j in range(len(data64)):
        if data64[j] & BYTE_HIGH_BITS:  # one test for eight bytes; English text rarely gets further
            _classify_beyond_ascii(data, 8 * j, classes, table)


@njit(nogil=True)
def _classify_beyond_ascii(data, begin, classes, table):
    """Classifies the characters of two to four bytes whose first byte is one of eight bytes."""
    for i in range(begin, begin + 8):
        if 0xC0 <= data[i] < 0xFF:  # the first byte of such a character
            size = 2 + (data[i] >= 0xE0) + (data[i] >= 0xF0)
            point = data[i] & (0x7F >> size)
            for k in range(1, size):
                point = point << 6 | (data[i + k] & 0x3F)
            classes[i] = table[point]
            for k in range(1, size):
                classes[i + k] = table[point] | INSIDE


@njit(nogil=True)
def _starts(data, classes, classes64, length, digits, starts):
    """Writes the word starts and returns their number. A comment quotes the part of the pattern that its line does."""
    count = 0
    run = 0  # digits since the last start, carried from block to block
    late = np.uint64(0)  # starts in this block that were found while the block before was read
    # The last bit of each mask of the previous block: the class of the byte before the first byte of this block.
    old_letter = old_number = old_other = old_space = old_newline = old_blank = old_single = np.uint64(0)
    for base in range(0, length, 64):
        letter = number = other = space = newline = blank = inside = apostrophe = np.uint64(0)
        for k in range(8):
            eight = classes64[base // 8 + k]
            shift = np.uint64(8 * k)
            letter |= _gather(eight) << shift
            number |= _gather(eight >> np.uint64(1)) << shift
            other |= _gather(eight >> np.uint64(2)) << shift
            space |= _gather(eight >> np.uint64(3)) << shift
            newline |= _gather(eight >> np.uint64(4)) << shift
            blank |= _gather(eight >> np.uint64(5)) << shift
            inside |= _gather(eight >> np.uint64(6)) << shift
            apostrophe |= _gather(eight >> np.uint64(7)) << shift
        after = np.uint64(classes[base + 64])  # the class of the first byte of the next block
        # A mask shifted left has the class of each byte's left neighbour, shifted right that of its right neighbour.
        wordlike = letter | number | other
        next_wordlike = wordlike >> ONE | np.uint64((after & np.uint64(WORDLIKE)) != 0) << TOP
        prev_space = space << ONE | old_space
        prev_newline = newline << ONE | old_newline
        prev_other = other << ONE | old_other

        # ` ?[^\s\p{L}\p{N}]++`: the first of a run of others, unless U+0020 stands before it and starts the word
        single = other & ~(prev_other | blank << ONE | old_blank)
        start = single
        # `[^\r\n\p{L}\p{N}]?+\p{L}+`: the first letter, unless the one other character stands before it. That
        # character may have up to four bytes: its bit moves on to its last byte.
        for _ in range(3 if inside else 0):
            single |= (single << ONE | old_single) & inside
        start |= letter & ~(letter << ONE | old_letter | prev_space | single << ONE | old_single)
        # `\s+`: the first of a run, and the last if a word follows; `[\r\n]*` belongs to the punctuation before it
        start |= space & ~inside & (~(prev_space | prev_newline) | next_wordlike)
        start |= newline & ~(prev_space | prev_newline | prev_other)
        start |= ~(wordlike | space | newline)  # the separators

        run, bits = _number_starts(number, inside, old_number, run, digits)
        start |= bits | late
        next_letter = letter >> ONE | (after & np.uint64(LETTER)) << TOP
        bits, late = _after_contractions(data, base, apostrophe & single & next_letter)
        start |= bits
        next_inside = inside >> ONE | np.uint64((after & np.uint64(INSIDE)) != 0) << TOP
        start |= _space_starts(classes, base, space & ~inside & (prev_newline | next_inside))

        while start:
            starts[count] = base + np.int64(lowest_bit(start))
            count += 1
            start &= start - ONE  # clears the lowest bit
        old_letter, old_number, old_other, old_space = letter >> TOP, number >> TOP, other >> TOP, space >> TOP
        old_newline, old_blank, old_single = newline >> TOP, blank >> TOP, single >> TOP
    while starts[count - 1] >= length:  # the 0xFF bytes after the last document
        count -= 1
    return count


@njit(nogil=True)
def _gather(eight):
    """The lowest bits of eight bytes, side by side."""
    return ((eight & BYTE_LOW_BITS) * GATHER) >> np.uint64(56)


@njit(nogil=True)
def _number_starts(number, inside, old_number, run, digits):
    r"""`\p{N}{1,digits}`: (digits since the last start, counted up to the end of the block; the starts)."""
    starts = np.uint64(0)
    todo = number
    while todo:
        i = lowest_bit(todo)
        if not (number >> (i - ONE) & ONE if i else old_number):  # the previous byte is not a number: a new run
            run = 0
        if not inside >> i & ONE:
            starts |= np.uint64(run == 0) << i
            run = run + 1 if run + 1 < digits else 0
        todo &= todo - ONE
    return run, starts


@njit(nogil=True)
def _after_contractions(data, base, todo):
    """`'(?i:[sdmt]|ll|ve|re)` at these apostrophes: the starts after these words, in this block and in the next."""
    now = late = np.uint64(0)
    while todo:
        i = lowest_bit(todo)
        at = base + np.int64(i)
        first, second = data[at + 1] | 0x20, data[at + 2] | 0x20  # lower case
        size = 0
        if first == 0x73 or first == 0x64 or first == 0x6D or first == 0x74:  # s d m t
            size = 2
        elif first == 0x6C and second == 0x6C or (first == 0x76 or first == 0x72) and second == 0x65:  # ll ve re
            size = 3
        elif data[at + 1] == 0xC5 and data[at + 2] == 0xBF:  # ſ, U+017F, which matches s where case is ignored
            size = 3
        end = i + np.uint64(size)
        if size and end < np.uint64(64):
            now |= ONE << end
        elif size:
            late |= ONE << (end - np.uint64(64))
        todo &= todo - ONE
    return now, late


@njit(nogil=True)
def _space_starts(classes, base, todo):
    """A mask of the starts among these white space characters (after a line break, or outside ASCII)."""
    starts = np.uint64(0)
    while todo:
        i = lowest_bit(todo)
        starts |= np.uint64(_starts_space(classes, base + np.int64(i))) << i
        todo &= todo - ONE
    return starts


@njit(nogil=True)
def _starts_space(classes, i):
    r"""Whether a word starts at the white space character at i: `\s*[\r\n]|\s+(?!\S)|\s+`."""
    before = i - 1
    while classes[before] & NEWLINE:
        before -= 1
    if before == i - 1 and not classes[before] & SPACE or before < i - 1 and classes[before] & OTHER:
        return True  # the first of its run, not counting line breaks that belong to punctuation
    end = i + 1
    while classes[end] & INSIDE:
        end += 1
    if classes[end] & WORDLIKE:
        return True  # the last before a word
    while classes[end] & SPACE:
        end += 1
    return before < i - 1 and not classes[end] & NEWLINE  # the first after the last line break
