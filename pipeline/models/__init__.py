"""The built-in models, and models of the user by import path."""

from __future__ import annotations

from pipeline.models.build import build_model, candidates, initialise, model_name

__all__ = ["build_model", "candidates", "initialise", "model_name"]
