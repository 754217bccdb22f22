"""What all settings have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """Base of all settings: unknown keys refused, values checked where they are built."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def refuse_without_effect(self, names: Iterable[str], reason: str, instead: str = "") -> None:
        """Refuse settings that differ from their defaults where they change nothing.

        A default that was written out passes: the complete settings that a run leaves can be read back.

        Args:
            names: Of the settings.
            reason: Completes "has no effect …".
            instead: What else the user may have meant, after "remove it, or …"; empty: nothing.

        Raises:
            ValueError: One of them does; it is named.
        """
        or_else = f", or {instead}" if instead else ""
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}={getattr(self, name)!r} has no effect {reason}; remove it{or_else}")
