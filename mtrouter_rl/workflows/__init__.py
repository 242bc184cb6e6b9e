"""The steps that the commands are made of: collect, train, evaluate, present. `study` is these in order."""

from mtrouter_rl.workflows.collecting import CollectRequest, collect_dataset
from mtrouter_rl.workflows.evaluating import EvaluateRequest, evaluate_routers, roles_of
from mtrouter_rl.workflows.presenting import present
from mtrouter_rl.workflows.run_folder import (
    CONFIG_FILE,
    EPISODES_FOLDER,
    OPE_FOLDER,
    RESULTS_FILE,
    TENSORBOARD_FOLDER,
    describe,
    episodes_of_run,
    save_config,
)
from mtrouter_rl.workflows.training import (
    CHECKPOINT_FOLDER,
    EVALUATE_EPISODES,
    TRAINING_FILE,
    VALIDATION_FOLDER,
    TrainRequest,
    encode_log,
    load_agent,
    make_validate,
    train_router,
    training_seconds,
)

__all__ = [
    "CHECKPOINT_FOLDER",
    "CONFIG_FILE",
    "EPISODES_FOLDER",
    "EVALUATE_EPISODES",
    "OPE_FOLDER",
    "RESULTS_FILE",
    "TENSORBOARD_FOLDER",
    "TRAINING_FILE",
    "VALIDATION_FOLDER",
    "CollectRequest",
    "EvaluateRequest",
    "TrainRequest",
    "collect_dataset",
    "describe",
    "encode_log",
    "episodes_of_run",
    "evaluate_routers",
    "load_agent",
    "make_validate",
    "present",
    "roles_of",
    "save_config",
    "train_router",
    "training_seconds",
]
