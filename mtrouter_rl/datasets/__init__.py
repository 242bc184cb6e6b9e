"""Logged episodes: the Parquet store and its rules, splits, collection, importers and exporters.

A dataset is a folder with `info.json` (what it is and how it was made) and shards of Parquet files (episodes, turns,
and what only a simulator knows). `mtrouter_rl.datasets.store` writes and loads it, `mtrouter_rl.datasets.validation`
holds every rule that a log has to keep, `mtrouter_rl.cards.splits` says which episodes are run, and
`mtrouter_rl.datasets.summary` sums a log up for the reader.
"""
