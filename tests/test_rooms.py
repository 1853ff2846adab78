"""The rooms of each floor: who may import whom, faces, no circles, and a drawing that matches the folders."""

import ast
import re
from pathlib import Path

import pytest
from rooms import FLOORS, ROOMS, graph, room_of
from test_layers import sources

ROOT = Path(__file__).parent.parent
GRAPH = graph()


def faces():
    """Rooms whose __init__ says in __all__ what they offer."""

    def offers(tree):
        return any(isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__" for n in tree.body)

    files = [file for floor in FLOORS for file in sources(floor)]
    return {name for path, name, tree in files if path.endswith("__init__.py") and offers(tree)}


def circles(graph):
    """Groups of modules that import each other; a package is not held to what its files import of its own face."""
    order, low, stack, out = {}, {}, [], []

    def visit(v):
        order[v] = low[v] = len(order)
        stack.append(v)
        for w in graph[v]:
            if w not in order:
                visit(w)
            if w in stack:
                low[v] = min(low[v], low[w])
        if low[v] == order[v]:
            group = [stack.pop()]
            while group[-1] != v:
                group.append(stack.pop())
            out.extend([sorted(group)] if len(group) > 1 else [])

    for v in graph:
        if v not in order:
            visit(v)
    return out


def strangers(module, targets):
    """Imports of `module` that its room may not make."""
    floor, room = room_of(module)
    table = ROOMS.get(floor, {})
    found = [(t, *room_of(t)) for t in targets]
    may = {room, *table.get(room, "").split()}
    return sorted(t for t, f, r in found if f == floor and table and t != floor and r not in may)


def past_the_face(module, targets, faces):
    """Imports of files behind a face that `module` is not a part of."""
    behind = {t: f for t in targets for f in faces if t.startswith(f + ".")}
    return sorted(t for t, f in behind.items() if not (module + ".").startswith(f + "."))


def test_every_room_is_in_the_table():
    for floor, table in ROOMS.items():
        folders = {p.parent.name for p in (ROOT / floor).glob("*/__init__.py")}
        assert folders == set(table) - {".", "story"}, floor


@pytest.mark.parametrize("floor", ROOMS)
def test_rooms_import_what_the_table_says(floor):
    found = {m: strangers(m, targets) for m, targets in GRAPH.items() if m.split(".")[0] == floor}
    assert {m: s for m, s in found.items() if s} == {}


def test_the_table_itself_has_no_circle():
    for table in ROOMS.values():
        seen = set()
        for room, takes in table.items():
            assert set(takes.split()) <= seen, room
            seen.add(room)


def test_a_face_is_the_only_door():
    doors = faces()
    assert {"liveact_kernels.contract", "liveact_kernels.ops", "liveact_model.dit", "liveact_model.loading"} <= doors
    own_ops = {d for d in doors if d.startswith("liveact_kernels.ops.")}  # an op's folder: ops share reference parts
    found = {m: past_the_face(m, targets, doors - own_ops - {"liveact_kernels.ops"}) for m, targets in GRAPH.items()}
    assert {m: s for m, s in found.items() if s} == {}


def test_no_circle_of_imports():
    assert circles(GRAPH) == []


def test_what_is_forbidden_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert strangers("liveact_kernels.contract.op", {"liveact_kernels.ops.quant"}) == ["liveact_kernels.ops.quant"]
    assert strangers("liveact_model.dit.model", {"liveact_model.session"}) == ["liveact_model.session"]
    assert past_the_face("liveact_app.x", {"liveact_kernels.contract.op"}, {"liveact_kernels.contract"})
    inside = "liveact_kernels.contract.op"
    assert not past_the_face("liveact_kernels.contract.x", {inside}, {"liveact_kernels.contract"})


def test_the_tree_in_contributing_matches_the_folders():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.search(r"```tree\n(.*?)```", text, re.S)
    assert drawn, "CONTRIBUTING.md has no ```tree block"
    stated, top = set(), ""
    for line in drawn[1].splitlines():
        name = line.split()[0] if line.split() else ""
        if not name.endswith("/"):
            continue
        top = name if not line.startswith(" ") else top
        stated.add(name if not line.startswith(" ") else top + name)
    floors = {f"{f}/" for f in FLOORS}
    rooms = {f"{p.parent.parent.name}/{p.parent.name}/" for f in FLOORS for p in (ROOT / f).glob("*/__init__.py")}
    assert stated & floors == floors
    assert {s for s in stated if s.count("/") == 2 and s.split("/")[0] in FLOORS} == rooms
    assert all((ROOT / s).is_dir() for s in stated)
