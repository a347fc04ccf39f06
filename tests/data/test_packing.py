import random
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.packing import pack, pieces, to_batch

BOS = 0


def slow_pack(documents, row_len):
    """Best fit, longest first, by looking at every row for every piece."""
    parts = [part for document in documents for part in pieces(document, row_len, BOS) if any(part[1][1:])]
    rows: list[list] = []
    for part in sorted(parts, key=lambda part: len(part[0]), reverse=True):
        free = [row_len - sum(len(ids) for ids, _ in row) for row in rows]
        fitting = [(room, index) for index, room in enumerate(free) if room >= len(part[0])]
        if fitting:
            rows[min(fitting)[1]].append(part)
        else:
            rows.append([part])
    ids = [[token for part in row for token in part[0]] for row in rows]
    mask = [[bool(learnt) for part in row for learnt in part[1]] for row in rows]
    pad = lambda row, value: row + [value] * (row_len - len(row))  # noqa: E731
    return [pad(row, BOS) for row in ids], [pad(row, False) for row in mask]


@st.composite
def corpora(draw):
    """Documents of distinct tokens, so that each can be followed; masks of any kind, some without a target."""
    lengths = draw(st.lists(st.integers(1, 40), max_size=25))
    documents, token = [], 1
    for length in lengths:
        mask = draw(st.sampled_from(["all", "none", "some"]))
        learnt = {"all": [1] * length, "none": [0] * length}.get(mask) or draw(
            st.lists(st.integers(0, 1), min_size=length, max_size=length))
        documents.append(([BOS, *range(token, token + length - 1)], learnt))
        token += length - 1
    return documents


@given(corpora(), st.integers(3, 24))
@settings(max_examples=150, deadline=None)
def test_no_token_is_lost_and_none_is_a_target_twice(documents, row_len):
    ids, mask = pack(documents, row_len, BOS)
    assert ids.shape == mask.shape == (len(ids), row_len) and ids.dtype == np.int32 and mask.dtype == bool
    assert (ids[:, 0] == BOS).all()  # every row starts a document
    assert mask[:, 1:].any(axis=1).all()  # no row is without targets
    placed = Counter(ids[ids != BOS].tolist())
    targets = Counter(ids[:, 1:][mask[:, 1:] & (ids[:, 1:] != BOS)].tolist())
    assert max(placed.values(), default=1) == max(targets.values(), default=1) == 1
    learnable = {token for tokens, learnt in documents for token, one in zip(tokens, learnt) if one and token != BOS}
    assert set(targets) <= learnable
    wanted = [part for document in documents for part in pieces(document, row_len, BOS) if any(part[1][1:])]
    assert set(placed) == {token for tokens, _ in wanted for token in tokens} - {BOS}
    assert set(targets) == {token for tokens, learnt in wanted for token, one in zip(tokens, learnt) if one} - {BOS}


@given(corpora(), st.integers(3, 24))
@settings(max_examples=60, deadline=None)
def test_packing_is_its_slow_twin(documents, row_len):
    ids, mask = pack(documents, row_len, BOS)  # lists, as conversations are
    arrays = [(np.array(tokens), np.array(learnt)) for tokens, learnt in documents]  # as text is
    assert all(np.array_equal(a, b) for a, b in zip((ids, mask), pack(arrays, row_len, BOS)))
    slow_ids, slow_mask = slow_pack(documents, row_len)
    # the fast one closes a row with one place left: no piece with a target is that short
    assert ids.tolist() == slow_ids and mask.tolist() == slow_mask


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(2, 12))
@settings(max_examples=100, deadline=None)
def test_pieces_join_to_the_document(ids, room):
    document = ([BOS, *ids], [0, *(token % 2 for token in ids)])
    before = [np.array(part) for part in document]
    cut = [(part.tolist(), learnt.tolist()) for part, learnt in pieces(before, room, BOS)]
    assert [part.tolist() for part in before] == list(document), "the document is not written to"
    assert all(len(part) == len(learnt) <= room and part[0] == BOS for part, learnt in cut)
    assert [token for part, _ in cut for token in part[1:]] == ids
    for number, (part, learnt) in enumerate(cut):
        expected = [token % 2 for token in part[1:]]
        if number:
            expected[0] = 0  # the cut's first own token has nothing to be told from
        assert learnt[1:] == expected and learnt[0] == 0


def test_what_follows_a_cut_still_counts():
    """Of 1,000 tokens in rows of 101 all but the ten first ones of later pieces are targets."""
    document = ([BOS, *range(1, 1001)], [1] * 1001)
    _, mask = pack([document], 101, BOS)
    assert mask[:, 1:].sum() == 1000 - 9


def test_rows_are_nearly_full_where_documents_vary():
    """1,024 documents as web text has them (log-normal, median 400 tokens) in rows of 2,049: under 1 % padding."""
    draw = random.Random(0)
    documents = [([BOS] + [1] * max(1, int(draw.lognormvariate(6, 1))), None) for _ in range(1024)]
    documents = [(ids, [1] * len(ids)) for ids, _ in documents]
    ids, mask = pack(documents, 2049, BOS)
    assert mask.mean() > 0.99


def test_the_order_of_equal_documents_does_not_depend_on_chance():
    documents = [([BOS, n, n], [0, 1, 1]) for n in range(1, 50)]
    first, again = pack(documents, 10, BOS), pack(list(documents), 10, BOS)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))


def test_nothing_in_nothing_out():
    for documents in ([], [([BOS], [1])], [([BOS, 1, 2], [1, 0, 0])]):
        ids, mask = pack(documents, 8, BOS)
        assert ids.shape == mask.shape == (0, 8)


def test_batches_are_shifted_by_one():
    ids, mask = pack([([BOS, 5, 6], [0, 0, 1]), ([BOS, 7], [1, 1])], 7, BOS)
    batch = to_batch(ids, mask, {"row": 1})
    assert batch.ids.tolist() == [[0, 5, 6, 0, 7, 0]] and batch.ids.dtype is torch.int64
    assert batch.targets.tolist() == [[-1, 6, 0, 7, -1, -1]] and batch.state == {"row": 1} and batch.weights is None
    assert batch.to(torch.device("cpu")) is batch
