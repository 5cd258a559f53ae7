"""The one place where randomness begins: (seed, purpose, index, attempt) → a generator."""

import hashlib

import numpy as np


def generator(seed: int, purpose: str, index: int, attempt: int = 0) -> np.random.Generator:
    """Returns the random stream of draw `index` for a purpose such as "mackey/train".

    Equal arguments give equal streams on every machine; any different argument gives an independent one. A draw that
    was rejected is made again with the next `attempt`, so that rejections never shift another draw.
    """
    for name, value in (("seed", seed), ("index", index), ("attempt", attempt)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name}: expected a whole number from 0 to 2**64 - 1, got {value!r}")
    # A fixed number of words: SeedSequence pads with zeros, so that lists of different lengths could coincide.
    words = [word for value in (seed, index, attempt) for word in divmod(int(value), 2**32)]
    digest = hashlib.sha256(purpose.encode()).digest()[:16]
    words += [int.from_bytes(digest[start : start + 4], "little") for start in range(0, 16, 4)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
