"""One-to-one matching of predicted edge pixels to true ones within a tolerance.

The evaluation of BSDS (D. Martin, C. Fowlkes & J. Malik, Learning to detect natural image boundaries, 2004, section
3.A; `correspondPixels` of its benchmark) joins pixels at most a tolerance apart, each to at most one, at the least sum
of their distances, where a pair left apart costs 100 tolerances. It solves that by CSA, with distances rounded to
hundredths of a pixel, and with pixels left apart joined to some six outliers drawn at random.

Precision and recall only ask how many pairs there are. Here it is the largest possible number, reached much as by J.
Hopcroft & R. Karp (1973): a search in breadth from all rows that are free, an augmenting path of each tree, and again
until there is none, which proves it the largest (C. Berge, 1957). Maps at neighbouring thresholds are much alike, so
that the matching of one is nearly that of the next. (scipy's own bipartite matching took 17 s on one image.)
The least sum has as many pairs, unless one more pair would move others so far that all distances together grow by over
100 tolerances, a chain of at least 100 pixels; then, and where the draw of outliers leaves CSA no choice, the benchmark
counts a pair fewer. Which pixels are joined, and how far apart they are, can differ; with a single annotator no count
depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse
from scipy.sparse import csgraph

_AT_ONCE = 2**22
"""Pairs of a pixel and an offset that are looked up together (48 MiB)."""


def near(places: Bool[np.ndarray, "H W"], true: Bool[np.ndarray, "H W"], radius: float) -> Any:
    """Which true pixels lie at most `radius` pixels from each pixel of `places`.

    Returns:
        A `scipy.sparse.csr_array` of ones: a row per pixel of `places`, a column per true one, both in the order of
        `numpy.nonzero`. The nearest stand first in a row.
    """
    reach = int(radius)
    side = np.arange(-reach, reach + 1)
    down, right = (grid.ravel() for grid in np.meshgrid(side, side, indexing="ij"))
    squared = down**2 + right**2
    inside = np.argsort(squared, kind="stable")[: np.count_nonzero(squared <= radius**2)]
    column = np.full((true.shape[0] + 2 * reach, true.shape[1] + 2 * reach), -1, np.int32)
    centre = column[reach : reach + true.shape[0], reach : reach + true.shape[1]]
    centre[true] = np.arange(np.count_nonzero(true))
    offsets = (down * column.shape[1] + right)[inside]
    y, x = np.nonzero(places)
    start = (y + reach) * column.shape[1] + x + reach
    columns, counts = [np.zeros(0, np.int32)], [np.zeros(1, np.int32)]
    for part in np.array_split(start, len(start) * len(offsets) // _AT_ONCE + 1):
        found = column.ravel()[part[:, None] + offsets]
        columns.append(found[found >= 0])
        counts.append((found >= 0).sum(1))
    indices, ends = np.concatenate(columns), np.cumsum(np.concatenate(counts), dtype=np.int32)
    return sparse.csr_array((np.ones(len(indices), np.int8), indices, ends), (len(start), np.count_nonzero(true)))


def match(pairs: Any, start: Int[np.ndarray, " rows"] | None = None) -> Int[np.ndarray, " rows"]:
    """As many rows as possible joined each to one column of its own; the column of each row, -1 for none.

    Args:
        pairs: a `scipy.sparse.csr_array` with an entry where a row may be joined to a column, such as `near` gives.
        start: a matching of `pairs` to begin with, in the same form; the more it joins, the less is left to do. A row
            that has -2 is left out.
    """
    rows, columns = pairs.shape
    joined = np.full(rows, -1) if start is None else start.copy()
    owner = np.full(columns, -1)
    owner[joined[joined >= 0]] = np.flatnonzero(joined >= 0)
    _join_free(pairs, joined, owner)
    free = np.flatnonzero((joined == -1) & (np.diff(pairs.indptr) > 0))
    source = rows + columns
    while True:
        order, before = csgraph.breadth_first_order(_alternating(pairs, owner, free), source)
        ends = order[(order >= rows) & (order < source)]
        if not len(ends):
            return joined
        # two paths of one tree share rows, those of two trees none; the first end of a tree is its nearest
        _, first = np.unique(_roots(before[ends], before, source), return_index=True)
        column, row = ends[first] - rows, before[ends[first]]
        while len(row):
            left = joined[row]
            joined[row], owner[column] = column, row
            inner = before[row] != source
            column, row = left[inner], before[row[inner]]
        free = free[joined[free] < 0]


def _join_free(pairs: Any, joined: Int[np.ndarray, " rows"], owner: Int[np.ndarray, " columns"]) -> None:
    """Joins free rows to free columns until none could be: each asks for its first, and each column takes one."""
    row, column = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr)), pairs.indices
    while True:
        free = (joined[row] == -1) & (owner[column] < 0)
        row, column = row[free], column[free]
        if not len(row):
            return
        first = np.concatenate([[True], row[1:] != row[:-1]])
        asking, wanted = row[first], column[first]
        owner[wanted] = asking
        taken = owner[wanted] == asking
        joined[asking[taken]] = wanted[taken]


def _alternating(pairs: Any, owner: Int[np.ndarray, " columns"], free: Int[np.ndarray, " free"]) -> Any:
    """The graph whose paths from its last node to a free column are the augmenting ones.

    Its nodes are the rows, the columns, and a source that leads to the rows in `free`. A row leads to the rows that own
    the columns it may be joined to, and to those of these columns that are free.
    """
    rows, columns = pairs.shape
    node = np.where(owner >= 0, owner, np.arange(rows, rows + columns)).astype(np.int32)
    to = np.concatenate([node[pairs.indices], free.astype(np.int32)])
    ends = np.concatenate([pairs.indptr, np.full(columns, pairs.nnz, np.int32), np.array([len(to)], np.int32)])
    return sparse.csr_array((np.ones(len(to)), to, ends), (rows + columns + 1,) * 2)


def _roots(nodes: Int[np.ndarray, " some"], before: Int[np.ndarray, " nodes"], source: int) -> Int[np.ndarray, " some"]:
    """For some nodes that a search reached, the child of its source through which it did."""
    roots = nodes.copy()
    while (inner := before[roots] != source).any():
        roots[inner] = before[roots[inner]]
    return roots
