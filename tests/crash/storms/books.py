"""A round's books: the items that were put, the hands that took them, and what the queue promises."""

from collections import Counter
from dataclasses import dataclass, field

from .ledger import ROLL_CALL, Hand, hand_of, index_of, number_of, round_of


@dataclass
class Books:
    """Counts of a round's items. Unknown for a round that hung."""

    items: int = 0
    """Items whose `put()` returned."""
    lost: int = 0
    """Items missing beyond one for each dead hand, and beyond those that a shutdown has discarded."""
    in_dead_hands: int = 0
    """Items missing, up to one for each dead hand: it may have died before it logged the item."""
    doubled: int = 0
    """Items taken twice, although no hand that took them has died."""
    late: int = 0
    """Items of an earlier round that were missing there."""
    disordered: int = 0
    """Items that a hand took after a later item of the same producer."""
    unaccounted: set[int] = field(default_factory=set)
    """Items that were put and that no hand has logged."""


def returned(round: int, hands: list[Hand]) -> set[int]:
    """The items whose put has returned."""
    return {number_of(round, hand.number, index) for hand in hands for index in range(hand.put)}


def begun(round: int, hands: list[Hand]) -> set[int]:
    """The items whose put has begun."""
    return {number_of(round, hand.number, index) for hand in hands for index in range(hand.begun)}


def close(
    round: int,
    hands: list[Hand],
    dead: list[Hand],
    redelivers: bool,
    unaccounted_before: set[int],
    discarded: int = 0,
) -> Books:
    """Close the books. `dead` are the dead hands of consumers."""
    logs = {hand.number: [item for item in hand.logged() if not item & ROLL_CALL] for hand in hands}
    counted = Counter(item for log in logs.values() for item in log)
    put = returned(round, hands)
    strangers = counted.keys() - begun(round, hands)
    late = strangers & unaccounted_before
    missing = put - counted.keys()
    lives_lost = 0 if redelivers else len(dead)
    # The last item that a dead hand logged is redelivered.
    promised = Counter(hand.logged()[-1] for hand in dead if hand.logged()) if redelivers else Counter()
    twice = sum(max(0, count - 1 - promised[item]) for item, count in counted.items())
    return Books(
        items=len(put),
        lost=max(0, len(missing) - lives_lost - discarded),
        in_dead_hands=min(max(0, len(missing) - discarded), lives_lost),
        doubled=twice + len(strangers - late),
        late=len(late),
        disordered=sum(disorder(log) for log in logs.values()),
        unaccounted=missing,
    )


def disorder(log: list[int]) -> int:
    """The number of items that came after a later one of the same hand and round."""
    last: dict[tuple[int, int], int] = {}
    count = 0
    for item in log:
        source = round_of(item), hand_of(item)
        count += index_of(item) < last.get(source, -1)
        last[source] = max(index_of(item), last.get(source, -1))
    return count
