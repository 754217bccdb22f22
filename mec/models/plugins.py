"""Backbones of other packages: entry points beside the registry's own names.

A package names its class in its ``pyproject.toml``; installed beside mec, its backbone is found like any other:

    [project.entry-points."mec.backbones"]
    fwfm = "mec_fwfm:FwFM"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from mec.errors import ConfigError
from mec.registry import Registry

T = TypeVar("T")


class PluginRegistry(Registry[type[T]]):
    """A registry of classes that also finds those of installed packages.

    Names come from the packages' metadata; only the package whose class is asked for is imported.

    Args:
        kind: What the classes are, for messages.
        setting: Where a name is set, for messages.
        group: The entry points' group.
        base: The class that each must be a subclass of.
    """

    def __init__(self, kind: str, setting: str, group: str, base: type[T]) -> None:
        super().__init__(kind, setting)
        self.group = group
        self.base = base

    def get(self, name: str) -> type[T]:
        """The class called ``name``.

        Raises:
            ConfigError: Nothing is called so, its package is broken, or packages contend for a name.
        """
        plugins = self._plugins()
        return self._load(plugins[name]) if name in plugins else super().get(name)

    def names(self) -> list[str]:
        """Every name, sorted; a ``ConfigError`` where packages contend for one."""
        return sorted({*super().names(), *self._plugins()})

    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry_point in entry_points(group=self.group):
            name, own = entry_point.name, self._items.get(entry_point.name)
            # a class from elsewhere may be this very plug-in's, registered by the decorator: _load judges it
            if own is not None and own.__module__.startswith("mec."):
                self._refuse(entry_point, f"which is the name of a {self.kind} of mec's own")
            if name in found and found[name].value != entry_point.value:
                self._refuse(entry_point, f"and so does the package {_package(found[name])!r}")
            found[name] = entry_point
        return found

    def _refuse(self, entry_point: EntryPoint, reason: str) -> None:
        raise ConfigError(
            f"the package {_package(entry_point)!r} offers the {self.kind} {entry_point.name!r}, {reason}",
            found=entry_point.value,
            fix=f"uninstall the package, or rename its entry point in {self.group!r}",
        )

    def _load(self, entry_point: EntryPoint) -> type[T]:
        what = f"the {self.kind} {entry_point.name!r} of the package {_package(entry_point)!r}"
        try:
            item = entry_point.load()
        except Exception as error:  # whatever a stranger's module raises while it is imported
            raise ConfigError(
                f"{what} cannot be loaded from {entry_point.value!r}",
                found=f"{type(error).__name__}: {error}",
                fix="repair or uninstall the package",
            ) from error
        if not (isinstance(item, type) and issubclass(item, self.base)):
            raise ConfigError(
                f"{what} is no subclass of {self.base.__module__}.{self.base.__name__}",
                found=repr(item),
                fix=f"point its entry point in {self.group!r} at such a class",
            )
        # the decorator may have registered it too, from whichever of its package's modules: that is no second one
        registered = self._items.get(entry_point.name, item)
        if registered is not item:
            where = f"{registered.__module__}.{registered.__qualname__}"
            self._refuse(entry_point, f"but another class is registered by that name: {where}")
        return item


def _package(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else entry_point.module
