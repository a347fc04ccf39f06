"""Which request owns which slot of the cache: plain lists, no tensors; the cache copies and swaps slots on demand.

Slots 0 … num_running − 1 belong to the requests that are being answered, without gaps: a decode step reads one slice of
the cache. Each of the other slots is free (None), or its request's prompt is being read, or (with `keep_finished`) its
request is finished, and its keys and values may serve a later prompt.

Keys and values of a token depend only on the tokens up to it. So a prompt that begins like the sequence in another slot
need not be read from the start: the common beginning (prefix) is copied from that slot, whose owner is the donor. If
the donor itself has not read the whole prefix yet, the new request waits until it has. It does not wait for ever: when
the donor is cancelled, the request takes the part that has been read, or reads its prompt itself.
"""

import time
from collections import deque
from dataclasses import dataclass

from nanochat.infer.cache import SlotCache
from nanochat.infer.request import Request
from nanochat.infer.sampling import SamplingParams

NO_SETTINGS = SamplingParams()  # settings kept for a finished request
MIN_SHARED = 16  # tokens; computing fewer is cheaper than copying them or waiting for the donor


@dataclass(eq=False)
class Occupant:
    """A request in a slot, and what the slot holds of it."""

    request: Request
    joined_at_step: int
    last_used_step: int  # the step at which it left the running requests; before that, the step at which it joined
    cached: int = 0  # positions of its sequence that the slot holds

    def keep_tokens(self) -> None:
        """Keep only the tokens of a finished request: its log-probabilities and its grammar may take megabytes."""
        old = self.request
        if old.params is not NO_SETTINGS:
            self.request = Request(old.prompt, NO_SETTINGS, 0, 0, frozenset(), ids=old.ids, stop_reason=old.stop_reason)

    @property
    def is_finished(self) -> bool:
        return bool(self.request.stop_reason)

    @property
    def unread(self) -> int:
        """Prompt tokens that the model must read before the first decode, which feeds the last one."""
        return len(self.request.prompt) - 1 - self.cached


