"""A page on this machine to try things out: a face, a corpus, a study (``mesynth studio``).

What the page does is in plain functions: :mod:`mesynth.studio.face`, :mod:`mesynth.studio.browse`,
:mod:`mesynth.studio.study`. :mod:`mesynth.studio.page` only puts them on a Gradio page.
"""
