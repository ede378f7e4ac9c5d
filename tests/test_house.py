"""The house stands as docs/architecture.md draws it: which room may import which, no circles, one place for each thing.

The order of the floors, of rooms inside a room, and the homes of large libraries are contracts of import-linter
(pyproject.toml), which ``make lint`` holds.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "llava_moe"
# The ground floor: rooms and modules of one rule each, open to every room, with what they import themselves.
GROUND = {
    "errors": set(),
    "text": set(),
    "files": {"errors", "text"},
    "terminal": {"text"},
    "pages": {"text"},
    "plugins": {"errors"},
    "run_config": set(),
    "kv_cache": set(),
    "packed_rows": {"kv_cache"},
    "to_device": set(),
    "embedded_base": {"errors", "files"},
}
ALLOWED = {
    "data": set(),
    # A family says what becomes of an image.
    "model": {"data.images"},
    "adapters": set(),
    "train": {"data.batch"},
    "eval": {"data"},
    "report": {"data", "eval", "train.stage_log"},
    "chat": {"data", "eval", "adapters"},
    "assemble": {"data", "model", "adapters"},
    "export": {"data", "model", "adapters", "assemble"},
    "compose": {"model", "adapters", "assemble"},
    "lmms_eval_plugin": {"data", "eval", "assemble"},
    # Its earlier name.
    "lmms": {"lmms_eval_plugin"},
    "datatools": {"data", "eval"},
    "recipes": {"datatools.prepare"},
    "plan": {"data", "model", "assemble", "train"},
    "analyze": {"data", "adapters", "assemble", "train", "eval"},
    "grid": {"train.folder"},
    "reproduce": {"grid", "eval", "analyze"},
    "compare": {"grid", "eval", "train.stage_log"},
    "config": {"data", "eval.tasks", "train.folder", "train.optimizer"},
    "runs": {"config", "data", "model", "train", "eval", "assemble", "compose"},
    "commands": {
        *("config", "runs", "grid", "reproduce", "compare"),
        *("data", "model", "adapters", "train", "eval", "report", "chat", "assemble", "export", "compose"),
        *("datatools", "plan", "analyze"),
    },
    # Commands are loaded by name, and import nothing of cli: that would be a circle.
    "cli": {"commands.table", "commands.find_instrument", "config.hydra_words", "runs.told_once"},
    "": {"assemble"},
    "__main__": {"cli"},
}
# How often a module catches whatever comes: each says why where it does. Another is no answer to a traceback.
CATCH_ALLS = {
    **dict.fromkeys(
        ("cli", "data.images.transform", "data.images.reading", "data.readers.content", "data.readers.tree"), 1
    ),
    # They save, or carry it to where it is raised again.
    **dict.fromkeys(
        (
            "train.loop",
            "train.rank_errors",
            "train.background_calls",
            "train.heartbeats",
            "config.hydra_compose",
        ),
        1,
    ),
    "train.checkpoint_writer": 1,
    **dict.fromkeys(("eval.generation.endpoint", "eval.judging.judge", "commands.export", "commands.compose_start"), 1),
    **dict.fromkeys([f"datatools.prepare.{name}" for name in ("recipe", "preparation", "workers", "chunks")], 1),
    **dict.fromkeys(("data.readers.files",), 3),
    "model.pretrained": 1,
    "plugins": 2,
    # What another package's reader does; half a file is removed whatever ends the writing.
    **dict.fromkeys(("data.auto_format", "files.atomic_write"), 1),
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name inside it, parsed once and only where a test asks."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports_of(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names: set[str]) -> set[str]:
    """Imported modules of this package, by their dotted name inside it."""
    inside = {name.removeprefix("llava_moe").lstrip(".") for name in names if name.split(".")[0] == "llava_moe"}
    return {name for name in inside if name in modules() and name}


def room(module: str) -> str:
    return module.split(".")[0]


def test_imports_point_down() -> None:
    climbs = []
    for module, tree in modules().items():
        floor = GROUND.get(room(module))
        allowed = ALLOWED[room(module)] | set(GROUND) if floor is None else floor
        for imported in sorted(own(imports_of(tree))):
            inside = room(imported) == room(module) or room(imported) in allowed
            if not (inside or any(imported == name or imported.startswith(name + ".") for name in allowed)):
                climbs.append(f"{module} may not import {imported}")
    assert not climbs


def test_every_permission_is_used() -> None:
    needed: dict[str, set[str]] = {}
    for module, tree in modules().items():
        needed.setdefault(room(module), set()).update(own(imports_of(tree)))
    unused = [
        f"{one} need not import {name}"
        for one, allowed in ALLOWED.items()
        for name in allowed
        if not any(imported == name or imported.startswith(f"{name}.") for imported in needed[one])
    ]
    assert not unused


def test_the_page_draws_the_rooms_from_top_to_bottom_with_what_they_may_import() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `llava_moe/(\w+)(?:/|\.py)[^|]*\| [^|]* \|([^|]*)\|$", page, re.MULTILINE)
    drawn = {name: re.findall(r"`([\w.]+)`", imports) for name, imports in rows if name in ALLOWED}
    assert {name: {*imports} for name, imports in drawn.items()} == {
        name: allowed for name, allowed in ALLOWED.items() if name not in ("", "__main__")
    }
    below = list(drawn)
    climbs = [
        f"{name} stands below {imported}"
        for name, imports in drawn.items()
        for imported in imports
        if below.index(imported.split(".")[0]) < below.index(name)
    ]
    assert not climbs


@pytest.mark.parametrize("module", ["config.free_text", "commands.table"])
def test_what_is_data_alone_imports_nothing_of_the_house(module: str) -> None:
    """They are read before anything is loaded, and by every room that needs them: an import here would be a circle."""
    assert {name.split(".")[0] for name in imports_of(modules()[module])} <= {"__future__", "dataclasses"}


def test_images_are_opened_in_one_place() -> None:
    """Pillow by itself tries every format by content; others fetch addresses, or start programs."""
    openers = ("PIL.Image.open", "torchvision.io", "transformers.image_utils", "imageio", "cv2", "datasets.Image")
    elsewhere = []
    for module, tree in modules().items():
        if module == "data.images.file":
            continue
        named = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            for alias in getattr(node, "names", ())
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        opens = any(
            ast.unparse(node) in ("Image.open", "PIL.Image.open", "ImageFile.Parser")
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
        )
        if opens or "load_image" in named or any(one.startswith(openers) for one in imports_of(tree)):
            elsewhere.append(module)
    assert not elsewhere, "images are opened by data.images.file alone, which has a list of formats"


def test_there_is_no_import_circle() -> None:
    edges = {module: own(imports_of(tree)) - {module} for module, tree in modules().items()}
    # A package's face re-exports its files; the files do not import the face of their own package.
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert state.get(module) != 1, f"circle: {' -> '.join((*path, module))}"
        if state.get(module) == 2:
            return
        state[module] = 1
        for imported in sorted(edges[module]):
            visit(imported, (*path, module))
        state[module] = 2

    for module in edges:
        visit(module, ())


def test_a_configuration_is_read_by_key_above_the_runs_alone() -> None:
    """Below ``commands/`` it is a ``RunConfig``: a mistyped key is no attribute, and mypy says so."""
    found = []
    for module, tree in modules().items():
        if room(module) in ("config", "commands"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).split(".")[-1] == "config":
                found.append(f"{module}:{node.lineno}")
    assert not found


READERS = {
    "text.structured_text": "the one reader",
    "data.readers.json_values": "one value of a stream, as it is spelled",
}
PARSING = {
    "json": {"load", "loads", "JSONDecoder"},
    "yaml": {"load", "safe_load", "full_load", "unsafe_load", "compose", "parse", "load_all", "safe_load_all"},
    "OmegaConf": {"load"},
    "pickle": {"load", "Unpickler"},
    "marshal": {"load", "loads"},
}


def test_text_becomes_values_in_one_module() -> None:
    """What others wrote is nested without end, claims numbers of a million digits, or names objects to be made."""
    found = []
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                named = {(node.module or "", alias.name) for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                named = {(node.value.id, node.attr)}
            else:
                continue
            if module not in READERS and any(name in PARSING.get(owner, ()) for owner, name in named):
                found.append(f"{module}:{node.lineno}")
    assert not found


def test_nothing_more_catches_whatever_comes() -> None:
    def catches_all(node: ast.AST) -> bool:
        """``except Exception``, alone or among others, and ``suppress(Exception)``."""
        caught: list[ast.expr] = []
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = node.args
        return any(ast.unparse(one) in ("Exception", "BaseException") for one in caught)

    found = {module: sum(map(catches_all, ast.walk(tree))) for module, tree in modules().items()}
    assert not {module: count for module, count in found.items() if count > CATCH_ALLS.get(module, 0)}


def test_functions_and_files_are_short() -> None:
    """What is longer does more than one thing."""
    long = []
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 70:
                long.append(f"{module}.{node.name}")
        if max((getattr(node, "end_lineno", 0) for node in tree.body), default=0) > 400:
            long.append(module)
    assert not long


def test_no_table_cuts_a_name_in_a_narrow_terminal() -> None:
    """Rich ends what does not fit with three dots, after which two names may look the same."""
    found = []
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_column":
                given = {one.arg for one in node.keywords}
                if not given & {"overflow", "no_wrap", "min_width"}:
                    found.append(f"{module}:{node.lineno}: add_column without overflow")
    assert not found


def test_help_imports_nothing_heavy() -> None:
    check = (
        "import sys; from llava_moe.cli import run; assert run(['--help']) == 0; assert run(['train', '--help']) == 0; "
        "heavy = {'torch', 'transformers', 'hydra', 'datasets', 'numpy', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def test_no_file_names_a_place_of_one_machine_or_a_package_registry() -> None:
    root = PACKAGE.parent
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ["py" + "pi.org", "registry.npm" + "js", "/ro" + "ot/", "deb." + "debian.org"]
    for name in listed.stdout.split("\0"):
        path = root / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".sh", ".txt", ".json", ""} and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [word for word in words if word in text], name


def test_package_and_tests_are_type_checked_strictly_and_the_wheel_holds_the_package() -> None:
    tools = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["mypy"]["files"] == ["llava_moe", "tests"] and tools["mypy"]["strict"] is True
    # A line of one table that comes to stand under another's heading is no error of TOML.
    assert tools["hatch"]["build"]["targets"]["wheel"]["packages"] == ["llava_moe"]


def test_what_stands_beside_the_package_imports_what_is_there() -> None:
    """Studies, scripts and tools are not type-checked: a name that was changed in the package is told here."""
    root = PACKAGE.parent
    missing = []
    for path in sorted(
        path for room in ("tests", "studies", "scripts", "tools") for path in (root / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llava_moe":
                module = (node.module or "").removeprefix("llava_moe").lstrip(".")
                there = modules()
                for alias in node.names:
                    inside = f"{module}.{alias.name}".lstrip(".")
                    if inside not in there and (module not in there or alias.name not in names_in(module)):
                        missing.append(f"{path.relative_to(root)}:{node.lineno}: {node.module}.{alias.name}")
    assert not missing


@cache
def names_in(module: str) -> set[str]:
    """Names that a module of the package binds, wherever in it."""
    found = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found
