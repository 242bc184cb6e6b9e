"""Named errors, all derived from one base, and the helper that suggests the nearest valid name.

A message names the field, where it is, the value, the rule and the fix, so that whoever reads it can act on it.
"""

import difflib
from collections.abc import Iterable


class MTRouterError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidConfigError(MTRouterError):
    """A value given by the user (argument, configuration field) breaks its rule."""


class CardError(InvalidConfigError):
    """A YAML card is missing, unreadable, or has a field that breaks its rule."""


class UnknownNameError(InvalidConfigError):
    """A name (card, task, model, agent, encoder, policy) is not among the known ones."""


class PoolMismatchError(InvalidConfigError):
    """A router, dataset or environment was made for another model pool than the one in use."""


class MissingDependencyError(MTRouterError):
    """An optional package or an outside program (Java) that this feature needs cannot be found."""


class MovedNameError(MTRouterError, ImportError):
    """A module or a name is imported from where it used to be; the message says where it is now."""


class MaskedActionError(MTRouterError):
    """The chosen model is not allowed this turn: its worst-case call does not fit the budget or its context window."""


class NoModelAllowedError(MTRouterError):
    """No model may be called: each is too dear for what is left, has too small a context window, or is ruled out."""


class CallOrderError(MTRouterError):
    """A method was called before the one that has to come first, such as `step` before `reset`."""


class SimulatorError(MTRouterError):
    """The simulator behind an environment failed or could not be started."""


class BackendError(MTRouterError):
    """A model call failed for outside reasons, or its reply breaks the contract of the backend."""


class SpendLimitError(MTRouterError):
    """The next model call could pass the limit of what a run or a day may cost; nothing more is called."""


class DatasetError(MTRouterError):
    """A logged dataset is missing, unreadable or breaks one of its rules."""


class UsageError(DatasetError):
    """What is said of the tokens of a call cannot be read as tokens.

    Attributes:
        field: Dotted name of the field inside the usage; empty for the usage as a whole.
        value: What stands there.
    """

    def __init__(self, message: str, *, field: str = "", value: object = None) -> None:
        super().__init__(message)
        self.field = field
        self.value = value


class ContractError(MTRouterError):
    """An environment that was plugged in breaks a rule of its contract."""


class RouterError(MTRouterError):
    """A saved router is missing, unreadable or was made by something else."""


class BusyError(MTRouterError):
    """Another process is writing to the same place."""


class LostProcessError(MTRouterError):
    """Another process of the same training was lost, or does not answer."""


class ResultsError(MTRouterError):
    """A results file is missing, unreadable or breaks its schema."""


def unknown_name(kind: str, name: str, valid: Iterable[str], *, fix: str = "") -> UnknownNameError:
    """Error for an unknown name that lists the valid ones and suggests the nearest.

    Args:
        kind: What the name stands for, such as "task" or "pool card".
        name: The unknown name as it was given.
        valid: The valid names.
        fix: Further advice, appended as a sentence of its own.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> str(unknown_name("task", "boill", ["melt", "boil"]))
        "unknown task 'boill'; did you mean 'boil'? Valid: boil, melt"
    """
    names = sorted(valid)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    tail = f". {fix}" if fix else ""
    return UnknownNameError(f"unknown {kind} '{name}'; {hint}Valid: {', '.join(names) or '(none)'}{tail}")
