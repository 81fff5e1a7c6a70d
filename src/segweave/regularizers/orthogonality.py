"""Orthogonality: tasks read different directions of the features they share (Romera-Paredes et al. 2012)."""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.errors import ConfigError
from segweave.regularizers.regularizer import Part, Regularizer


class Orthogonality(Regularizer):
    """Mean over pairs of tasks of `|A B'|^2 / (|A A'| |B B'|)`, between 0 and 1; |.| is the Frobenius norm.

    A and B [out, in] are the first weights of two heads that read one and the same tensor, such as the shared
    decoder's map; heads that read several maps are left out. It is the cosine of the Gram matrices A'A and B'B: 0
    where the two read orthogonal subspaces, which takes `in` of at least the ranks of all together, 1 where they read
    the same directions with the same weights. As a cosine it cannot be lowered by shrinking the weights. B.
    Romera-Paredes et al., Exploiting unrelated tasks in multi-task learning (2012), whose penalty is the numerator;
    the form is that of K. Bousmalis et al., Domain separation networks (2016), equation 5, there of features.

    Raises:
        ConfigError: no two heads read the same tensor.
    """

    fits = ("shared",)

    def forward(self, part: Part) -> Float[Tensor, ""]:
        pairs = [pair for group in part.projections for pair in combinations(group, 2)]
        if not pairs:
            raise ConfigError(
                "model.regularizers.orthogonality: no two heads read the same features; expected at least two tasks "
                "at one place, such as the shared decoder"
            )
        # half precision leaves a cosine two digits
        with torch.autocast(pairs[0][0].device.type, enabled=False):
            return torch.stack([_cosine(a, b) for a, b in pairs]).mean()


def _cosine(a: Float[Tensor, "m n"], b: Float[Tensor, "k n"]) -> Float[Tensor, ""]:
    a, b = (w / w.detach().norm().clamp(min=torch.finfo(w.dtype).tiny) for w in (a, b))
    lengths = (a @ a.T).norm() * (b @ b.T).norm()
    return (a @ b.T).square().sum() / lengths.clamp(min=torch.finfo(lengths.dtype).eps)
