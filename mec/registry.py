"""A registry of named things: a duplicate name is an error, an unknown one lists what exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from mec.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind, filled by a decorator."""

    def __init__(self, kind: str, setting: str) -> None:
        self.kind = kind
        self.setting = setting
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: add a thing under ``name``.

        Raises:
            ConfigError: The name is taken.
        """

        def add(item: T) -> T:
            if name in self._items:
                raise ConfigError(
                    f"the {self.kind} {name!r} is registered already",
                    found=repr(self._items[name]),
                    fix="register yours under another name",
                )
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The thing called ``name``; a ``ConfigError`` that lists the known names otherwise."""
        if name not in self._items:
            raise ConfigError(
                f"unknown {self.kind}", found=name, fix=f"set {self.setting} to one of {', '.join(self.names())}"
            )
        return self._items[name]

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._items)
