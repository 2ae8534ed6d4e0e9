"""Which model answers a customer: salted, sticky and monotone; and which blocks are let through.

In: a customer, the share of the challenger in percent, the policy's salt. Out: the variant.
A customer who is in the 5 % is also in the 25 %, on every replica and after every restart.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

_SPACE = 1 << 64


def bucket_of(customer_id: int, salt: str) -> float:
    """Where a customer stands on [0, 100): the first 8 bytes of BLAKE2b over "salt:customer"."""
    return min(_position(customer_id, salt) / _SPACE * 100.0, _BELOW_HUNDRED)


def in_canary(customer_id: int, percent: int, salt: str) -> bool:
    """Whether the challenger answers this customer; whole numbers only, so 0 and 100 are exact."""
    return _position(customer_id, salt) * 100 < percent * _SPACE


def assign(customer_id: int, percent: int, salt: str, *, challenger: bool) -> Literal["champion", "canary"]:
    """canary or champion: who answers if their models are there."""
    return "canary" if challenger and in_canary(customer_id, percent, salt) else "champion"


def held_out(transaction_id: int, share: float, salt: str) -> bool:
    """Whether a transaction that the model would block is let through: the same one on every replica.

    Independent of the canary: the salt is another one, and what is drawn is the transaction.
    """
    return _position(transaction_id, f"{salt}:holdout") < share * _SPACE


def _position(number: int, salt: str) -> int:
    # a longer digest cut to 8 bytes is not the same as an 8-byte digest: keep the long one
    return int.from_bytes(blake2b(f"{salt}:{number}".encode()).digest()[:8], "big")


_BELOW_HUNDRED = 100.0 - 2.0**-40
