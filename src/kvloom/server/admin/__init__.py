"""Endpoints for operators: health, metrics and cache administration."""
