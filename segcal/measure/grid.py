"""Every single model and every ensemble of a pool at once: one pass over the voxels, everything additive.

Members' probabilities stay in float32, as the networks gave them; their means (Eq. 6) are float64, and rounded to
float32 only to find their bin, whose edges are float32. Voxels are visited by region and true class, a few hundred at a
time, so that all sums of a subset stay in the cache. Every sum is float64.
"""

__all__ = ["FINE", "GridSums", "VoxelOrder", "score_grid"]

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numba
import numpy as np

from segcal.measure.calibration import CLIP

FINE = 60  # bins of the sums; 10, 15, 20 and 30 bins are exact unions of them
LOOSE_CLIP = 1e-6  # the second clip of the logarithm, for the sensitivity table
_CHUNK = 128  # voxels at a time: the members' probabilities of a chunk fit into a core's cache
_LANES = 16
# Reassociation lets the sums over a chunk run in vector registers; nothing else of IEEE arithmetic is relaxed.
_FAST = {"reassoc", "contract", "nsz"}


@dataclass
class GridSums:
    """Sums over voxels, by region (0: inside the box, 1: outside) and subset S; K classes."""

    voxels: np.ndarray  # (2,) int64
    nll: np.ndarray  # (2, S) sum of -ln max(p_true, CLIP)
    nll_loose: np.ndarray  # (2, S) the same, clipped at LOOSE_CLIP
    brier: np.ndarray  # (2, S)
    p_true: np.ndarray  # (2, S)
    clipped: np.ndarray  # (2, S) voxels with p_true < CLIP
    winners: np.ndarray  # (2, S, K, FINE, 3): by most probable class and its probability: voxels, sum of it, correct
    classwise: np.ndarray  # (2, S, K, FINE, 3): by class and its probability: voxels, sum of it, voxels of the class
    segment_entropy: np.ndarray  # (S, K) sum of the binary entropy (Eq. 7) over the voxels that a class wins
    variance: np.ndarray  # (2, S) sum over voxels and classes of the members' variance; 0 where not asked for
    entropy: np.ndarray  # (2, S) sum of the ensemble's entropy, nats; 0 where not asked for
    member_entropy: np.ndarray  # (2, S) sum of the members' mean entropy; 0 where not asked for

    @classmethod
    def zeros(cls, subsets: int, classes: int) -> "GridSums":
        """Nothing summed yet."""
        shapes = {"voxels": (2,), "segment_entropy": (subsets, classes)}
        shapes |= dict.fromkeys(("winners", "classwise"), (2, subsets, classes, FINE, 3))
        return cls(**{
            field.name: np.zeros(shapes.get(field.name, (2, subsets)), np.int64 if field.name == "voxels" else float)
            for field in fields(cls)
        })  # fmt: skip

    def whole(self) -> dict[str, np.ndarray]:
        """The sums that have regions, over the whole volume: inside and outside together."""
        return {f.name: getattr(self, f.name).sum(axis=0) for f in fields(self) if f.name != "segment_entropy"}

    def box(self) -> dict[str, np.ndarray]:
        """The sums that have regions, inside the box."""
        return {f.name: getattr(self, f.name)[0] for f in fields(self) if f.name != "segment_entropy"}


