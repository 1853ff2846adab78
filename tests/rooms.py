"""The rooms of each floor as a table, and the imports that the files really make; for the test and for the drawing."""

from pathlib import Path

from test_layers import imports, sources

ROOT = Path(__file__).parent.parent
FLOORS = ("liveact_kernels", "liveact_model", "liveact_app", "liveact_train")

# A floor's rooms, lowest first, and what each takes from the floor: a room may import the ones before it that it names.
# "." holds the files on top that everybody may use, "story" those that use the rooms.
KERNELS = {
    "contract": "", "tuned": "", ".": "", "common": "contract tuned", "ops": "contract tuned common",
    "cost": "contract", "proof": "contract ops", "compiled": "contract tuned common ops cost",
    "tune": "contract tuned ops cost proof compiled",
}  # fmt: skip
MODEL = {
    ".": "", "parallel": ".", "checkpoint": ".", "dit": ". parallel", "audio": ". checkpoint", "text": ". checkpoint",
    "image": ". checkpoint", "vae": ". checkpoint parallel", "story": ". dit parallel audio",
    "loading": ". checkpoint dit audio text image vae story",
}  # fmt: skip
APP = {
    ".": "", "media": ".", "budget": ".", "predict": ". budget", "plan": ". predict", "generate": ". media plan",
    "serve": ". media generate", "verify": ". media", "story": ". budget",
}  # fmt: skip
ROOMS = {"liveact_kernels": KERNELS, "liveact_model": MODEL, "liveact_app": APP}
STORY = {"liveact_model": ("session", "steps", "avatar", "dry", "needs"), "liveact_app": ("doctor", "tune", "__main__")}


def room_of(module):
    """(floor, room) of a module."""
    floor, *rest = module.split(".")
    if not rest:
        return floor, "."
    folder = (ROOT / floor / rest[0]).is_dir()
    return floor, rest[0] if folder else "story" if rest[0] in STORY.get(floor, ()) else "."


def graph():
    """{module: modules of ours that it imports}, wherever the import stands and if only for its types."""
    files = [(path, name, tree) for floor in FLOORS for path, name, tree in sources(floor)]
    known = {name for _, name, _ in files}
    return {
        name: {m for m in imports(tree, name, path.endswith("__init__.py")) if m in known and m != name}
        for path, name, tree in files
    }
