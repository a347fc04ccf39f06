import itertools
import multiprocessing
import pickle
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanochat.data import loader, shards
from nanochat.data.loader import ListCorpus, TextCorpus, batches, prefetched
from nanochat.system.files import UserError

BOS = 0


def corpus(num_documents=23, group_size=5, length=6):
    """Distinct tokens, one document a row (length = row), so that rows can be told apart and counted."""
    documents = [([BOS, *range(1 + n * length, (n + 1) * length)], [1] * length) for n in range(num_documents)]
    return ListCorpus(documents, group_size)


def take(iterator, number=None):
    return list(itertools.islice(iterator, number))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x.ids, y.ids) and torch.equal(x.targets, y.targets) and x.state == y.state for x, y in zip(a, b))


def rows_of(stream):
    return [tuple(row) for batch in stream for row in batch.ids.tolist()]


@pytest.mark.parametrize("num_documents, group_size, rows", [(23, 5, 3), (4, 5, 3), (10, 5, 5), (1, 5, 1), (3, 1, 3)])
def test_resumed_anywhere_the_stream_goes_on_the_same(num_documents, group_size, rows):
    make = lambda **more: batches(corpus(num_documents, group_size), rows, 5, BOS, seed=7, **more)  # noqa: E731
    stream = take(make(), 30)
    for at in range(25):
        assert same(take(make(state=stream[at].state), 5), stream[at + 1:at + 6])


def test_an_epoch_holds_every_row_once_and_each_is_shuffled_anew():
    stream = take(batches(corpus(20, 5), 4, 5, BOS), 15)
    epochs = [rows_of(stream[start:start + 5]) for start in (0, 5, 10)]
    assert len(set(epochs[0])) == 20 and all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    other = rows_of(take(batches(corpus(20, 5), 4, 5, BOS, seed=1), 5))
    assert other != epochs[0] and sorted(other) == sorted(epochs[0])


def neighbours(epoch):
    """Which document follows which within the rows of an epoch; a document is known by its second token."""
    firsts = [[ids[i + 1] for i in range(len(ids) - 1) if ids[i] == BOS and ids[i + 1] != BOS] for ids in epoch]
    return {pair for row in firsts for pair in zip(row, row[1:])}


@pytest.mark.parametrize("spread", [0, 10], ids=["equal lengths", "distinct lengths"])
def test_every_epoch_has_other_neighbours_in_another_order(spread):
    # Documents that always follow each other are learnt as one text, and answer nothing when they are asked alone.
    documents = [([BOS, 100 + n, *[1] * (6 + n % (spread + 1))], [1] * (8 + n % (spread + 1))) for n in range(40)]
    stream = batches(ListCorpus(documents), 1, 64, BOS, seed=3, epochs=2)
    epochs = [[], []]
    for batch in stream:
        epochs[batch.state["epoch"] - (batch.state["row"] == 0)] += batch.ids.tolist()
    first, second = map(neighbours, epochs)
    assert min(len(first), len(second)) > 20 and len(first & second) < len(first) / 3
    assert {b for _, b in first} - {b for _, b in second}, "another document stands first in a row"


