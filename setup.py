"""What pyproject.toml cannot say: the wheel carries configs/, where users find the recipes, as mesynth/recipes/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """One copy in the repository: an editable installation goes on reading configs/ itself."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "mesynth", "recipes")
            shutil.rmtree(target, ignore_errors=True)  # a recipe that was deleted since the last build
            shutil.copytree("configs", target)


setup(cmdclass={"build_py": BuildWithRecipes})
