"""Finds the system that runs on this machine, for the commands beside it.

Apart from what starts it: a command beside a role, in the same container, shall not load all roles to read a setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from codebank.settings import PREFIX, Settings

#: In the state folder while `codebank up` runs, with every setting of the system.
SETTINGS_FILE: Final = "running.json"


def find_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings of the system that runs on this machine; what the environment says wins."""
    settings = Settings.load(environ)
    path = settings.state / SETTINGS_FILE
    if not path.exists():
        return settings
    kept = json.loads(path.read_text())
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    return Settings.load({name: value for name, value in kept.items() if f"{name}_FILE" not in given} | given)
