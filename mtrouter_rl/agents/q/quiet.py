"""Keeps d3rlpy's import of the unmaintained `gym` from printing its notice; nothing here uses that package."""


def silence_gym_notice() -> None:
    """Empty the table of notices that `gym` prints on import. To be called before d3rlpy is imported."""
    try:
        from gym_notices import notices
    except ImportError:  # a d3rlpy without gym has nothing to print
        return
    notices.notices.clear()
