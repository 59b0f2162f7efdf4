"""Settings: the environment, read once, checked, and frozen. One setting is one line in fields.py."""

from data_manager.settings.fields import SETTINGS, Settings
from data_manager.settings.reading import BadSettings, SettingRow, describe, load, read, warnings

__all__ = ["SETTINGS", "BadSettings", "SettingRow", "Settings", "describe", "load", "read", "warnings"]
