"""Simulated models: each imitates the task's expert and fails in its own way. No language model is called."""
