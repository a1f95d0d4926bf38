"""Files that others must see whole, or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from codebank.runtime.files import alone_in


def test_several_who_make_one_folder_at_once_are_alone_in_it_one_after_another(tmp_path: Path) -> None:
    met, inside = Barrier(4), [0]

    def work(number: int) -> None:
        met.wait()
        with alone_in(tmp_path / str(number)):
            inside[0] += 1
            assert inside[0] == 1
            inside[0] -= 1

    for number in range(200):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, [number] * 4))
        assert (tmp_path / str(number)).stat().st_mode & 0o777 == 0o700
