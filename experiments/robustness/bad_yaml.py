"""Configuration files of the user's own, found by --config-dir or hydra.searchpath, that are broken."""

from bad_cases import Case, Place, Words

GOOD = "defaults: [lora]\nname: mine\n"
FILES: tuple[tuple[str, bytes, str], ...] = (
    ("tabs", b"defaults: [lora]\nname: mine\n\trank: 8\n", "mine.yaml"),
    ("a key twice", b"defaults: [lora]\nname: mine\nrank: 8\nrank: 4\n", "rank"),
    ("a list", b"- lora\n- mine\n", "mine.yaml"),
    ("a word", b"lora\n", "mine.yaml"),
    ("a number", b"5\n", "mine.yaml"),
    ("no UTF-8", "defaults: [lora]\nname: gr\xf6\xdfer\n".encode("latin-1"), "mine.yaml"),
    ("UTF-16 of half a character", b"\xff\xfed\x00e\x00f\x00a", "mine.yaml"),
    ("NUL bytes", b"name: mi\x00ne\n", "mine.yaml"),
    ("random bytes", bytes((i * 197 + 13) % 256 for i in range(999)), "mine.yaml"),
    ("nothing in it", b"", "method"),
    ("a bracket that is not closed", b"defaults: [lora\nname: mine\n", "mine.yaml"),
    ("a quote that is not closed", b'defaults: [lora]\nname: "mine\n', "mine.yaml"),
    ("a Python tag", b"name: !!python/object/apply:os.system ['touch hacked']\n", "mine.yaml"),
    ("an unknown tag", b"name: !nope mine\n", "mine.yaml"),
    ("an alias that is nowhere", b"name: *nope\n", "mine.yaml"),
    ("an unknown key", GOOD.encode() + b"rnak: 8\n", "Did you mean 'rank'?"),
    ("a wrong type", GOOD.encode() + b"alpha: eight\n", "method.alpha=eight"),
    ("_target_", GOOD.encode() + b"_target_: os.system\n", "_target_"),
    ("a default that is nowhere", b"defaults: [nope]\nname: mine\n", "nope"),
    ("itself as its default", b"defaults: [mine]\nname: mine\n", "mine"),
    ("defaults that are no list", b"defaults: 5\nname: mine\n", "mine"),
    ("an interpolation that is not closed", GOOD.encode() + b"rank: ${a\n", "mine.yaml"),
    ("a key that is no word", GOOD.encode() + b"? [1, 2]\n: 3\n", "mine.yaml"),
    ("two documents", GOOD.encode() + b"---\nname: other\n", "mine.yaml"),
    ("brackets a thousand deep", b"name: mine\nrank: " + b"[" * 1000 + b"]" * 1000 + b"\n", "mine.yaml"),
    ("a name with a NUL in quotes", b'defaults: [lora]\nname: "a\\0b"\n', "method.name"),
    ("a date", GOOD.encode() + b"alpha: 2020-01-01\n", "method.alpha"),
    ("a number beyond floats", GOOD.encode() + b"alpha: 1.0e+400\n", "method.alpha"),
)


def _of_file(content: bytes, option: str) -> object:
    def make(place: Place) -> Words:
        path = place.folder / "mine" / "method" / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        where = {"dir": ["--config-dir", str(path.parent.parent)]}.get(
            option, [f"hydra.searchpath=[file://{path.parent.parent}]"]
        )
        return [*place.run_py("method=mine"), *where]

    return make


def _a_folder(place: Place) -> Words:
    (place.folder / "mine" / "method" / "mine.yaml").mkdir(parents=True)
    return [*place.run_py("method=mine"), "--config-dir", str(place.folder / "mine")]


def _loop(place: Place) -> Words:
    folder = place.folder / "mine" / "method"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").symlink_to(folder / "mine.yaml")
    return [*place.run_py("method=mine"), "--config-dir", str(place.folder / "mine")]


def _words(*more: str) -> object:
    return lambda place: [*place.run_py(), *(word.replace("HERE", str(place.folder)) for word in more)]


def cases() -> list[Case]:
    """Return the cases."""
    found = []
    for what, content, says in FILES:
        for option in ("dir", "searchpath"):
            found.append(
                Case("yaml files", f"{what}, by {option}", f"method/mine.yaml: {what}", _of_file(content, option), says)
            )
    others = (
        ("a folder called mine.yaml", _a_folder, "mine"),
        ("a link to itself", _loop, "mine"),
        ("--config-dir nowhere", _words("--config-dir", "HERE/nowhere"), "nowhere"),
        ("--config-dir a file", _words("--config-dir", "HERE/model/config.json"), "config.json"),
        ("--config-name nowhere", _words("--config-name", "nowhere"), "nowhere"),
        ("--config-path nowhere", _words("--config-path", "HERE/nowhere"), "nowhere"),
        ("searchpath nowhere", _words("hydra.searchpath=[file://HERE/nowhere]"), "nowhere"),
        ("searchpath of an unknown kind", _words("hydra.searchpath=[ftp://x]"), "ftp://x"),
        ("searchpath a number", _words("hydra.searchpath=5"), "searchpath"),
        ("searchpath null", _words("hydra.searchpath=[null]"), "searchpath"),
    )
    return found + [Case("yaml files", name, name, make, says) for name, make, says in others]
