"""What a forked child does with what its parent has open: nothing at all, not even at its end."""

from __future__ import annotations

import ctypes


def abandon(thing: object) -> None:
    """Keeps a thing that belongs to the parent process alive for ever, past the interpreter's end.

    Parent and child share the kernel's objects. A connection that is closed in the child, were it by a finalizer, is
    taken out of the set of connections that the parent's event loop watches, and the parent waits in vain.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
