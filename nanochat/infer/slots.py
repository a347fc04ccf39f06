"""Which request owns which slot of the cache: the queue, and who takes over keys and values from whom.

This is bookkeeping with plain Python lists; only the cache, which copies and swaps slots on demand, has tensors.

    slot   0 … num_running − 1   requests that are being answered, without gaps: a decode step reads one slice of the cache
           the others            free (None), or a request whose prompt is being read, or (with `keep_finished`)
                                 a finished request: its keys and values may serve a later prompt with the same beginning

A prompt that begins like another sequence need not be read from the start: keys and values of a token depend only on
the tokens up to it, so the common beginning can be copied from the other slot (the donor).
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from nanochat.infer.request import Request

# A shorter common beginning is not shared: reading so few tokens costs little, and waiting for a donor costs steps.
MIN_SHARED = 16


class SlotStorage(Protocol):
    """What this file needs of nanochat/infer/cache.py."""

    def copy(self, source: int, target: int, length: int) -> None: ...

    def swap(self, slot: int, other: int, length: int, other_length: int) -> None: ...


@dataclass(eq=False)
class Occupant:
    """A request in a slot, and what the slot holds of it."""

    request: Request
    joined_at_step: int
    last_used_step: int  # the step it joined or, once it was answered, the step it left
    cached: int = 0  # positions of its sequence that are stored in the slot
    prefix_donor: "Occupant | None" = None  # the occupant whose first positions it waits to copy
    prefix_len: int = 0  # and how many

    @property
    def is_finished(self) -> bool:
        return bool(self.request.stop_reason)

    @property
    def unread(self) -> int:
        """Prompt tokens the model has yet to read before it can answer. (The last token is fed by the first decode.)"""
        return len(self.request.prompt) - 1 - self.cached


class Slots:
    """Owners of `max_rows` slots of `cache`, and the requests that wait for one."""

    def __init__(self, cache: SlotStorage, max_rows: int, keep_finished: bool):
        self.cache, self.max_rows, self.keep_finished = cache, max_rows, keep_finished
        self.waiting: deque[Request] = deque()
        self.occupants: list[Occupant | None] = [None] * max_rows
        self.num_running = 0
        self.num_steps = self.num_reused_tokens = 0  # since the start

    @property
    def running(self) -> list[Occupant]:
        """The requests that are being answered, in the order of their slots."""
        return [occupant for occupant in self.occupants[:self.num_running] if occupant is not None]

    @property
    def reading(self) -> list[Occupant]:
        """The requests whose prompts are being read, in the order in which they get to read."""
        rows = [row for row in self.occupants[self.num_running:] if row is not None and not row.is_finished]
        return sorted(rows, key=lambda row: (row.joined_at_step, row.prefix_donor is not None, row.unread))

    def schedule(self) -> None:
        """Begin a step: finished requests leave, waiting requests take free slots."""
        self.num_steps += 1
        self._remove_finished()
        self._admit_waiting()

    def slot_of(self, occupant: Occupant) -> int:
        return self.occupants.index(occupant)

    def note_decoded(self) -> None:
        """Every running request has got one more position in the cache: that of the token it was fed."""
        for row in self.running:
            row.cached += 1

    def to_read(self) -> list[Occupant]:
        """The requests with prompt tokens left to read, except those that wait for a donor."""
        reading = self.reading
        for row in reading:
            if row.prefix_donor is not None:
                self._copy_prefix(row, row.prefix_donor)
        return [row for row in reading if row.prefix_donor is None and row.unread]

    def start_answering(self) -> None:
        """Requests whose prompts have been read move to the running ones."""
        for row in self.reading:
            if row.prefix_donor is None and not row.unread:
                self._swap(self.slot_of(row), self.num_running)
                self.num_running += 1

    def _remove_finished(self) -> None:
        """Finished requests leave; the last running request moves into each gap."""
        if not self.keep_finished:  # requests that were cancelled before their prompts had been read
            self.occupants[self.num_running:] = [None if row is None or row.is_finished else row
                                                 for row in self.occupants[self.num_running:]]
        for slot in range(self.num_running - 1, -1, -1):
            row = self.occupants[slot]
            if row is None or not row.is_finished:
                continue
            row.last_used_step = self.num_steps
            if not self.keep_finished:
                self.occupants[slot] = None
            self.num_running -= 1
            self._swap(slot, self.num_running)

    def _swap(self, slot: int, other: int) -> None:
        """Two slots change places."""
        if slot == other:
            return
        first, second = self.occupants[slot], self.occupants[other]
        self.cache.swap(slot, other, first.cached if first else 0, second.cached if second else 0)
        self.occupants[slot], self.occupants[other] = second, first

    def _admit_waiting(self) -> None:
        """Waiting requests take the free slots."""
        if not self.waiting:
            return
        self.waiting = deque(request for request in self.waiting if not request.stop_reason)
        num_free = sum(row is None or row.is_finished for row in self.occupants)
        # An eighth of all slots at a time at least, so that prompts are read in batches. Fewer if fewer wait.
        if not self.waiting or num_free < min(len(self.waiting), max(1, self.max_rows // 8)):
            return
        joining = [self.waiting.popleft() for _ in range(min(num_free, len(self.waiting)))]
        # Of requests with the same prompt only one reads it: it is placed first, so that it can be the others' donor.
        # A short prompt goes before a longer one, which may begin with it.
        present = {row.request.prompt for row in self.occupants if row is not None and not row.is_finished}
        readers = sorted({request.prompt: request for request in joining if request.prompt not in present}.values(),
                         key=lambda request: len(request.prompt))
        for request in [*readers, *(request for request in joining if request not in readers)]:
            self._place(request)

    def _place(self, request: Request) -> None:
        """Give a request a slot, and the beginning of its prompt from another slot that holds it."""
        newcomer = Occupant(request, self.num_steps, self.num_steps)
        donor, shared = self._find_donor(request)
        slot = self._choose_slot(donor, shared)
        evicted, self.occupants[slot] = self.occupants[slot], newcomer
        if donor is None:
            return
        if donor is evicted:  # the newcomer owns the donor's slot now, and with it the keys and values
            newcomer.cached = shared
            self.num_reused_tokens += shared
        else:
            newcomer.prefix_donor, newcomer.prefix_len = donor, shared
            self._copy_prefix(newcomer, donor)

    def _find_donor(self, request: Request) -> tuple[Occupant | None, int]:
        """The occupant with the longest common beginning, and its length; (None, 0) if nothing is worth sharing."""
        wanted = request.prompt[:-1]
        donor, shared = None, 0
        for row in self.occupants:
            if row is None:
                continue
            same_prompt = row.request.prompt == request.prompt
            # Without keep_finished only equal prompts are shared, and only while the other request lives.
            if not self.keep_finished and (row.is_finished or not same_prompt):
                continue
            # A living request will have read its whole prompt soon, so its future positions count.
            num_stored = row.cached if row.is_finished else max(row.cached, len(row.request.prompt) - 1)
            common = _common_prefix([*row.request.prompt, *row.request.ids][:num_stored], wanted)
            if common > shared and (common >= MIN_SHARED or same_prompt):
                donor, shared = row, common
                if shared == len(wanted):
                    break
        return donor, shared

    def _choose_slot(self, donor: Occupant | None, shared: int) -> int:
        """The slot for a newcomer: the donor's own if possible, else an empty one, else the longest unused one."""
        if donor is not None and donor.is_finished and 2 * shared >= donor.cached:  # little of the donor's would be lost
            return self.slot_of(donor)
        if None in self.occupants:
            return self.occupants.index(None)
        finished = [row for row in self.occupants if row is not None and row.is_finished]
        return self.slot_of(min(finished, key=lambda row: row.last_used_step))

    def _copy_prefix(self, row: Occupant, donor: Occupant) -> None:
        """Copy the common beginning from the donor, as soon as the donor has read it.

        A finished donor will read no more and gives what it has. A donor that lost its slot gives nothing.
        """
        has_slot = donor in self.occupants
        if has_slot and not donor.is_finished and donor.cached < row.prefix_len:
            return
        row.prefix_donor = None
        if has_slot:
            row.cached = min(row.prefix_len, donor.cached)
            self.num_reused_tokens += row.cached
            self.cache.copy(self.slot_of(donor), self.slot_of(row), row.cached)


def _common_prefix(a: list[int], b: tuple[int, ...]) -> int:
    """How many tokens two sequences have in common at the beginning: [1, 2, 3] and (1, 2, 9) → 2."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
