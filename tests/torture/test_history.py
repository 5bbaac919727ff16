"""Histories of reads: what fits one order of token sets is told from what does not."""

from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.torture.history import History

Read = tuple[int, int, int]
"""When it began and ended, and the number of the token set."""

READS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(1, 4)).map(
        lambda read: (read[0], read[0] + read[1], read[2])
    ),
    max_size=5,
)


def fits(reads: list[Read]) -> bool:
    history = History()
    return not any(history.read(*read) is not None for read in sorted(reads, key=lambda read: read[1]))


def some_order_fits(reads: list[Read]) -> bool:
    """By trying them all: numbers only grow, and who ended first comes first."""
    for order in permutations(reads):
        grows = all(a[2] <= b[2] for a, b in pairwise(order))
        if grows and not any(b[1] < a[0] for at, a in enumerate(order) for b in order[at + 1 :]):
            return True
    return False


@given(READS)
def test_it_finds_what_trying_all_orders_finds(reads: list[Read]) -> None:
    assert fits(reads) == some_order_fits(reads)


@pytest.mark.parametrize(
    ("reads", "seconds"),
    [
        ([(0, 1, 1), (2, 3, 1), (4, 5, 2)], None),
        ([(0, 1, 2), (1, 2, 1)], None),  # at once
        ([(0, 1, 2), (4, 5, 1)], 3.0),
        ([(0, 1, 5), (0, 9, 6), (3, 10, 4)], 2.0),  # the newest of all came too late to tell
    ],
)
def test_how_long_before_a_newer_one_had_been_read(reads: list[Read], seconds: float | None) -> None:
    history = History()
    assert [history.read(*read) for read in reads][-1] == seconds
