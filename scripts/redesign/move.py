# ruff: noqa
"""Moves modules of llava_moe and rewrites what names them.

    python move.py MAP [--root FOLDER] [--dry]

MAP has lines ``old.module new.module`` (a package moves with all that lies in it; the longest name wins), or
``old/path new/path`` for files that are no modules. Afterwards: ``ruff check --select I --fix``, ``ruff format``.

Rewritten in tracked text files: dotted names (imports, strings for importlib and monkeypatch, yaml, toml, docs), names
imported from a package that are modules (``from llava_moe.adapters import wide``), and paths (``llava_moe/check/mix.py``).
Never: tests/fixtures, CHANGELOG.md, results of studies. ``_target_: llava_moe.adapters.X`` stays, as its package does.
Told for a person: files whose depth changed and which use __file__; short names ("check.mix") in tests/test_house.py that
are rewritten there; relative words in messages are nobody's business here.
"""

import argparse
import ast
import re
import subprocess
from pathlib import Path

TEXT = {".py", ".yaml", ".yml", ".toml", ".md", ".j2", ".sh", ".sbatch", ".txt", ".cff", ".json", ""}
NEVER = ("tests/fixtures/", "CHANGELOG.md", "llava_moe/demo/", "constraints.txt")
ROOTS = ("llava_moe", "tests", "data_recipes", "tools")


def git(root, *words):
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout


def module_of(path):
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_map(text):
    dotted, paths = [], []
    for line in text.splitlines():
        line = line.partition("#")[0].split()
        if line:
            (paths if "/" in line[0] else dotted).append(tuple(line))
    return sorted(dotted, key=lambda pair: -len(pair[0])), paths


def moved_module(name, dotted):
    for old, new in dotted:
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name


def plan(root, dotted, paths):
    """Every tracked file that moves: old path -> new path; and every module: old name -> new name."""
    tracked = git(root, "ls-files").splitlines()
    files, modules = {}, {}
    packages = {module_of(one) for one in tracked if one.endswith("/__init__.py")}
    for one in tracked:
        for old, new in paths:
            if one == old or one.startswith(old.rstrip("/") + "/"):
                files[one] = new + one[len(old) :]
        if one in files or one.split("/")[0] not in ROOTS:
            continue
        if one.endswith(".py"):
            name = module_of(one)
            new = moved_module(name, dotted)
            if new != name:
                is_package = one.endswith("/__init__.py")
                files[one] = new.replace(".", "/") + ("/__init__.py" if is_package else ".py")
                modules[name] = new
        else:  # templates and yamls go with their folder
            folder = ".".join(Path(one).parent.parts)
            new = moved_module(folder, dotted)
            if new != folder and (folder in packages or folder.startswith("tests.")):
                files[one] = new.replace(".", "/") + "/" + Path(one).name
    for old, new in paths:
        if old.endswith(".py"):
            modules[module_of(old)] = module_of(new)
    for old, new in dotted:  # folders of tests have no __init__
        modules.setdefault(old, new)
    return files, modules


def rewrite_dotted(text, modules):
    def swap(match):
        parts = match.group(0).split(".")
        for end in range(len(parts), 0, -1):
            name = ".".join(parts[:end])
            if name in modules:
                return ".".join([modules[name], *parts[end:]])
        return match.group(0)

    return re.sub(r"(?<![\w./-])(?:llava_moe|tests|data_recipes)(?:\.\w+)+", swap, text)


