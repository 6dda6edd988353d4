"""Tryton's point of sale on Tillstream: sales are captured once they are committed, and offers shown on them."""
