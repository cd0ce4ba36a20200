"""A generator of random numbers with a state, on top of the ops that are functions of a key. Source of the interface: tf.random.Generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import SpecError
from .ops.joining import unstack
from .ops.random import dropout, random_bernoulli, random_normal, random_uniform, split_key
from .variables import Variable

__all__ = ["Generator"]

_SEEDS = 1 << 64


class Generator:
    """Draws other numbers each time it is asked, the same ones on every backend for the same seed.

    seed    from 0 to 2^64 - 1
    name    of ``state``, for messages and checkpoints; "generator" by default
    device  where the state lives; by default where it was last computed

    ``state`` is a Variable, a key of uint32 ``[2]``. Drawing replaces it by the first part of its split in two (``split_key``);
    the numbers are a function of the second part of the split of the new one. In a graph each run draws anew those that its
    fetches depend on, and all before them; save ``state`` with the other variables of a checkpoint, and what follows is repeated. In branches and in the
    steps of loops variables cannot be assigned: draw keys outside, ``keys(count)``, and hand them in.
    """

    __slots__ = ("state",)

    def __init__(self, seed: int = 0, *, name: str = "generator", device: str | None = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < _SEEDS:
            raise SpecError(f"the seed of a generator is an integer from 0 to 2^64 - 1, not {seed!r}.")
        words = np.array([int(seed) % 2**32, int(seed) >> 32], np.uint32)
        self.state = Variable(words, name=name, device=device)

    def key(self) -> Any:
        """A key that was not drawn before: uint32 ``[2]``."""
        with (
            self.state.lock
        ):  # numbers are a function of what was assigned, so that a run that fetches them assigns
            new = self.state.assign(unstack(split_key(self.state))[0])
        return unstack(split_key(new))[1]

    def keys(self, count: int) -> Any:
        """So many keys, independent of each other: uint32 ``[count, 2]``."""
        return split_key(self.key(), count=count)

    def uniform(
        self, shape: tuple[int, ...] = (), *, low: float = 0.0, high: float = 1.0, dtype: str = "float32"
    ) -> Any:
        """Numbers of equal probability in [low, high), see ``random_uniform``."""
        return random_uniform(self.key(), shape=shape, low=low, high=high, dtype=dtype)

    def normal(
        self,
        shape: tuple[int, ...] = (),
        *,
        mean: float = 0.0,
        standard_deviation: float = 1.0,
        dtype: str = "float32",
    ) -> Any:
        """Numbers of the normal distribution, see ``random_normal``."""
        return random_normal(
            self.key(), shape=shape, mean=mean, standard_deviation=standard_deviation, dtype=dtype
        )

    def bernoulli(self, shape: tuple[int, ...] = (), *, probability: float = 0.5) -> Any:
        """True with the given probability, see ``random_bernoulli``."""
        return random_bernoulli(self.key(), shape=shape, probability=probability)

    def dropout(self, x: Any, *, rate: float = 0.5) -> Any:
        """Zero with the probability ``rate``, else scaled, see ``dropout``."""
        return dropout(x, self.key(), rate=rate)

    def __repr__(self) -> str:
        return f"<Generator {self.state.name}>"
