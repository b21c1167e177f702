"""Many small computations at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from geoprobe.statistics.threads import in_threads


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_results_keep_their_order_and_torch_its_threads() -> None:
    def slow_first(item: int) -> tuple[int, int]:
        time.sleep(0.02 if item == 0 else 0)
        return item, torch.get_num_threads()

    assert list(in_threads(slow_first, range(9))) == [(i, 1) for i in range(9)]
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_calls_from_inside_share_what_is_left() -> None:
    def threads_inside(items: int) -> int:
        idents = in_threads(lambda _: (time.sleep(0.01), threading.get_ident())[1], range(8))
        return len(set(idents)) * items

    assert list(in_threads(threads_inside, [1, 1])) == [2, 2]
    assert list(in_threads(threads_inside, [1])) == [4]
    assert list(in_threads(threads_inside, [1] * 4)) == [1] * 4


@pytest.mark.usefixtures("four_threads")
def test_an_error_comes_out_and_torch_keeps_its_threads() -> None:
    def fail(item: int) -> None:
        raise ValueError(str(item))

    with pytest.raises(ValueError, match="0"):
        list(in_threads(fail, range(3)))
    assert torch.get_num_threads() == 4
