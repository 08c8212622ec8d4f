"""The coder's panel: a blind page on which FACS coders judge clips, and what their answers come to."""
