"""Recognition of micro-expressions from optical flow: leak-safe protocols, small models, honest numbers.

Consumes manifests only. ``loso`` tests a model, ``ablate`` asks whether synthetic clips help, ``train`` saves a
recognizer, ``load`` and ``predict`` use it, ``spot`` finds expressions in long videos and scores what was found,
``count_aus`` counts action units, ``register_model`` gives a model of your own a name for recipes and the command line.
All of these load when they are first used.

>>> import recognizer
>>> recognizer.RunConfig().model
'lda'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recognizer.ablation import ablate
    from recognizer.aus import AusConfig
    from recognizer.config import AblationConfig, RunConfig, load_config
    from recognizer.data import DataConfig, FlowSet, count_aus
    from recognizer.mixing import MixConfig
    from recognizer.models import Model, register_model
    from recognizer.protocol import ProtocolConfig
    from recognizer.results import Scores
    from recognizer.run import loso
    from recognizer.spotter import spot, train_spotter
    from recognizer.study import run_study
    from recognizer.study_plan import load_study
    from recognizer.trained import Recognizer, load, predict, train
    from recognizer.training import TrainConfig
    from recognizer.video import predict_video

__all__ = [
    "AblationConfig", "AusConfig", "DataConfig", "FlowSet", "MixConfig", "Model", "ProtocolConfig", "Recognizer",
    "RunConfig", "Scores", "TrainConfig", "ablate", "count_aus", "load", "load_config", "load_study",
    "loso", "predict", "predict_video", "register_model", "run_study", "spot", "train", "train_spotter",
]  # fmt: skip

_HOME = {
    "AblationConfig": "config", "AusConfig": "aus", "DataConfig": "data", "FlowSet": "data", "MixConfig": "mixing",
    "Model": "models", "ProtocolConfig": "protocol", "Recognizer": "trained", "RunConfig": "config",
    "Scores": "results", "TrainConfig": "training", "ablate": "ablation", "count_aus": "data", "load": "trained",
    "load_config": "config", "loso": "run", "load_study": "study_plan", "predict": "trained", "predict_video": "video",
    "register_model": "models", "run_study": "study", "spot": "spotter", "train": "trained",
    "train_spotter": "spotter",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recognizer' has no attribute '{name}'")
    found = getattr(import_module(f"recognizer.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
