"""Files that this package reads and writes: within limits, whole or not at all, and one writer at a time."""

from mtrouter_rl.files.locks import PARTIAL_SUFFIX, LockedPlace, locked
from mtrouter_rl.files.names import CACHE_VARIABLE, STATE_VARIABLE, cache_folder, slug, state_folder, visible
from mtrouter_rl.files.reading import MAX_JSON_BYTES, MAX_JSON_DEPTH, check_depth, parse_json, read_json
from mtrouter_rl.files.saved import Header, ResultFile, SavedRecord, load_record, save_record
from mtrouter_rl.files.writing import whole, write_atomically

__all__ = [
    "CACHE_VARIABLE",
    "MAX_JSON_BYTES",
    "MAX_JSON_DEPTH",
    "PARTIAL_SUFFIX",
    "STATE_VARIABLE",
    "Header",
    "LockedPlace",
    "ResultFile",
    "SavedRecord",
    "cache_folder",
    "check_depth",
    "load_record",
    "locked",
    "parse_json",
    "read_json",
    "save_record",
    "slug",
    "state_folder",
    "visible",
    "whole",
    "write_atomically",
]
