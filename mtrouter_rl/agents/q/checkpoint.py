"""Checkpoints of a training: everything needed to go on with exactly the same numbers.

A checkpoint is a folder `iteration-000012` with `state.safetensors` (networks, optimizer, kept iterates) and
`counters.json` (iteration, identity of the training). It is written under another name and renamed, so that a killed
training leaves the previous one or the new one, never half of one.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtrouter_rl.agents.q.learners import Networks
from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.errors import RouterError
from mtrouter_rl.files import read_json
from mtrouter_rl.records import JsonValue

_STATE = "state.safetensors"
_COUNTERS = "counters.json"


class CheckpointStore:
    """The checkpoints of one training; only the newest is kept.

    Args:
        folder: Where they are; None keeps none.
        identity: What the training is: parameters, data, seed. A checkpoint of another identity is refused.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, JsonValue]) -> None:
        self.folder = folder
        self.identity: dict[str, JsonValue] = json.loads(json.dumps(identity))

    def save(self, networks: Networks, iterates: Sequence[StateDict], *, n_done: int) -> None:
        """Write the state after `n_done` iterations, then drop older checkpoints."""
        if self.folder is None:
            return
        target = self.folder / f"iteration-{n_done:06d}"
        partial = self.folder / f"partial-{n_done:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_flatten(networks, iterates), partial / _STATE)
        counters = {"n_iterations_done": n_done, "n_iterates": len(iterates), "identity": self.identity}
        (partial / _COUNTERS).write_text(json.dumps(counters, indent=2), encoding="utf-8")
        partial.replace(target)
        for other in self.folder.glob("iteration-*"):
            if other != target:
                shutil.rmtree(other)

    def load(self, networks: Networks) -> tuple[int, list[dict[str, Tensor]]]:
        """Bring networks and optimizer to the newest checkpoint.

        Returns:
            Number of iterations that are done, and the kept iterates; (0, []) if there is no checkpoint.

        Raises:
            RouterError: If the checkpoint cannot be read or belongs to another training.
        """
        found = sorted(self.folder.glob("iteration-*")) if self.folder is not None else []
        if not found:
            return 0, []
        path = found[-1]
        try:
            counters = cast("dict[str, Any]", read_json(path / _COUNTERS))
            self._check_identity(path, counters["identity"])
            tensors = load_file(path / _STATE)
            return int(counters["n_iterations_done"]), _restore(networks, tensors, int(counters["n_iterates"]))
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise RouterError(
                f"checkpoint {path} cannot be read ({error}); delete it to train from the start"
            ) from error

    def _check_identity(self, path: Path, identity: Mapping[str, JsonValue]) -> None:
        if identity == self.identity:
            return
        names = sorted(set(identity) | set(self.identity))
        differing = [name for name in names if identity.get(name) != self.identity.get(name)]
        details = "; ".join(
            f"{name} is {identity.get(name)!r} there and {self.identity.get(name)!r} here" for name in differing
        )
        raise RouterError(
            f"checkpoint {path} belongs to another training: {details}; "
            "use another checkpoint folder, or delete this one to train from the start"
        )


def _flatten(networks: Networks, iterates: Sequence[StateDict]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in networks.modules:
        tensors |= {f"module/{name}/{key}": tensor for key, tensor in networks.weights(name).items()}
    for index, entry in networks.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": tensor.clone() for key, tensor in entry.items()}
    for index, iterate in enumerate(iterates):
        tensors |= {f"iterate/{index}/{key}": tensor.clone() for key, tensor in iterate.items()}
    return tensors


def _restore(networks: Networks, tensors: Mapping[str, Tensor], n_iterates: int) -> list[dict[str, Tensor]]:
    for name, module in networks.modules.items():
        module.load_state_dict(_part(tensors, f"module/{name}/"))
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _part(tensors, "optimizer/").items():
        index, _, field = key.partition("/")
        state.setdefault(int(index), {})[field] = tensor
    groups = networks.optimizer.state_dict()["param_groups"]
    networks.optimizer.load_state_dict({"state": state, "param_groups": groups})
    return [_part(tensors, f"iterate/{index}/") for index in range(n_iterates)]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
