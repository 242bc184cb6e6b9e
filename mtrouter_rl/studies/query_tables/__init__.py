"""Suites in which every model answered every query: routers on one-turn tables."""
