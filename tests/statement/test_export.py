"""The export: whole however long, in little memory, as the reader's spreadsheet takes it, and never run by any."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import re
import socket
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codebank.settings import Settings
from codebank.statement.export import safe_cell
from tests.statement.desk import ANA, Story, open_desk, open_pages, sign_in
from tests.statement.site import Site, open_site

pytestmark = pytest.mark.anyio

LINES = 100_000
#: What Python, the driver and the server may hold of an export at once; all of it as text is four times as much.
MEMORY_KIB = 16 * 1024


def begins_as_a_formula(cell: str) -> bool:
    shown = cell.lstrip("".join(c for c in cell if unicodedata.category(c) in ("Zs", "Cf", "Cc")) + '"')
    return unicodedata.normalize("NFKC", shown[:1])[:1] in set("=+-@\N{MINUS SIGN}")


@given(st.text(alphabet=st.sampled_from([*"=+-@,;|\t\r\n\"' aé1", "＝", "＋", "－", "＠", "﹦", "\u200b", "\xa0"])))
@example("=cmd|' /C calc'!A0")
@example("Padaria;=HYPERLINK(1)")
@example(",\t-2+3")
@example('"=1+1"')
def test_no_cell_is_taken_for_a_formula_wherever_the_file_is_opened(text: str) -> None:
    for own in ",;":
        out = io.StringIO()
        csv.writer(out, delimiter=own, quoting=csv.QUOTE_ALL).writerow(["a", safe_cell(text), "b"])
        for theirs in ",;\t|":
            cells = [cell for row in csv.reader(io.StringIO(out.getvalue()), delimiter=theirs) for cell in row]
            cells += out.getvalue().replace("\r", theirs).replace("\n", theirs).split(theirs)
            assert [cell for cell in cells if begins_as_a_formula(cell)] == []


@pytest.mark.parametrize("text", ["Padaria São João", "Café; pão & manteiga, 2 × 3", "O'Hara", "A-B=C", "1+1", ""])
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text


@pytest.mark.parametrize("text", ["a\tb", "a\r\nb", "a\x00b", "a\u2028b"])
def test_a_text_stays_on_its_row_and_in_its_cell(text: str) -> None:
    assert re.fullmatch("a +b", safe_cell(text))


@pytest.mark.parametrize(("language", "head", "row", "name"), [
    ("pt", "data;hora;estabelecimento;descrição;cartão;parcelas;situação;valor;estornado;moeda",
     "2026-11-20;12:02:00;Padaria São João;Pão e café;•••• 0018;3;aprovado;1234,56;0,00;BRL", "extrato.csv"),
    ("en", "date,time,merchant,description,card,parcelas,status,amount,returned,currency",
     "2026-11-20,12:02:00,Padaria São João,Pão e café,•••• 0018,3,approved,1234.56,0.00,BRL", "statement.csv"),
])  # fmt: skip
async def test_the_file_is_written_as_the_readers_spreadsheet_reads_it(
    settings: Settings, language: str, head: str, row: str, name: str
) -> None:
    async with open_desk(settings) as desk, open_pages(settings) as browsers:
        await desk.append(*Story().opened().paid(123_456, parcelas=3).events)
        await desk.project()
        browser = browsers()
        browser.cookies.set("language", language)
        await sign_in(browser)

        answer = await browser.get("/statement.csv")

    assert answer.content.startswith(b"\xef\xbb\xbf")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert name in answer.headers["content-disposition"]
    assert answer.content.decode("utf-8-sig").replace('"', "").splitlines() == [head, row]


async def fill(site: Site, count: int) -> None:
    await site.desk.pool.execute(
        "insert into line (account_id, payment_id, sequence, first_sequence, merchant_name, merchant_category,"
        " description, amount_minor, currency, parcelas, status, refunded_minor, card_masked, available_minor,"
        " occurred_at, local_day, search_text) select $1, gen_random_uuid(), n, n, 'Padaria São João', '5462',"
        " repeat('x', 140), n, 'BRL', 1, 'approved', 0, '•••• 0018', 0, now(), current_date, '' "
        "from generate_series(2, $2) as n",
        ANA,
        count + 1,
    )


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4


@pytest.mark.timeout(180)
async def test_a_long_export_is_whole_and_takes_little_memory(settings: Settings) -> None:
    async with open_site(settings) as site:
        await fill(site, LINES)
        await site.ana.get("/statement.csv?q=nothing")
        before, most, amounts, rest = resident_kib(), 0, list[int](), b""

        async with site.ana.stream("GET", "/statement.csv") as answer:
            async for piece in answer.aiter_bytes():
                most = max(most, resident_kib())
                *rows, rest = (rest + piece).split(b"\r\n")
                amounts += [int(row.split(b'";"')[7].replace(b",", b"")) for row in rows if b"Padaria" in row]

    assert rest == b""
    assert amounts == list(range(LINES + 1, 1, -1))
    assert most - before < MEMORY_KIB


@contextlib.asynccontextmanager
async def slowly_read(site: Site) -> AsyncIterator[asyncio.StreamReader]:
    """Ask for the export by a connection that takes little at once, and read its beginning."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", site.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    words = ["GET /statement.csv HTTP/1.1", "host: x", f"cookie: session={site.ana.cookies['session']}", "", ""]
    writer.write("\r\n".join(words).encode())
    try:
        assert b"200" in await reader.readline()
        yield reader
    finally:
        writer.close()


async def test_a_reader_that_is_slow_or_leaves_holds_nothing_of_the_database(settings: Settings) -> None:
    async with open_site(settings) as site:
        await fill(site, 80_000)
        held = (
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name = 'statement' and state <> 'idle'"
        )

        async with slowly_read(site):
            async with asyncio.timeout(8):
                while await site.desk.pool.fetchval(held):
                    await asyncio.sleep(0.01)
            assert site.requests_under_way() == 1

        async with asyncio.timeout(8):
            while site.requests_under_way():
                await asyncio.sleep(0.01)


async def test_an_export_that_cannot_be_finished_does_not_look_whole(settings: Settings) -> None:
    async with open_site(settings) as site:
        await fill(site, 80_000)

        async with slowly_read(site) as reader:
            await site.desk.pool.execute("alter table line rename to line_away")
            last = b""
            while more := await reader.read(2**20):
                last = (last + more)[-5:]
        await site.desk.pool.execute("alter table line_away rename to line")

    assert not last.endswith(b"0\r\n\r\n")
