"""The system that runs on this machine, as its commands find it.

Apart from what starts it: a command beside a role, in the same container, shall not load all roles to read a setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from codebank.settings import PREFIX, Settings

#: In the state folder while `codebank up` runs, with every setting of the system.
RUNNING_FILE: Final = "running.json"


def load_running(environ: Mapping[str, str]) -> Settings:
    """Read the settings of the system that runs on this machine; what the environment says wins."""
    settings = Settings.load(environ)
    path = settings.state / RUNNING_FILE
    if not path.exists():
        return settings
    running = json.loads(path.read_text())
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    return Settings.load({name: value for name, value in running.items() if f"{name}_FILE" not in given} | given)
