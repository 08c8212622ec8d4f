"""Excerpts of files in the documents, written anew from those files: `python -m tests.docs.excerpts`

A block below ``<!-- from: FILE#SECTION -->`` holds what lies in FILE between ``# [SECTION]`` and ``# [end]``.
"""

from __future__ import annotations

import re
import textwrap

from tests.docs.runner import PAGES, ROOT, Block, blocks


def section(file: str, name: str) -> str:
    """The lines of a section, without what indents all of them. Raises ValueError where there is no such section."""
    text = (ROOT / file).read_text(encoding="utf-8")
    match = re.search(rf"(?ms)^ *# \[{re.escape(name)}\]\n(.*?)^ *# \[end\]$", text)
    if match is None:
        raise ValueError(f"{file} has no section between '# [{name}]' and '# [end]'")
    return textwrap.dedent(match[1]).rstrip("\n") + "\n"


def excerpts() -> list[Block]:
    """Every block that is an excerpt."""
    return [block for page in PAGES for block in blocks(page) if block.source]


def main() -> None:
    """Write all of them anew, the last of a page first: what lies before a block stays where it is."""
    for block in reversed(excerpts()):
        assert block.source is not None
        lines = block.page.read_text(encoding="utf-8").splitlines(keepends=True)
        after = block.line - 1 + block.text.count("\n")
        lines[block.line - 1 : after] = [section(*block.source)]
        block.page.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