def rewrite_from_package(text, modules):
    """``from package import module``: lines whose names are modules that moved."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    lines = text.splitlines(keepends=True)
    for node in sorted((n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)), key=lambda n: -n.lineno):
        gone = [a for a in node.names if node.module and f"{node.module}.{a.name}" in modules]
        if not gone or node.level:
            continue
        indent, made = " " * node.col_offset, []
        stay = [a for a in node.names if a not in gone]
        if stay:
            made.append(f"from {node.module} import {', '.join(ast.unparse(a) for a in stay)}")
        for one in gone:
            package, _, name = modules[f"{node.module}.{one.name}"].rpartition(".")
            called = one.asname or one.name
            made.append(f"from {package} import {name}" + (f" as {called}" if called != name else ""))
        lines[node.lineno - 1 : node.end_lineno] = [f"{indent}{line}\n" for line in made]
    return "".join(lines)


def rewrite_paths(text, files):
    """Paths of moved files and of folders whose every file moved together."""
    folders = {}
    for old, new in files.items():
        a, b = Path(old).parent, Path(new).parent
        folders.setdefault(str(a) + "/", set()).add(str(b) + "/")
    swaps = dict(files) | {a: next(iter(b)) for a, b in folders.items() if len(b) == 1 and a != next(iter(b))}
    keys = sorted(
        (k for k in swaps if k.startswith(("llava_moe/", "tests/", "data_recipes/", "lmms_tasks"))),
        key=lambda k: -len(k),
    )
    if not keys or not any(k.split("/")[0] + "/" in text for k in keys):
        return text
    return re.sub(r"(?<![\w-])(" + "|".join(map(re.escape, keys)) + r")", lambda m: swaps[m.group(1)], text)


def main():
    parser = argparse.ArgumentParser()
    (
        parser.add_argument("map", type=Path),
        parser.add_argument("--root", type=Path, default=Path(".")),
        parser.add_argument("--dry", action="store_true"),
    )
    words = parser.parse_args()
    root = words.root
    files, modules = plan(root, *read_map(words.map.read_text()))
    clash = [new for new in files.values() if (root / new).exists() and new not in files]
    assert not clash, f"already there: {clash}"
    assert len(set(files.values())) == len(files), "two files move to one place"
    for old, new in sorted(files.items()):
        print(f"{old} -> {new}")
        if not words.dry:
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            # by a name in between: a module may become a package of its own name
            git(root, "mv", old, new + ".moving")
    if words.dry:
        return
    for new in files.values():
        git(root, "mv", new + ".moving", new)
    for new in {n for n in modules.values() if n.startswith("llava_moe.")}:  # a new package has a face
        folder = root / Path(*new.split(".")[:-1])
        while folder != root and folder.name and not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text('"""TODO: one sentence."""\n')
            git(root, "add", str((folder / "__init__.py").relative_to(root)))
            print(f"TELL new package: {folder.relative_to(root)}/__init__.py needs its sentence")
            folder = folder.parent
    inverse = {new: old for old, new in files.items()}
    short = {
        a.removeprefix("llava_moe."): b.removeprefix("llava_moe.")
        for a, b in modules.items()
        if a.startswith("llava_moe.")
    }
    for one in git(root, "ls-files").splitlines():
        path = root / one
        if one.startswith(NEVER) or "/results/" in one or path.suffix not in TEXT or not path.is_file():
            continue
        before = path.read_text(encoding="utf-8")
        text = rewrite_from_package(before, modules) if path.suffix == ".py" else before
        text = rewrite_paths(rewrite_dotted(text, modules), files)
        if one == "tests/test_house.py":
            text = re.sub(r'"([a-z_]+\.[a-z_.]+)"', lambda m: '"' + short.get(m.group(1), m.group(1)) + '"', text)
            for name in short:
                if "." not in name and f'"{name}"' in text:
                    print(f'TELL test_house.py names "{name}": now {short[name]}')
        if text != before:
            path.write_text(text, encoding="utf-8")
        if "__file__" in text and one in inverse and inverse[one].count("/") != one.count("/"):
            print(f"TELL {one} uses __file__ and lies {one.count('/') - inverse[one].count('/'):+d} deeper")
    for folder in sorted({(root / old).parent for old in files}, key=lambda p: -len(p.parts)):
        if folder.is_dir() and not any(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            import shutil

            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
