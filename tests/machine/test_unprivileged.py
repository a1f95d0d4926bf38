"""A server that refuses root runs all the same, and no folder is opened up for it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from codebank.errors import CodebankError
from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.unprivileged import is_root, make_folder


def mode(place: Path) -> int:
    return stat.S_IMODE(place.stat().st_mode)


def test_folders_of_ours_can_be_passed_through_by_the_server_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        make_folder(folder / "state" / "postgres")
    finally:
        os.umask(before)

    expected = 0o711 if is_root() else 0o700
    assert mode(folder / "state") == mode(folder / "state" / "postgres") == expected


def test_closed_folders_stay_closed_and_root_is_told_which_one_is_in_the_way(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "postgres", durable=False)

    if is_root():
        with pytest.raises(CodebankError, match=f"user nobody may not enter {closed}\nhint: set CODEBANK_STATE to"):
            server.start()
    else:
        server.start()
        server.stop()

    assert mode(closed) == 0o700


def test_data_of_another_user_are_refused(folder: Path) -> None:
    data = folder / "postgres" / "data"
    data.mkdir(parents=True)
    if is_root():
        with pytest.raises(CodebankError, match="belong to user root, the server would be nobody\nhint: start as"):
            EmbeddedPostgres(folder / "postgres").start()
    assert list(data.iterdir()) == []
