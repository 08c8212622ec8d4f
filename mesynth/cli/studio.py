"""The verb that shows a page: studio."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  mesynth studio
  mesynth studio corpus --port 0 --no-browser"""
)
@click.argument("corpus", type=click.Path(path_type=Path), required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("studio"),
    show_default=True,
    help="Folder for photos, saved clips and studies.",
)
@click.option("--port", default=7860, show_default=True, help="Port on this machine; 0: any that is free.")
@click.option("--no-browser", is_flag=True, help="Print the address, open no browser.")
def studio(corpus: Path | None, out: Path, port: int, no_browser: bool) -> None:
    """Open a page to try things out: a face, a corpus, a study. It is seen on this machine alone.

    With CORPUS, a folder that prepare, render or generate wrote, it opens there. Needs the extra studio: pip install
    "mesynth[studio]".
    """
    from mesynth.core.errors import ConfigError

    try:
        from mesynth.studio.page import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "fastapi", "uvicorn", "starlette"):
            raise
        raise ConfigError(
            f'the studio needs {error.name}, which is not installed: pip install "mesynth[studio]"'
        ) from None
    serve(out, port=port, corpus="" if corpus is None else str(corpus), browser=not no_browser, told=click.echo)
