"""What the tests of this folder run against."""

from running_stages import deployment, exported_encoder, stage_settings, world

__all__ = ["deployment", "exported_encoder", "stage_settings", "world"]
