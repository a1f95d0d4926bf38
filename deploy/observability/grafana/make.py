"""Write the dashboards into a folder, as Grafana's provisioning reads them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from boards import bank, kafka, payments, proof, statement
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

BOARDS: Final = (payments, bank, kafka, statement, proof)


def main(arguments: Sequence[str]) -> None:
    """Write one file for each dashboard."""
    folder = Path(arguments[0]) if arguments else Path(__file__).parent / "dashboards"
    for board in BOARDS:
        name = board.__name__.rpartition(".")[2]
        made = _finished(board.dashboard().build())
        text = json.dumps(made, cls=JSONEncoder, sort_keys=True, indent=2, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _finished(made: Dashboard) -> Dashboard:
    """Number the panels, so that a link to one stays a link to it, and put the links where people see them."""
    for place, panel in enumerate(made.panels or (), start=1):
        panel.id_val = place
    for link in made.links or ():
        link.placement = None
    return made


if __name__ == "__main__":
    main(sys.argv[1:])