def test_limited_epochs_end_with_a_short_batch():
    stream = take(batches(corpus(23, 5), 4, 5, BOS, epochs=2))
    assert [len(batch.ids) for batch in stream] == [4] * 11 + [2]  # rows flow over from one epoch to the next
    assert sorted(rows_of(stream)) == sorted(2 * list(set(rows_of(stream))))
    assert take(batches(corpus(23, 5), 4, 5, BOS, epochs=2, state=stream[-1].state)) == []


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("epochs", [None, 1, 2])
def test_the_ranks_together_see_what_one_rank_sees(world_size, epochs):
    make = lambda **more: batches(corpus(), 2, 5, BOS, epochs=epochs, **more)  # noqa: E731
    alone = take(make(), 28 if epochs is None else None)
    ranks = [take(make(rank=rank, world_size=world_size), 24 // world_size if epochs is None else None)
             for rank in range(world_size)]
    mixed = [batch for step in itertools.zip_longest(*ranks) for batch in step if batch is not None]
    assert rows_of(mixed) == rows_of(alone[:24])
    for step in zip(*ranks):
        assert all(batch.state == step[0].state for batch in step)
    for at in range(len(ranks[0])):  # and a run may go on with another number of ranks
        state = ranks[0][at].state
        assert rows_of(take(make(state=state), 4)) == rows_of(alone[(at + 1) * world_size:][:4])


@pytest.mark.parametrize("documents", [[], [([BOS], [1])] * 3, [([BOS, 1, 2], [1, 0, 0])]])
@pytest.mark.parametrize("epochs", [None, 1])
def test_without_a_single_target_it_says_so_and_does_not_spin(documents, epochs):
    with pytest.raises(UserError, match="no row with a target at --max_seq_len=5"):
        next(batches(ListCorpus(documents), 1, 5, BOS, epochs=epochs))


def test_groups_without_targets_are_passed_over():
    documents = [([BOS, 1], [1, 0])] * 3 + [([BOS, 2], [0, 1])] + [([BOS, 3], [0, 0])] * 3
    stream = take(batches(ListCorpus(documents, 1), 1, 5, BOS), 3)
    assert [batch.state["epoch"] for batch in stream] == [0, 1, 2] and stream[0].targets.max() == 2


def test_text_comes_from_the_shards_with_every_token_a_target(tmp_path, tokenizer, sentences):
    for number in range(2):
        shards.write(tmp_path / f"shard_{number}.parquet", [*sentences, ""] * 300)  # 1,500 documents: two row groups
    texts = TextCorpus(sorted(tmp_path.glob("*.parquet")), tokenizer)
    assert texts.num_groups() == 2 * 2
    ids, mask = texts.group(0)[3]
    assert ids[0] == tokenizer.bos_id and tokenizer.decode(ids[1:]) == sentences[3] and mask.all()
    stream = take(batches(texts, 4, 64, tokenizer.bos_id, epochs=1))
    learnt = sum(int((batch.targets >= 0).sum()) for batch in stream)
    per_document = sum(len(tokenizer.encode(text)) + 1 for text in sentences)
    firsts = sum(len(batch.ids) for batch in stream)  # a row's first token is no target
    assert learnt == 2 * 300 * per_document - firsts


def test_a_shard_that_disappears_is_one_line(tmp_path, tokenizer):
    shards.write(tmp_path / "shard.parquet", ["a text"] * 3)
    texts = TextCorpus([tmp_path / "shard.parquet"], tokenizer)
    (tmp_path / "shard.parquet").unlink()
    with pytest.raises(UserError, match="shard.parquet"):
        next(prefetched(batches(texts, 1, 8, tokenizer.bos_id)))


def test_worker_processes_make_the_same_batches_and_raise_the_same_errors():
    make = lambda documents, **more: batches(ListCorpus(documents, 5), 3, 5, BOS, seed=2, **more)  # noqa: E731
    documents = list(corpus().documents)
    made = make(documents, workers=1)
    assert same(take(made, 20), take(make(documents), 20)), "several epochs"
    made.close()
    with pytest.raises(TypeError):
        take(make([*documents[:9], None], workers=1), 20)
    assert not multiprocessing.active_children(), "no worker outlives its loader"


def test_a_corpus_of_text_can_be_given_to_worker_processes(tmp_path, tokenizer, sentences):
    shards.write(tmp_path / "shard.parquet", sentences)
    texts = TextCorpus([tmp_path / "shard.parquet"], tokenizer)
    before = texts.group(0)  # the file is open now
    sent = pickle.loads(pickle.dumps(texts)).group(0)
    assert [ids.tolist() for ids, _ in sent] == [ids.tolist() for ids, _ in before]


@pytest.mark.parametrize("rows_per_group", [1024, 1 << 20])
def test_text_groups_are_those_of_the_obvious_way(tmp_path, tokenizer, sentences, rows_per_group):
    """One row group or many: groups of 1,024 documents, so the same batches; also resumed and on ranks."""
    documents = [f"{number}. {sentences[number % len(sentences)]}" for number in range(2500)]
    pq.write_table(pa.table({"text": documents}), tmp_path / "a.parquet", row_group_size=rows_per_group)
    texts = TextCorpus([tmp_path / "a.parquet"], tokenizer)
    tokens = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in documents]
    obvious = ListCorpus([(ids, [1] * len(ids)) for ids in tokens], 1024)
    make = lambda corpus, **more: batches(corpus, 8, 32, tokenizer.bos_id, seed=3, **more)  # noqa: E731
    expected = take(make(obvious, epochs=2))
    assert same(take(make(texts, epochs=2)), expected)
    assert same(take(make(texts, epochs=2, rank=1, world_size=2)), take(make(obvious, epochs=2, rank=1, world_size=2)))
    for at in (0, len(expected) // 3, len(expected) // 2, len(expected) - 3):
        assert same(take(make(texts, epochs=2, state=expected[at].state), 2), expected[at + 1:at + 3])


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def gone(timeout=5.0):
    end = time.monotonic() + timeout
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    return not threads()


def test_prefetched_items_are_the_items_in_order():
    assert list(prefetched(iter(range(100)))) == list(range(100))
    assert list(prefetched(iter([None, StopIteration, ValueError("an item")])))[:2] == [None, StopIteration]
    assert list(prefetched(iter([]))) == [] and gone()


def test_prefetched_raises_the_producers_error_at_its_place():
    def broken():
        yield 1
        yield 2
        raise UserError("shard 7 is damaged")

    stream = prefetched(broken())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(UserError, match="shard 7 is damaged"):
        next(stream)
    assert gone()


def test_prefetched_stops_its_thread_and_runs_at_most_depth_ahead():
    made = []

    def endless():
        for number in itertools.count():
            made.append(number)
            yield number

    stream = prefetched(endless(), depth=3)
    assert next(stream) == 0 and len(threads()) == 1
    time.sleep(0.2)
    assert len(made) <= 5  # the one taken, three that wait, one in hand
    stream.close()
    assert gone()
    assert loader.START == {"epoch": 0, "group": 0, "row": 0}  # shared, and never written to
