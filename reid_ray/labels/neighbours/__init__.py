"""Nearest neighbours by cosine similarity: exact on CPU and GPU in bounded memory, or approximate by faiss.

Reading order:

| module | holds |
|---|---|
| `reference` | the definition: a few lines of NumPy, quadratic, used by the tests |
| `exact` | the public functions `nearest` and `nearest_by_camera` |
| `queries` | `nearest_to`: vectors from outside the set, a few at a time |
| `candidates` | the search behind them: candidate lists from approximate products, then exact scores |
| `products` | fast products of blocks (bfloat16 where it pays) with a bound on their error |
| `kernels`, `device` | the inner loops in Numba for the CPU, and in PyTorch for a GPU |
| `approximate` | faiss (IVF, HNSW), and the recall of its lists |
"""

from reid_ray.labels.neighbours.approximate import nearest_approximate, recall
from reid_ray.labels.neighbours.exact import Neighbours, join, nearest, nearest_by_camera, similarities_of_pairs
from reid_ray.labels.neighbours.queries import nearest_to

__all__ = [
    "Neighbours",
    "join",
    "nearest",
    "nearest_approximate",
    "nearest_by_camera",
    "nearest_to",
    "recall",
    "similarities_of_pairs",
]
