"""What is done to a site, and when: drawn from a seed, written as lines, and made fewer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from random import Random

# Faults, and how often each comes. Each is a method of Site.
WEIGHTS = {
    "kill_publisher": 2,
    "stop_publisher": 1,
    "wrong_clock": 1,
    "kill_worker": 2,
    "stop_worker": 1,
    "kill_server": 1,
    "restart_server": 1,
    "replace_workers": 1,
    "kill_processor": 2,
    "stop_processor": 1,
    "cut_clients": 2,
    "leave": 4,
    "narrow_rights": 2,
    "cut_store": 2,
    "stop_store": 2,
    "kill_store": 1,
    "fail_over": 2,
    "lose_tail": 2,
    "empty_store": 1,
    "move_store": 2,
    "swallow_store": 1,
}
# Each begins an epoch. The log remembers 16 of them: who has missed more is told, rightly.
NEW_EPOCH = {"kill_store", "fail_over", "lose_tail", "empty_store", "move_store"}
MOST_EPOCHS = 12
# Seconds between two steps, on average, and how long one lasts, at most.
PAUSE = 0.8
LONGEST = 3.0


@dataclass(frozen=True)
class Step:
    """A fault. Times are in seconds, ``at`` since the round began; ``who`` chooses an actor."""

    at: float
    fault: str
    who: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:.2f} {self.fault} {self.who} {self.seconds:.2f}"

    @classmethod
    def read(cls, line: str) -> Self:
        """Read what ``str`` wrote. Raises ``ValueError``."""
        at, fault, who, seconds = line.split()
        if fault not in WEIGHTS:
            raise ValueError(f"no such fault: {fault}")
        return cls(float(at), fault, int(who), float(seconds))


def draw(chance: Random, length: float, weights: dict[str, int]) -> list[Step]:
    """Return the steps of a round of so many seconds."""
    steps: list[Step] = []
    epochs = 0
    at = 0.5
    while (at := at + chance.expovariate(1 / PAUSE)) < length:
        [fault] = chance.choices([*weights], [*weights.values()])
        step = Step(round(at, 2), fault, chance.randrange(8), round(chance.uniform(0, LONGEST), 2))
        epochs += fault in NEW_EPOCH
        if fault not in NEW_EPOCH or epochs <= MOST_EPOCHS:
            steps.append(step)
    return steps


def fewer(steps: Sequence[Step], parts: int) -> Iterable[list[Step]]:
    """Yield the steps without one of so many parts, for each part."""
    bounds = [len(steps) * number // parts for number in range(parts + 1)]
    for first, end in pairwise(bounds):
        yield [*steps[:first], *steps[end:]]
