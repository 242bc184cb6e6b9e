"""Turns text and models into numbers: text encoders and their on-disk cache, features of models and of histories.

Text is encoded once, when it is new. `history.HistoryFeatures` keeps a running aggregate of those vectors, so that a
decision late in an episode costs what one at its start costs; the same code runs over a log and in a live episode.
`wrapper.EmbedHistory` puts it around a `RoutingEnv`. Nothing here depends on how many models a pool has or how they
are ordered: which model acted is told by its features.
"""
