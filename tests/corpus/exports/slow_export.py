"""An export that takes its time, for tests that stop it in the middle. Workers import this module anew, so the delay
is in them as well: ``python -m tests.corpus.exports.slow_export CORPUS FORM OUT WORKERS [die]``."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from mesynth.cli import main
from mesynth.corpus.exports.form import ExportedClip
from mesynth.corpus.exports.run import FORMS
from mesynth.store import stage

DELAY = 0.1  # seconds a clip
DIES_AT = 2  # shard whose worker ends without a word


def _slowly(write: Any) -> Any:
    def slow(self: Any, out: Any, shard: int, shards: int, clips: Any) -> Iterator[ExportedClip]:
        for placed in write(self, out, shard, shards, clips):
            time.sleep(DELAY)
            if sys.argv[-1] == "die" and shard == DIES_AT and multiprocessing.parent_process():
                os._exit(9)
            yield placed

    return slow


if __name__ in ("__main__", "__mp_main__"):  # not where pytest looks for doctests
    for _form in FORMS.values():
        _form.write = _slowly(_form.write)  # type: ignore[method-assign]

if __name__ == "__main__":
    stage.WORTH = 0.0  # all clips are the processes'
    corpus, form, out, workers = sys.argv[1:5]
    main(["export", corpus, "--to", form, "--out", out, "--workers", workers])
