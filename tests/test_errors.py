import inspect
import pickle

import pytest

from mtrouter_rl import errors
from mtrouter_rl.errors import InvalidConfigError, MTRouterError, UnknownNameError, unknown_name
from mtrouter_rl.protocols import WastedCallError
from mtrouter_rl.records import TokenUsage

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_one_base_and_a_way_through_a_process(error):
    assert issubclass(error, MTRouterError)
    assert error.__doc__
    copy = pickle.loads(pickle.dumps(error("field 'x' is 3")))
    assert type(copy) is error
    assert str(copy) == "field 'x' is 3"


def test_a_wasted_call_goes_through_a_process_with_its_tokens():
    usage = TokenUsage(n_fresh=3, n_output=1)
    copy = pickle.loads(pickle.dumps(WastedCallError("cut", usage=usage, served_model="m")))
    assert (str(copy), copy.usage, copy.served_model) == ("cut", usage, "m")


@pytest.mark.parametrize(
    ("name", "valid", "fix", "message"),
    [
        ("boill", ["melt", "boil"], "", "unknown task 'boill'; did you mean 'boil'? Valid: boil, melt"),
        ("xyz", ["melt", "boil"], "", "unknown task 'xyz'; Valid: boil, melt"),
        ("xyz", [], "", "unknown task 'xyz'; Valid: (none)"),
        (
            "boill",
            {"boil": 1},
            "Paths work too",
            "unknown task 'boill'; did you mean 'boil'? Valid: boil. Paths work too",
        ),
    ],
)
def test_unknown_name(name, valid, fix, message):
    error = unknown_name("task", name, valid, fix=fix)
    assert isinstance(error, UnknownNameError)
    assert isinstance(error, InvalidConfigError)
    assert str(error) == message
