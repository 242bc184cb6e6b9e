"""Importers of the formats that other programs write: agents, gateways, tracers and evaluation frameworks."""
