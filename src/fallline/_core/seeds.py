"""One seed, many independent streams: each use of randomness is named.

`stream(seed, "batches", epoch)` gives the same number for the same words on every machine, so the order of the batches of
epoch 7 does not depend on who drew random numbers before.
"""

import hashlib


def stream(seed: int, *words: str | int) -> int:
    """A 63-bit seed for one named use of randomness.

    >>> stream(0, "batches", 1) == stream(0, "batches", 1), stream(0, "batches", 1) == stream(0, "batches", 2)
    (True, False)
    """
    text = "/".join([str(seed), *map(str, words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
