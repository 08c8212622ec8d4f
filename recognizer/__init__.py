"""Recognition of micro-expressions from optical flow: leak-safe protocols, small models, honest numbers.

Consumes manifests only. The two calls most studies need are :func:`recognizer.run.loso` and
:func:`recognizer.ablation.run_ablation`.
"""