@dataclass(frozen=True)
class VoxelOrder:
    """Voxels sorted by (region, true class): within a group the true class's probability is one plain row."""

    order: np.ndarray  # (voxels,) int32
    groups: np.ndarray  # (G, 4) int32: region, class, first, end

    @classmethod
    def of(cls, truth: np.ndarray, inside: np.ndarray, classes: int) -> "VoxelOrder":
        """truth (...) classes, inside (...) bool: the box."""
        key = np.where(inside, 0, classes).ravel() + truth.ravel()
        order = np.argsort(key, kind="stable").astype(np.int32)
        ends = np.cumsum(np.bincount(key, minlength=2 * classes))
        groups = [(g // classes, g % classes, ends[g - 1] if g else 0, ends[g]) for g in range(2 * classes)]
        return cls(order, np.array([group for group in groups if group[3] > group[2]], np.int32).reshape(-1, 4))


def score_grid(
    probs: np.ndarray,
    voxels: VoxelOrder,
    subsets: Sequence[Sequence[int]],
    sums: GridSums,
    labelled: np.ndarray | None = None,
    decomposed: np.ndarray | None = None,
) -> np.ndarray:
    """Add the voxels of a slab to the sums of every subset; returns the label maps that were asked for.

    probs (members, K, voxels) float32, sums to 1 over K. subsets: positions of members. labelled (S,) bool: subsets
    whose most probable classes (ties: the lowest) are returned, (labelled, voxels) uint8, in the voxels' own order.
    decomposed (S,) bool: subsets whose members' variance and entropies are summed as well. Raises ValueError for
    probs of another type or shape and for members that are not there.
    """
    if probs.dtype != np.float32 or probs.ndim != 3 or probs.shape[2] != len(voxels.order):
        raise ValueError(f"probs must be float32 (members, K, {len(voxels.order)}), got {probs.dtype} {probs.shape}")
    flat = np.concatenate([np.asarray(subset, np.int32) for subset in subsets])
    if flat.min() < 0 or flat.max() >= len(probs):
        raise ValueError(f"subsets must name members 0..{len(probs) - 1}, got {flat.min()}..{flat.max()}")
    offsets = np.concatenate([[0], np.cumsum([len(subset) for subset in subsets])]).astype(np.int32)
    row = np.full(len(subsets), -1, np.int32)
    if labelled is not None:
        row[labelled] = np.arange(np.count_nonzero(labelled))
    labels = np.zeros((int(row.max()) + 1, probs.shape[2]), np.uint8)
    flags = np.zeros(len(subsets), np.bool_) if decomposed is None else np.asarray(decomposed, np.bool_)
    for region, _, first, end in voxels.groups:
        sums.voxels[region] += end - first
    _visit(
        probs, voxels.order, voxels.groups, flat, offsets, row, labels, flags, _EDGES,
        sums.nll, sums.nll_loose, sums.brier, sums.p_true, sums.clipped, sums.winners, sums.classwise,
        sums.segment_entropy, sums.variance, sums.entropy, sums.member_entropy,
    )  # fmt: skip
    return labels


_EDGES = (np.arange(FINE + 1) / FINE).astype(np.float32)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _bin(p, edges):  # type: ignore[no-untyped-def]
    """Bin ((m-1)/M, m/M] of a float32 p by float32 edges; 0 belongs to the first."""
    b = min(int(p * FINE), FINE - 1)
    if p <= edges[b]:
        return max(b - 1, 0)
    if p > edges[b + 1]:
        return min(b + 1, FINE - 1)
    return b


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")  # type: ignore[untyped-decorator]
def _fill_bins(q, n, n_classes, label, edges, best, winner, won, by_class):  # type: ignore[no-untyped-def]
    """The most probable class of each voxel, its bin, and every class's bin.

    Nearly all probabilities lie in the first or the last bin: these are counted in vector registers, the rest singly.
    """
    low, high = edges[1], edges[FINE - 1]
    for v in range(n):
        best[v] = q[0, v]
        winner[v] = 0
    for k in range(n_classes):
        first_sum = last_sum = 0.0
        firsts = lasts = 0
        for v in range(n):
            p = q[k, v]
            is_first, is_last = np.float32(p) <= low, np.float32(p) > high
            firsts += is_first
            lasts += is_last
            first_sum += p if is_first else 0.0
            last_sum += p if is_last else 0.0
            better = p > best[v]
            best[v] = p if better else best[v]
            winner[v] = k if better else winner[v]
        by_class[k, 0, 0] += firsts
        by_class[k, 0, 1] += first_sum
        by_class[k, FINE - 1, 0] += lasts
        by_class[k, FINE - 1, 1] += last_sum
        if k == label:
            by_class[k, 0, 2] += firsts
            by_class[k, FINE - 1, 2] += lasts
        if firsts + lasts < n:
            for v in range(n):
                p32 = np.float32(q[k, v])
                if low < p32 <= high:
                    b = _bin(p32, edges)
                    by_class[k, b, 0] += 1.0
                    by_class[k, b, 1] += q[k, v]
                    if k == label:
                        by_class[k, b, 2] += 1.0
    sure = 0
    sure_sum = 0.0
    for v in range(n):
        is_sure = winner[v] == 0 and np.float32(best[v]) > high
        sure += is_sure
        sure_sum += best[v] if is_sure else 0.0
    won[0, FINE - 1, 0] += sure
    won[0, FINE - 1, 1] += sure_sum
    if label == 0:
        won[0, FINE - 1, 2] += sure
    if sure < n:
        for v in range(n):
            p32 = np.float32(best[v])
            if winner[v] > 0 or p32 <= high:
                b = _bin(p32, edges)
                won[winner[v], b, 0] += 1.0
                won[winner[v], b, 1] += best[v]
                if winner[v] == label:
                    won[winner[v], b, 2] += 1.0


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _x_ln_x(p):  # type: ignore[no-untyped-def]
    return p * np.log(p) if p > 0.0 else 0.0


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")  # type: ignore[untyped-decorator]
def _visit(  # type: ignore[no-untyped-def]
    probs, order, groups, flat, offsets, row, labels, flags, edges,
    nll, nll_loose, brier, p_true, clipped, winners, classwise, segment_entropy, variance, entropy, member_entropy,
):  # fmt: skip
    n_members, n_classes = probs.shape[0], probs.shape[1]
    chunk = np.empty((n_members, n_classes * _CHUNK))
    total = np.empty(n_classes * _CHUNK)
    q = np.empty((n_classes, _CHUNK))
    best, winner = np.empty(_CHUNK), np.empty(_CHUNK, np.int32)
    strict, loose = np.empty(_LANES), np.empty(_LANES)
    for g in range(groups.shape[0]):
        region, label = groups[g, 0], groups[g, 1]
        for start in range(groups[g, 2], groups[g, 3], _CHUNK):
            n = min(_CHUNK, groups[g, 3] - start)
            for m in range(n_members):
                for k in range(n_classes):
                    for v in range(n):
                        chunk[m, k * _CHUNK + v] = probs[m, k, order[start + v]]
            for s in range(offsets.size - 1):
                first, end = offsets[s], offsets[s + 1]
                size = end - first
                _mean(chunk, flat, first, end, n, n_classes, total, q)
                # Calibration that needs no bins. Products of a few probabilities need one logarithm, not many.
                strict[:] = 1.0
                loose[:] = 1.0
                sum_true = 0.0
                sum_squares = 0.0
                below = 0
                for k in range(n_classes):
                    for v in range(n):
                        sum_squares += q[k, v] * q[k, v]
                for v in range(n):
                    sum_true += q[label, v]
                    below += q[label, v] < CLIP
                for block in range(0, n - _LANES + 1, _LANES):
                    for j in range(_LANES):
                        p = q[label, block + j]
                        strict[j] *= max(p, CLIP)
                        loose[j] *= max(p, LOOSE_CLIP)
                for v in range(n - n % _LANES, n):
                    p = q[label, v]
                    strict[v % _LANES] *= max(p, CLIP)
                    loose[v % _LANES] *= max(p, LOOSE_CLIP)
                for j in range(_LANES):
                    nll[region, s] -= np.log(strict[j])
                    nll_loose[region, s] -= np.log(loose[j])
                brier[region, s] += sum_squares - 2.0 * sum_true + n
                p_true[region, s] += sum_true
                clipped[region, s] += below
                _fill_bins(q, n, n_classes, label, edges, best, winner, winners[region, s], classwise[region, s])
                for v in range(n):
                    if winner[v] > 0:
                        p = best[v]
                        segment_entropy[s, winner[v]] -= _x_ln_x(p) + _x_ln_x(1.0 - p)
                if row[s] >= 0:
                    for v in range(n):
                        labels[row[s], order[start + v]] = winner[v]
                if flags[s]:
                    for k in range(n_classes):
                        for v in range(n):
                            at = k * _CHUNK + v
                            mean = total[at] / size
                            entropy[region, s] -= _x_ln_x(mean)
                            for i in range(first, end):
                                p = chunk[flat[i], at]
                                variance[region, s] += (p - mean) * (p - mean) / size
                                member_entropy[region, s] -= _x_ln_x(p) / size


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _mean(chunk, flat, first, end, n, n_classes, total, q):  # type: ignore[no-untyped-def]
    """Mean of the members first..end of `flat`: sums in `total`, the mean in `q`."""
    width = n_classes * _CHUNK
    i = first
    a = flat[i]
    for j in range(width):
        total[j] = chunk[a, j]
    i += 1
    while i + 4 <= end:  # four at a time: the sum is loaded and stored once
        a, b, c, d = flat[i], flat[i + 1], flat[i + 2], flat[i + 3]
        for j in range(width):
            total[j] += (chunk[a, j] + chunk[b, j]) + (chunk[c, j] + chunk[d, j])
        i += 4
    while i < end:
        a = flat[i]
        for j in range(width):
            total[j] += chunk[a, j]
        i += 1
    size = end - first
    for k in range(n_classes):
        for v in range(n):
            q[k, v] = total[k * _CHUNK + v] / size
