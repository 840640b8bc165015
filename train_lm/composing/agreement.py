"""How well adapters go together, told from their numbers alone; and which of them a text is for.

Agreement is a cosine. Between early gradients it says, before anything is trained, whether two
neighbourhoods pull the weights one way; between adapters, whether they have moved them one way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_lm.adapters import Adapter, check_alike

Floats = NDArray[np.float64]


def agreement(parts: Sequence[Mapping[str, Tensor]]) -> Floats:
    """(K, K) cosines between K gradients, each by the parameter's name; NaN for one of zeros.

    Raises:
        ValueError: They are of unlike models.
    """
    names = sorted(parts[0])
    if any(sorted(p) != names or any(p[n].shape != parts[0][n].shape for n in p) for p in parts):
        raise ValueError("expected gradients of one model, got several: measure them with one")
    total = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    for name in names:
        flat = torch.stack([part[name].detach().flatten().double() for part in parts])
        total += (flat @ flat.T).cpu()
    return _cosines(total)


def adapter_agreement(adapters: Sequence[Adapter]) -> Floats:
    """(K, K) cosines between what K adapters add to their base's matrices; ranks may differ.

    The products B A are never formed: <B A, D C> is the trace of (B' D)(C A').

    Raises:
        ValueError: They are of unlike shapes or bases.
    """
    check_alike(adapters, ranks=False)
    deltas = [adapter.deltas() for adapter in adapters]
    total = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for layer in deltas[0]:
        pairs = [tuple(m.double() for m in delta[layer]) for delta in deltas]
        for i, (down, up) in enumerate(pairs):
            for j, (other_down, other_up) in enumerate(pairs[: i + 1]):
                shared = ((up.T @ other_up) * (down @ other_down.T)).sum()
                total[i, j] += shared
                total[j, i] = total[i, j]
    return _cosines(total)


def nearest(vectors: NDArray[np.floating], keys: NDArray[np.floating]) -> NDArray[np.int64]:
    """(n,) which of (K, D) keys each of (n, D) vectors is closest to, by cosine.

    A neighbourhood's key is its vector; the text that a vector stands for goes to its adapter.
    """
    if vectors.ndim != 2 or keys.ndim != 2 or vectors.shape[1] != keys.shape[1] or not len(keys):
        raise ValueError(
            f"expected vectors (n, D) and keys (K, D), got {vectors.shape} and {keys.shape}"
        )
    lengths = np.maximum(np.linalg.norm(keys, axis=1), np.finfo(np.float32).tiny)
    return np.asarray((vectors @ (keys / lengths[:, None]).T).argmax(1), dtype=np.int64)


def _cosines(products: Tensor) -> Floats:
    """Cosines of inner products."""
    length = products.diagonal().sqrt()
    found = products / torch.outer(length, length)
    return np.asarray(found.clamp(-1, 1).numpy())  # rounding may leave them