class Slots:
    """The owners of the first `max_rows` slots of `cache`, and the requests that wait for a slot."""

    def __init__(self, cache: SlotCache, max_rows: int, keep_finished: bool):
        self.cache, self.max_rows, self.keep_finished = cache, max_rows, keep_finished
        self.waiting: deque[Request] = deque()
        self.occupants: list[Occupant | None] = [None] * max_rows
        self.num_running = 0
        self.num_held_back = 0  # requests at the front of `waiting` whose donor has not read the shared prefix yet
        self.num_steps = self.num_reused_tokens = 0  # since the start

    @property
    def running(self) -> list[Occupant]:
        """The requests that are being answered, in the order of their slots."""
        return [row for row in self.occupants[:self.num_running] if row is not None]

    @property
    def reading(self) -> list[Occupant]:
        """The requests whose prompts are being read, sorted by arrival, then by the length that is left to read."""
        rows = [row for row in self.occupants[self.num_running:] if row is not None and not row.is_finished]
        return sorted(rows, key=lambda row: (row.joined_at_step, row.unread))

    def schedule(self) -> None:
        """Begin a step: finished requests leave, waiting requests take free slots."""
        self.num_steps += 1
        self._remove_finished()
        self._admit_waiting()

    def to_read(self) -> list[Occupant]:
        """The requests with prompt tokens to read."""
        if self.num_held_back:  # by now their donors may have read the prefix
            self._admit_waiting()
        return [row for row in self.reading if row.unread]

    def start_answering(self) -> None:
        """Requests whose prompts have been read join the running ones."""
        for row in self.reading:
            if not row.unread:
                self._swap(self.occupants.index(row), self.num_running)
                self.num_running += 1
                row.request.read = time.monotonic()

    def _remove_finished(self) -> None:
        for slot in range(self.num_running - 1, -1, -1):
            row = self.occupants[slot]
            if row is not None and row.is_finished:
                row.last_used_step = self.num_steps
                if not self.keep_finished:
                    self.occupants[slot] = None
                self.num_running -= 1
                self._swap(slot, self.num_running)  # the last running request moves into the gap
        for slot in range(self.num_running, self.max_rows):  # also those that were cancelled while they were being read
            row = self.occupants[slot]
            if row is not None and row.is_finished and self.keep_finished:
                row.keep_tokens()
            elif row is not None and row.is_finished:
                self.occupants[slot] = None

    def _swap(self, slot: int, other: int) -> None:
        if slot != other:
            first, second = self.occupants[slot], self.occupants[other]
            self.cache.swap(slot, other, first.cached if first else 0, second.cached if second else 0)
            self.occupants[slot], self.occupants[other] = second, first

    def _admit_waiting(self) -> None:
        if not self.waiting:
            return
        self.waiting = deque(request for request in self.waiting if not request.stop_reason)
        num_free = sum(row is None or row.is_finished for row in self.occupants)
        # Wait until an eighth of the slots is free (or all waiting requests fit), so that prompts are read in batches.
        # Not while requests wait for their donors: they start as soon as the prefix has been read.
        if not self.num_held_back and num_free < min(len(self.waiting), max(1, self.max_rows // 8)):
            return
        held_back: deque[Request] = deque()
        for _ in range(min(num_free, len(self.waiting))):
            request = self.waiting.popleft()
            donor, shared = self._find_donor(request)
            if donor is not None and donor.cached < shared:  # the donor is still reading the shared prefix
                held_back.append(request)
            else:
                self._place(request, donor, shared)
        self.waiting, self.num_held_back = held_back + self.waiting, len(held_back)

    def _place(self, request: Request, donor: Occupant | None, shared: int) -> None:
        """Give a request a slot, and the first `shared` positions of the donor."""
        newcomer, slot = Occupant(request, self.num_steps, self.num_steps), self._choose_slot(donor, shared)
        request.began = time.monotonic()
        if donor is not None:
            newcomer.cached = request.num_reused = shared
            self.num_reused_tokens += shared
            if self.occupants[slot] is not donor:  # otherwise the slot holds the prefix already
                self.cache.copy(self.occupants.index(donor), slot, shared)
        self.occupants[slot] = newcomer

    def _find_donor(self, request: Request) -> tuple[Occupant | None, int]:
        """The occupant with the longest common beginning, and its length; (None, 0) if none is worth copying."""
        donor, longest, needed = None, 0, request.prompt[:-1]
        for row in filter(None, self.occupants):
            same_prompt = row.request.prompt == request.prompt
            # Without keep_finished only unfinished requests with the same prompt share: the samples of one question.
            if not self.keep_finished and (row.is_finished or not same_prompt):
                continue
            # An unfinished request is going to read its whole prompt, so the whole prompt can be shared.
            num_stored = row.cached if row.is_finished else max(row.cached, len(row.request.prompt) - 1)
            shared = _common_prefix([*row.request.prompt, *row.request.ids][:num_stored], needed)
            if shared > longest and (shared >= MIN_SHARED or same_prompt):
                donor, longest = row, shared
                if longest == len(needed):
                    break
        return donor, longest

    def _choose_slot(self, donor: Occupant | None, shared: int) -> int:
        if donor is not None and donor.is_finished and 2 * shared >= donor.cached:
            return self.occupants.index(donor)  # nothing is copied, and at most half of the donor's tokens are lost
        if None in self.occupants:
            return self.occupants.index(None)
        finished = [row for row in self.occupants if row is not None and row.is_finished]
        return self.occupants.index(min(finished, key=lambda row: row.last_used_step))  # unused for the longest time


def _common_prefix(a: list[int], b: tuple[int, ...]) -> int:
    """How many tokens two sequences have in common at the beginning: [1, 2, 3] and (1, 2, 9) → 2."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
