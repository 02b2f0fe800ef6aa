"""Renting machines: what a run will cost, launching it, watching it, and giving the machine back."""
