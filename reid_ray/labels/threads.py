"""Run a kernel on blocks of rows with Python threads; the kernels release the GIL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def on_threads(function: Callable[..., Any], n: int, *arguments: Any) -> None:
    """Call `function(*arguments, start, stop)` on equal parts of 0 … n, one per PyTorch thread."""
    n_threads = max(1, torch.get_num_threads())
    if n_threads == 1:
        function(*arguments, 0, n)
        return
    bounds = [n * i // n_threads for i in range(n_threads + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda start, stop: function(*arguments, start, stop), bounds[:-1], bounds[1:]))
