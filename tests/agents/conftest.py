from tests.cases.log_fixtures import _one_thread, log, log_of, small_log  # noqa: F401
