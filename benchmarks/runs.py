"""The order of measurements: peers take turns, so that all see the machine's good and bad moments.

``one_by_one`` starts a server, measures it and stops it before the next; ``in_rounds`` starts all
and measures each a little, many times over, for ratios that should be exact. Both give medians. A
server that fails is not measured any more, and named with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from benchmarks.peers import Peer

# One measurement's figures by name.
Figures = dict[str, float]
# Section -> peer -> figures.
Medians = dict[str, dict[str, Figures]]
Subject = TypeVar("Subject")


@dataclass
class Section(Generic[Subject]):
    """What to measure of each subject, so many times in a run; ``None`` where it does not apply."""

    title: str
    measure: Callable[[Subject], Figures | None]
    rounds: int = 1


class _Collection:
    """The figures so far."""

    def __init__(self, missing: dict[str, str]) -> None:
        self._missing = missing
        self._figures: dict[str, dict[str, list[Figures]]] = {}

    def add(self, title: str, name: str, figures: Figures) -> None:
        """Take one measurement in."""
        self._figures.setdefault(title, {}).setdefault(name, []).append(figures)

    def failed(self, name: str, error: Exception) -> None:
        """Remember why a subject is not measured any more."""
        self._missing[name] = f"failed: {type(error).__name__}: {error}"
        say(f"{name} {self._missing[name]}")

    def medians(self) -> Medians:
        """Return the medians of each subject's figures."""
        return {
            title: {name: median(runs) for name, runs in names.items()}
            for title, names in self._figures.items()
        }


def one_by_one(
    options: argparse.Namespace, measure: Callable[[Peer], Mapping[str, Figures]]
) -> Medians:
    """Measure every peer in turn, ``options.runs`` times."""
    collection = _Collection(options.missing)
    peers = list(options.present)
    for run in range(options.runs):
        for peer in list(peers):
            say(f"run {run + 1} of {options.runs}: {peer.name}")
            try:
                for title, figures in measure(peer).items():
                    collection.add(title, peer.name, figures)
            except Exception as error:
                collection.failed(peer.name, error)
                peers.remove(peer)
            gc.collect()
    return collection.medians()


def in_rounds(
    options: argparse.Namespace,
    starters: Mapping[str, Callable[[contextlib.ExitStack], Subject]],
    sections: Sequence[Section[Subject]],
) -> Medians:
    """Start all subjects, measure them by turns, stop them; ``options.runs`` times."""
    collection = _Collection(options.missing)
    starters = dict(starters)
    for run in range(options.runs):
        with contextlib.ExitStack() as ending:
            subjects: dict[str, Subject] = {}
            for name, start in list(starters.items()):
                try:
                    subjects[name] = start(ending)
                except Exception as error:
                    collection.failed(name, error)
                    del starters[name]
            for section in sections:
                say(f"run {run + 1} of {options.runs}: {section.title}")
                for _ in range(section.rounds):
                    for name, subject in list(subjects.items()):
                        try:
                            figures = section.measure(subject)
                        except Exception as error:
                            collection.failed(name, error)
                            del starters[name], subjects[name]
                            continue
                        if figures is not None:
                            collection.add(section.title, name, figures)
                        gc.collect()
    return collection.medians()


def median(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)
