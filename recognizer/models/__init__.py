"""The models: a closed-form discriminant and three small networks that stack over folds."""

LDA = "lda"
NETWORKS: tuple[str, ...] = ("capsule_graph", "region_attention", "ststnet")
MODELS: tuple[str, ...] = (LDA, *NETWORKS)
