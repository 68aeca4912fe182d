"""Results that nobody will read need not be computed.

Before its backward, a recomputed sub-module's update is called once more for its graph alone. An op whose result is the whole update,
and which keeps nothing but its inputs, then leaves the result as it was allocated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

UNREAD = ContextVar("unread", default=False)


def is_unread() -> bool:
    """Whether the update being called is."""
    return UNREAD.get()


@contextmanager
def unread() -> Iterator[None]:
    """Of updates called in this context nobody reads the values: their graphs alone are wanted."""
    token = UNREAD.set(True)
    try:
        yield
    finally:
        UNREAD.reset(token)
