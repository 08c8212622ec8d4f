"""Where the recipes that ship lie: ``configs/`` of a checkout, ``mesynth/recipes/`` of an installed wheel."""

from __future__ import annotations

from pathlib import Path

from mesynth.core.errors import ConfigError


def recipes_root() -> Path:
    """The folder of the recipes that ship, one subfolder a verb or family, the same files in a checkout and a wheel.

    Raises:
        ConfigError: the installation has lost them.

    >>> (recipes_root() / "recognizer" / "lda.yaml").is_file()
    True
    """
    package = Path(__file__).resolve().parent
    # A wheel has the first, a checkout (and an editable installation, which runs in one) the second.
    for folder in (package / "recipes", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no recipes in {package / 'recipes'}; reinstall mesynth, or give a recipe by its path")
