import inspect
import pickle

import pytest

from mtrouter_rl import errors
from mtrouter_rl.errors import InvalidConfigError, MTRouterError, UnknownNameError, unknown_name

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_one_base_and_a_way_through_a_process(error):
    assert issubclass(error, MTRouterError)
    assert error.__doc__
    copy = pickle.loads(pickle.dumps(error("field 'x' is 3")))
    assert type(copy) is error
    assert str(copy) == "field 'x' is 3"


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
