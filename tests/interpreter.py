"""Triton's interpreter, told once what it looks up anew at every call of a function within a kernel."""

import inspect
from functools import cache
from typing import Any

from triton.language.core import is_builtin
from triton.runtime import interpreter


def remember_builtins() -> None:
    """It patches the language's built-in functions at every call, most of which finds them patched, and looks for them among all
    members of a module or class: a third of all its time."""
    builtins = cache(lambda owner: [name for name, member in inspect.getmembers(owner) if is_builtin(member)])

    def patch(owner: Any, *rest: Any) -> None:
        for name in builtins(owner):  # found at its first call, when none is patched
            member = getattr(owner, name)
            if is_builtin(member):
                interpreter._patch_attr(owner, name, member, *rest)

    interpreter._patch_builtin = patch
