"""Draw data/emoji/: the things of Unicode's emoji as four designers drew them, 32 x 32 on white.

    pip install pillow numpy resvg_py
    python data/make_emoji.py

The drawings come from packages of the npm registry in the versions below, each checked against its
SHA-256. Noto's and Twemoji's are PNG files of 64 pixels, Fluent's are SVG files that are rendered
at 256; all are averaged down to 32. A thing is a code point or a sequence of them without a skin
tone; the five emoji that are skin tones themselves are left out. All of the 1,906 things are
drawn in Noto and in Twemoji; Fluent, which has few flags and no families, drew 1,595 of them.

Written are a sheet of drawings for each designer (rows of 32, in the order of the table) and
`things.csv` with a row for each thing: code points, name, category, subgroup, split and the file
of each designer, empty where there is none. Run again, it gives the same bytes.
"""

import csv
import hashlib
import io
import json
import re
import sys
import tarfile
import urllib.request
from collections import defaultdict
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

FOLDER = Path(__file__).parent / "emoji"
SIDE = 32  # pixels of a drawing
COLUMNS = 32  # drawings in a row of a sheet
RENDERED = 256  # pixels at which an SVG file is drawn, before it is averaged down
TEST_SHARE = 5  # a fifth of the things of each category is for testing
SEED = 0

