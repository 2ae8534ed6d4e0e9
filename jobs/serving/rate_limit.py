"""How many requests a client may send: in a sliding window, exactly, and with bounded memory.

In: a client's name, what its request costs, a monotonic time in seconds. Out: 0 where it may pass, else the
seconds until it may. In any window of `seconds` at most `limit` of cost passes; a refusal costs nothing.
Memory: one time per unit of cost within the window, of `clients` clients at most. A client that is not seen
for a window owes nothing, so forgetting the one that was not seen for longest lets nobody pass too often,
unless more clients than that are at work within one window.
"""

from __future__ import annotations

from collections import OrderedDict, deque


class SlidingWindow:
    """The times of the last units of cost of each client."""

    def __init__(self, limit: int, clients: int, seconds: float = 1.0) -> None:
        self.limit = limit
        self.refused = 0
        self._clients = clients
        self._seconds = seconds
        self._passed: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._passed)

    def wait(self, client: str, cost: int, now: float) -> float:
        """0 where the request passes, and is counted; else how long to wait; infinity above `limit`."""
        passed = self._passed.get(client)
        if passed is None:
            passed = self._passed[client] = deque(maxlen=self.limit)
            if len(self._passed) > self._clients:
                self._passed.popitem(last=False)
        else:
            self._passed.move_to_end(client)
        free = self.limit - len(passed)
        if free < cost:
            if cost > self.limit:
                self.refused += 1
                return float("inf")
            # the unit that has to leave the window first: the deque drops it when this one is added
            left = passed[cost - free - 1] + self._seconds - now
            if left > 0:
                self.refused += 1
                return left
        if cost == 1:
            passed.append(now)
        else:
            passed.extend([now] * cost)
        return 0.0
