"""What a machine can check of the house: sizes, names, floats, generated files, documentation, addresses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from codebank.lab.reference import reference_text
from codebank.roles import METRICS
from codebank.settings import PREFIX, Settings
from tests.generate import generate
from tests.traps import missing

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "codebank"
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if "v1" not in path.relative_to(SOURCE).parts]
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "base", "manager", "misc"}
#: What tells that code handles amounts.
AMOUNT = re.compile(r"(^|_)(minor|amounts?|money|prices?|cents)($|_)|^Money", re.IGNORECASE)


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_is_one_topic(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_functions_are_short() -> None:
    lengths = [(length, f"{path.relative_to(SOURCE)}:{name}") for path in MODULES for name, length in functions(path)]

    assert [where for length, where in lengths if length > 70] == []
    assert sorted(length for length, _ in lengths)[len(lengths) * 9 // 10] <= 30


def test_every_module_has_a_noun_and_a_promise() -> None:
    for path in MODULES:
        assert path.stem not in FORBIDDEN_NAMES
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def mentioned(node: ast.AST) -> Iterator[str]:
    """Give every name that a piece of code uses."""
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name


def fractions(node: ast.AST) -> Iterator[ast.AST]:
    """Give everything in a piece of code that makes a number with a fraction; paths are divided by texts."""
    for part in ast.walk(node):
        match part:
            case ast.Name(id="float") | ast.Constant(value=float()) | ast.AugAssign(op=ast.Div()):
                yield part
            case ast.BinOp(op=ast.Div(), left=left, right=right):
                texts = (ast.JoinedStr, ast.Constant)
                if not any(isinstance(one, texts) and not _is_number(one) for one in (left, right)):
                    yield part


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def near_amounts(text: str) -> list[str]:
    """Give the fractions of a module that stand in a function, a class field or a statement that handles amounts."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    pieces: list[ast.AST] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, functions):
            pieces.append(node)
        elif isinstance(node, ast.Module | ast.ClassDef):
            pieces += [one for one in node.body if not isinstance(one, (*functions, ast.ClassDef))]
    handling = [piece for piece in pieces if any(map(AMOUNT.search, mentioned(piece)))]
    return [f"{getattr(one, 'lineno', 0)}: {ast.unparse(one)}" for piece in handling for one in fractions(piece)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_float_comes_near_an_amount(path: Path) -> None:
    assert near_amounts(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "def f(amount): return int(amount * 1.0)",
        "def f(total_minor): return total_minor / 1",
        "def f(order):\n    total_minor = order.total_minor\n    total_minor /= 2",
        "def f(amount_minor: float): ...",
        "class A:\n    limit_minor: float",
        "PRICE = 8.5",
        "async def f(x):\n    return Money(int(x * 0.5), 'BRL')",
    ],
)
def test_the_guard_against_fractions_sees_them(code: str) -> None:
    assert near_amounts(code) != []


def test_the_guard_against_fractions_lets_paths_and_times_be() -> None:
    assert near_amounts("def f(folder, amount): return folder / 'x'\ndef g(): return wait_seconds / 2") == []


def test_no_amount_column_is_a_fraction() -> None:
    for path in SOURCE.rglob("*.sql"):
        text = path.read_text(encoding="utf-8").lower()
        assert not re.search(
            r"\b(real|double precision|float\d?|numeric|decimal|money)\b\s*(\(|,|not|check|default)", text
        )
        for column in re.findall(r"^\s+(\w*minor)\s+(\w+)", text, re.MULTILINE):
            assert column[1] == "bigint", f"{path.name}: {column}"


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    generate(tmp_path)

    made = sorted((tmp_path / "codebank" / "v1").iterdir())
    assert made
    for path in made:
        assert path.read_text() == (SOURCE / "v1" / path.name).read_text(), f"run `make proto`: {path.name}"


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == reference_text(METRICS), (
        "run `make reference`"
    )


def test_every_setting_and_metric_is_documented() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

    assert [item.name for item in fields(Settings) if f"`{PREFIX}{item.name.upper()}`" not in text] == []
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in text] == []


def test_every_metric_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in MODULES if path.name != "telemetry.py")

    assert [metric.name for metric in METRICS if f'"{metric.name}"' not in text] == []


def test_words_are_the_same_in_both_languages_and_every_one_asked_for_is_there() -> None:
    def flat(table: dict, prefix: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in table.items():
            found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
        return found

    shared: set[str] = set()
    for room in ("runtime/web", "checkout", "statement", "audit/control"):
        tables = {
            language: flat(tomllib.loads((SOURCE / room / "words" / f"{language}.toml").read_text(encoding="utf-8")))
            for language in ("pt", "en")
        }
        assert tables["pt"].keys() == tables["en"].keys()
        for key in tables["pt"]:
            assert re.findall(r"{\w+}", tables["pt"][key]) == re.findall(r"{\w+}", tables["en"][key]) or set(
                re.findall(r"{\w+}", tables["pt"][key])
            ) == set(re.findall(r"{\w+}", tables["en"][key])), key
        if room == "runtime/web":
            shared = set(tables["pt"])
        known = shared | set(tables["pt"])
        for template in (SOURCE / room / "templates").glob("*.html"):
            asked = re.findall(r"""\bt\(["']([\w.]+)["'](?!\s*~)""", template.read_text(encoding="utf-8"))
            assert [key for key in asked if key not in known] == [], template.name


def test_a_rooms_statements_stand_in_its_store() -> None:
    statement = re.compile(r"^\s*(with \w+ as \(|select\b.* from |insert into |update \w+ |delete from )", re.DOTALL)
    found = []
    for path in MODULES:
        room, *inside = path.relative_to(SOURCE).parts
        if room not in ("audit", "bank", "checkout", "statement") or "store" in path.with_suffix("").parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.match(node.value):
                found.append(f"{room}/{'/'.join(inside)}:{node.lineno}: {node.value[:60]}")

    assert found == []


def test_templates_hold_no_inline_style_or_script() -> None:
    for path in SOURCE.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|<style|<script(?![^>]*\bsrc=)|\son\w+=", text), path.name


def test_no_address_of_a_registry_and_no_path_of_a_machine_is_in_the_tree() -> None:
    registries = "|".join(
        ("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs", "repo" + r"\.maven", "proxy" + r"\.golang")
    )
    machine = "|".join(("/wor" + "k/", "/ro" + "ot/", "/ho" + "me/[a-z]", "/tmp/ba" + "sh"))
    found = []
    for path in tracked_files():
        if path.suffix in {".woff2", ".png", ".jpg"} or "vendor" in path.parts:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.name}: {hit}" for hit in re.findall(rf"(?:{registries}|{machine})", text)]
    assert found == []
    assert not (ROOT / "uv.lock").exists()