REGISTRY = "https://registry.npmjs.org"
PACKAGES = {  # name: version and SHA-256
    "emoji-datasource-google": (
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "emoji-datasource-twitter": (
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    "fluentui-emoji": (
        "1.3.0",
        "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5",
    ),
    "unicode-emoji-json": (
        "0.9.0",
        "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    ),
}
DESIGNERS = ("noto", "twemoji", "fluent-flat", "fluent-modern")

# what Fluent's files are called where Unicode's present name does not tell
FLUENT_NAMES = {
    "keycap #": "keycap-hashtag",
    "phoenix": "phoenix-bird",
    "black bird": "blackbird",
    "women with bunny ears": "woman-with-bunny-ears",
    "men with bunny ears": "man-with-bunny-ears",
    "people with bunny ears": "person-with-bunny-ears",
    "woman blond hair": "woman-blonde-hair",
    "man blond hair": "man-blonde-hair",
    "person blond hair": "person-blonde-hair",
    "red triangle pointed up": "red-triangle",
    "enraged face": "pouting-face",
    "face with crossed-out eyes": "knocked-out-face",
    "smiling face with open hands": "hugging-face",
    "women wrestling": "woman-wrestling",
    "men wrestling": "man-wrestling",
    "people wrestling": "person-wrestling",
    "stuffed flatbread": "stuffedbread",
    "superhero": "person-superhero",
    "supervillain": "person-supervillain",
    "deaf woman": "woman-deaf",
    "deaf man": "man-deaf",
    "deaf person": "person-deaf",
    "mage": "person-mage",
    "fairy": "person-fairy",
    "vampire": "person-vampire",
    "mermaid": "woman-merpeople",
    "merman": "man-merpeople",
    "merperson": "person-merpeople",
    "elf": "person-elf",
    "genie": "person-genie",
    "zombie": "person-zombie",
}
FLUENT_ENDINGS = ("", "-default", "-flat")  # "-default" is the drawing without a skin tone


def package_files(name: str) -> dict[str, bytes]:
    """The files of a package of the npm registry, by their path in it."""
    version, sha256 = PACKAGES[name]
    address = f"{REGISTRY}/{name}/-/{name}-{version}.tgz"
    print(f"reading {address}")
    with urllib.request.urlopen(address) as answer:
        content = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        sys.exit(f"{address} has the SHA-256 {found}: expected {sha256}")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if member.isfile():
                files[member.name.removeprefix("package/")] = archive.extractfile(member).read()
    return files


def read_things(google: dict[str, bytes], unicode: dict[str, bytes]) -> list[dict[str, str]]:
    """A row for each thing, in Unicode's order: code points, name, category and subgroup."""
    by_emoji = json.loads(unicode["data-by-emoji.json"])
    names = {code_points(emoji): entry["name"] for emoji, entry in by_emoji.items()}
    things = []
    for emoji in json.loads(google["emoji.json"]):
        if emoji["category"] == "Component":  # the skin tones
            continue
        thing = {
            "code_points": emoji["unified"],
            "name": names[emoji["unified"].replace("-FE0F", "")],
            "category": emoji["category"],
            "subgroup": emoji["subcategory"],
        }
        things.append((emoji["sort_order"], thing))
    things.sort(key=lambda pair: pair[0])
    return [thing for _, thing in things]


def code_points(emoji: str) -> str:
    """Hexadecimal code points of a text, without the selectors that ask for colour."""
    return "-".join(f"{ord(character):04X}" for character in emoji if character != "\ufe0f")


def draw_split(things: list[dict[str, str]]) -> None:
    """Give each thing its split: a fifth of each category, drawn at random, is for testing."""
    by_category = defaultdict(list)
    for thing in things:
        by_category[thing["category"]].append(thing)
    rng = np.random.default_rng(SEED)
    for members in by_category.values():
        order = rng.permutation(len(members))
        number = round(len(members) / TEST_SHARE)
        for position, index in enumerate(order):
            members[index]["split"] = "test" if position < number else "train"


def find_files(thing: dict[str, str], fluent: dict[str, bytes]) -> None:
    """Give a thing the path of each designer's drawing in its package."""
    file = thing["code_points"].lower() + ".png"
    thing["noto"] = f"img/google/64/{file}"
    thing["twemoji"] = f"img/twitter/64/{file}"
    slug = FLUENT_NAMES.get(thing["name"], slug_of(thing["name"]))
    for style in ("flat", "modern"):
        thing[f"fluent-{style}"] = ""
        for ending in FLUENT_ENDINGS:
            path = f"icons/{style}/{slug}{ending}.svg"
            if path in fluent:
                thing[f"fluent-{style}"] = path
                break


def slug_of(name: str) -> str:
    """A name as Fluent's files have it: 'hear-no-evil monkey' is hear-no-evil-monkey."""
    ascii_name = name.lower().translate(str.maketrans("éíôãçñå", "eioacna", "’'.“”"))
    ascii_name = ascii_name.replace("*", "asterisk").replace("&", "and")
    return re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")


def draw(content: bytes, path: str) -> Image.Image:
    """A drawing of 32 x 32 pixels on white."""
    if path.endswith(".svg"):
        content = resvg_py.svg_to_bytes(
            svg_string=content.decode(), width=RENDERED, height=RENDERED, skip_system_fonts=True
        )
    drawing = Image.open(io.BytesIO(content)).convert("RGBA")
    paper = Image.new("RGBA", drawing.size, "white")
    paper.alpha_composite(drawing)
    return paper.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)


def write_sheet(designer: str, things: list[dict[str, str]], files: dict[str, bytes]) -> int:
    """Write a designer's drawings in the order of the table; return how many there are."""
    paths = [thing[designer] for thing in things if thing[designer]]
    rows = -(-len(paths) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * SIDE), "white")
    for position, path in enumerate(paths):
        row, column = divmod(position, COLUMNS)
        sheet.paste(draw(files[path], path), (column * SIDE, row * SIDE))
    sheet.save(FOLDER / f"{designer}.webp", lossless=True, quality=100, method=6)
    return len(paths)


def main() -> None:
    """Write the table and the four sheets."""
    google = package_files("emoji-datasource-google")
    twitter = package_files("emoji-datasource-twitter")
    fluent = package_files("fluentui-emoji")
    things = read_things(google, package_files("unicode-emoji-json"))
    draw_split(things)
    for thing in things:
        find_files(thing, fluent)
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "things.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*things[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(things)
    packages = dict(zip(DESIGNERS, (google, twitter, fluent, fluent), strict=True))
    for designer, files in packages.items():
        print(f"{designer}: {write_sheet(designer, things, files)} drawings")


if __name__ == "__main__":
    main()
