"""Measurements, side by side; README.md says how they are made."""
