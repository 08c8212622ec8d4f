"""Every error a user can cause. The command line turns each into one line and exit code 2."""

from __future__ import annotations


class MesynthError(ValueError):
    """Base of all user-facing errors: the message names the value at fault and the way out.

    >>> import mesynth
    >>> try:
    ...     mesynth.parse_request("12=F")
    ... except mesynth.MesynthError as error:
    ...     print(error)
    intensity 'F' in '12=F' is neither a letter A-E nor a number
    """


class ManifestError(MesynthError):
    """A manifest or shard is missing, damaged, or does not hold what was asked of it."""


class LeakError(MesynthError):
    """A clip that learned from a held-out subject was about to enter that subject's training fold.

    >>> issubclass(LeakError, MesynthError)
    True
    """


class NoFaceError(MesynthError):
    """No face was found where one is needed."""


class DatasetLayoutError(MesynthError):
    """A database folder or workbook does not look like the release its loader was written for."""


class WrongRoot(DatasetLayoutError):
    """A folder given as a release's lacks what that folder holds; the right one may be near."""


class UnreadableImageError(MesynthError):
    """An image file is truncated, empty, or not an image."""


class WeightsUnavailable(MesynthError):
    """Pretrained weights are neither on this machine nor downloadable from it."""


class RunFolderError(MesynthError):
    """An output folder is unusable, or holds the results of a different run."""


class ConfigError(MesynthError):
    """A configuration key or value is unknown, out of range, or without effect."""


def first_line(error: BaseException) -> str:
    """What an error says, for a line that tells of it: its first line that is not blank, or else its kind.

    >>> first_line(OSError("the disk is full\\nand hot")), first_line(MemoryError())
    ('the disk is full', 'MemoryError')
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
