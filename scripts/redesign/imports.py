# ruff: noqa
"""The import graph of a package by its files: edges between packages, circles, and edges that a layer order forbids.

python imports.py ROOT [MAP]   MAP: lines "old.module new.module" (prefixes), applied to the names first."""

import ast, sys, collections
from pathlib import Path

root = Path(sys.argv[1])
mapping = []
if len(sys.argv) > 2:
    mapping = [l.split() for l in open(sys.argv[2]) if l.strip() and not l.startswith("#")]
    mapping = sorted(mapping, key=lambda p: -len(p[0]))


def new(name):
    for a, b in mapping:
        if name == a or name.startswith(a + "."):
            return b + name[len(a) :]
    return name


files = {}
for path in sorted((root / "llava_moe").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    files[name] = path
edges = collections.defaultdict(set)
lazy = set()
for name, path in files.items():
    tree = ast.parse(path.read_text())
    top = set(id(n) for n in tree.body)
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found = [
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in files else node.module for a in node.names
            ]
        for one in found:
            if one in files and one != name:
                edges[name].add(one)
                if id(node) not in top:
                    lazy.add((name, one))
LEVEL = 3


def room(n):
    p = new(n).split(".")
    if len(p) == 2 and p[0] == "llava_moe":
        return p[1]
    return ".".join(p[1:2])


def room2(n):
    p = new(n).split(".")[1:]
    return (
        ".".join(p[:2])
        if p and p[0] in ("datatools", "adapters", "base", "records", "eval", "data") and len(p) > 2
        else (p[0] if p else "")
    )


pick = room2 if "--fine" in sys.argv else room
rooms = collections.defaultdict(lambda: collections.defaultdict(list))
for a, bs in edges.items():
    for b in bs:
        if pick(a) != pick(b):
            rooms[pick(a)][pick(b)].append((new(a), new(b)))
for r in sorted(rooms):
    print(r, "->", ", ".join(f"{k}({len(v)})" for k, v in sorted(rooms[r].items())))


# strongly connected rooms
def scc(g):
    idx, low, st, on, out, c = {}, {}, [], set(), [], [0]
    sys.setrecursionlimit(10000)

    def go(v):
        idx[v] = low[v] = c[0]
        c[0] += 1
        st.append(v)
        on.add(v)
        for w in g.get(v, ()):
            if w not in idx:
                go(w)
                low[v] = min(low[v], low[w])
            elif w in on:
                low[v] = min(low[v], idx[w])
        if low[v] == idx[v]:
            comp = []
            while True:
                w = st.pop()
                on.discard(w)
                comp.append(w)
                if w == v:
                    break
            if len(comp) > 1:
                out.append(comp)

    for v in list(g):
        v in idx or go(v)
    return out


print("room circles:", scc({a: set(b) for a, b in rooms.items()}))
print("file circles:", scc({a: set(b) for a, b in edges.items()}))
