"""Measurements of the running system, and the campaigns that try to break it."""
