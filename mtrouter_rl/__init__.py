"""Turns logs of multi-turn LLM runs into routing policies.

Importing this package registers the Gymnasium environments and starts nothing else.
"""
