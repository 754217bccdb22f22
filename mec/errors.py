"""The exceptions a user of mec can cause, and the sentence each must carry."""

from __future__ import annotations


class MecError(ValueError):
    """What only the user can mend, bad input above all: the problem, the value found and what to do about it.

    Subclasses take the same arguments: errors are pickled, and made again with a longer problem.

    Args:
        problem: What is wrong, naming the file, field or setting.
        found: The value that was found; shown as it is.
        fix: What the user can do about it.
    """

    def __init__(self, problem: str, *, found: object = None, fix: str = "") -> None:
        self.problem = problem
        self.found = found
        self.fix = fix
        parts = [problem.rstrip(".")]
        if found is not None:
            parts.append(f"found: {found}")
        if fix:
            parts.append(f"fix: {fix}")
        super().__init__("; ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.problem, self.found, self.fix))


def _rebuild(cls: type[MecError], problem: str, found: object, fix: str) -> MecError:
    return cls(problem, found=found, fix=fix)


class ConfigError(MecError):
    """A setting is unknown, mistyped or impossible."""


class DataError(MecError):
    """The user's rows cannot be read or cannot be learned from."""


class BundleError(MecError):
    """An artifact bundle is missing, incomplete, corrupt or of the wrong kind."""


class SpaceError(BundleError):
    """A codebook, codes generation or model belongs to another embedding space or codebook."""


class TrainingError(MecError):
    """Training cannot go on: a loss term is not finite."""


class DiskFullError(MecError):
    """A disk or a quota is full."""


class PublishError(MecError):
    """Codes cannot be written to, or read back from, the online store."""


class TrackingError(MecError):
    """The tracking server or model registry refuses or contradicts us."""
