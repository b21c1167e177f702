"""Many small computations at once, one processor core each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")
_mine = threading.local()
"""`cores`: how many of the cores the calling thread may use; unset outside `in_threads`."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs small torch operations without waking the other threads, which costs more than it gives.

    Threads that start meanwhile are held to one thread as well.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_threads(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Applies a function to each item, several at a time; its products and eigenproblems run alone.

    Linear algebra on matrices of a few hundred dimensions gains little from a second core, and two
    libraries that both want all cores stand in each other's way. As many items run at once as torch
    has threads; a call from inside `function` shares what is left of them.

    Yields:
        The results, in the order of the items.
    """
    from threadpoolctl import threadpool_limits

    everything = list(items)
    cores = getattr(_mine, "cores", None) or torch.get_num_threads()
    workers = min(len(everything), cores)
    if workers <= 1:
        yield from map(function, everything)
        return

    def start() -> None:
        _mine.cores = cores // workers

    with (
        threadpool_limits(1),
        one_thread(),
        ThreadPoolExecutor(workers, initializer=start) as pool,
    ):
        yield from pool.map(function, everything)