def test_a_pin_names_the_extras_that_other_packages_ask_of_it() -> None:
    """pip looks past a pin without them, finds a newer release the day there is one, and refuses to install it."""
    text = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    pins = {one.name: one.extras for one in map(Requirement, re.findall(r"(?m)^([a-z0-9].*?)\s*\\$", text))}
    asked = [
        Requirement(line)
        for package in distributions()
        if canonicalize_name(package.metadata["Name"]) in pins
        for line in package.requires or []
    ]
    with_extras = [one for one in asked if one.extras and (one.marker is None or one.marker.evaluate({"extra": ""}))]

    assert "coverage" in {one.name for one in with_extras}
    assert [str(one) for one in with_extras if not one.extras <= pins[canonicalize_name(one.name)]] == []


def test_a_document_says_a_thing_once() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        long = [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 90 and line[0] != "|"]
        assert [line for line in set(long) if long.count(line) > 1] == [], path.name


def test_what_calls_itself_pure_is_held_to_it() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (held,) = [one["source_modules"] for one in contracts if one["name"] == "what thinks does no input or output"]
    pure = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if re.search(r"\bPure\b", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    }

    assert [name for name in sorted(pure) if not any(name == one or name.startswith(f"{one}.") for one in held)] == []


#: Tasks that belong to no block, and why nothing is lost when one ends alone. Everything endless is `background`.
TASKS_MAY_BE_MADE = {
    "checkout/bank.py": "lets go of a channel that nobody uses any more",
    "checkout/tasks.py": "a payment that goes on when its browser leaves; kept, logged, waited for at the stop",
    "lab/delay.py": "a call of a measurement, gathered at its end",
    "bank/door/api.py": "takes what one stream sends; however it ends, whoever answers the stream is told",
}


def test_trap_c02_no_task_is_made_that_nobody_owns() -> None:
    """A task belongs to a TaskGroup, and so to the block that waits for it and ends with it."""
    found = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if re.fullmatch(
                r"(asyncio|loop|.*get_running_loop\(\))\.(create_task|ensure_future)", ast.unparse(call.func)
            ):
                found.add(str(path.relative_to(SOURCE)))

    assert sorted(found - set(TASKS_MAY_BE_MADE)) == []


#: Doors that every room has: one name, one meaning.
DOORS = {"Web"}
#: Words that had two meanings, or did not say what they hold.
RETIRED = {"told", "trail", "portion", "timeline", "rehearsal"}


def declared(path: Path) -> Iterator[str]:
    """Give the names that a module makes: its own, and those of its classes, functions and fields."""
    yield path.parent.name if path.stem == "__init__" else path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def parts(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def test_a_class_has_its_name_for_itself() -> None:
    made = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )

    assert sorted(name for name, count in made.items() if count > 1 and name not in DOORS) == []


def test_retired_words_stay_retired() -> None:
    found = [f"{path.name}: {name}" for path in MODULES for name in declared(path) if RETIRED & set(parts(name))]

    assert found == []


def test_every_word_of_the_glossary_is_a_word_of_the_tree() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Glossary")[2]
    words = [cell.strip() for cell in re.findall(r"(?m)^\| ([a-z ]+?) \|", text) if cell.strip() != "word"]
    spoken = {"_".join(parts(name)) for path in MODULES for name in declared(path)}

    assert len(words) > 20
    missing_words = [
        word
        for word in words
        if not any(re.search(rf"(^|_){word.replace(' ', '_')}(s|es)?($|_)", name) for name in spoken)
    ]
    assert missing_words == []


def test_nothing_is_left_unfinished() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")
    for path in [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        assert [word for word in words if word in text] == [], path.name


def test_every_decided_trap_has_its_named_test() -> None:
    assert missing() == []


@pytest.mark.parametrize(
    ("started", "needless"),
    [
        ("codebank.cli", ("grpc", "asyncpg", "rich", "starlette")),
        # These run beside a role, within its memory.
        (
            "codebank.machine.attach, codebank.audit.proof.prove, codebank.operate.dead_letters",
            ("grpc", "starlette", "uvicorn", "cryptography"),
        ),
    ],
)
def test_a_command_starts_without_importing_what_it_does_not_need(started: str, needless: tuple[str, ...]) -> None:
    code = f"import sys, {started}; print([name for name in {needless} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
