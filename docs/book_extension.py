"""What the book adds to Sphinx: figures' text alternatives, links to code, formulas offline."""

import ast
import importlib.metadata
import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parent.parent
# formulas become drawings, which need no fonts: browsers refuse fonts of pages that are on the disk
MATHJAX = "tex-svg.js"
BACK = re.compile(r'<a class="viewcode-back" href="[^"#]*#([^"]*)">[^<]*</a>')
linked_code: set[str] = set()  # modules to whose files a document links
contents_beside_code: dict[str, str] = {}  # by the folder of a page of code
NO_ALTERNATIVE = "A figure without a text alternative"


def setup(app: Sphinx) -> dict[str, bool]:
    linked_code.clear()
    contents_beside_code.clear()
    give_figures_their_text()
    keep_the_text_of_fields()
    app.config.html_static_path.append(str(mathjax()))
    app.config.mathjax_path = MATHJAX
    app.connect("autodoc-process-docstring", keep_layout, priority=400)  # before napoleon
    app.connect("doctree-read", link_files_of_code)
    app.connect("doctree-read", link_names)
    app.connect("html-collect-pages", add_pages_of_code, priority=400)  # before viewcode
    app.connect("html-page-context", drop_links_to_nowhere)
    app.connect("html-page-context", share_contents, priority=400)  # before the theme
    app.connect("html-page-context", name_folds, priority=900)  # after it
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathjax() -> Path:
    """MathJax in one file, from the package that bundles it."""
    files = importlib.metadata.files("sphinx-mathjax-offline") or []
    return Path(next(file for file in files if file.name == MATHJAX).locate())


# --------------------------------------------------------------------------------------- figures


def give_figures_their_text():
    """Each figure has the text alternative that its output carries.

    myst-nb takes one for all figures of a cell, from the cell. A renderer of one's own would have
    to be an installed package's entry point, so its class is changed here.
    """
    render_image = NbElementRenderer.render_image

    def with_text(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
        images = render_image(self, data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt", NO_ALTERNATIVE)
        for image in images:
            image["alt"] = alt
        return images

    NbElementRenderer.render_image = with_text


# ---------------------------------------------------------------------------------------- fields


def keep_the_text_of_fields():
    """The docstring of a configuration's field is text: what stands before a colon is no type.

    Napoleon has no option for it.
    """
    GoogleDocstring._parse_attribute_docstring = lambda self: list(self._lines)


# ----------------------------------------------------------------------------------------- links


def link_files_of_code(app: Sphinx, doctree: nodes.document):
    """A link to a file of simlab's leads to the page of its code, or to its package's page."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        target = link.get("reftarget", "")
        if link.get("reftype") != "myst" or not target.endswith(".py"):
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(app.env.docname), target))
        if (ROOT / path).is_file():
            name = path.removesuffix(".py")
            if name.endswith("/__init__"):
                page = f"api/{name.removesuffix('/__init__').replace('/', '.')}"
            else:
                page = f"_modules/{name}"
                linked_code.add(name.replace("/", "."))
            uri = app.builder.get_relative_uri(app.env.docname, page)
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def add_pages_of_code(app: Sphinx) -> list:
    """A page for each linked file of which nothing is in the reference.

    viewcode has those of the others. It drops a page without an entry in the reference as soon as
    it reads another document, so these are added at the end.
    """
    for module in sorted(linked_code):
        if not app.env._viewcode_modules.get(module):
            analyzer = ModuleAnalyzer.for_module(module)
            analyzer.find_tags()
            app.env._viewcode_modules[module] = (analyzer.code, analyzer.tags, {}, module)
    return []


def drop_links_to_nowhere(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
):
    """Leave out a page of code's links back to entries that have another name.

    viewcode takes it that all of a file is described under the name of one module.
    """
    described = app.env.domains.python_domain.objects

    def checked(link: re.Match[str]) -> str:
        return link[0] if link[1] in described else ""

    if page.startswith("_modules/"):
        context["body"] = BACK.sub(checked, context["body"])


def link_names(app: Sphinx, doctree: nodes.document):
    """`simlab.data.load_data` in a text leads to its entry in the reference, where it has one."""
    for code in list(doctree.findall(nodes.literal)):
        name = code.astext()
        linked = isinstance(code.parent, nodes.reference | addnodes.pending_xref)
        if linked or not re.fullmatch(r"simlab(_course)?(\.\w+)+", name):
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=name, refdoc=app.env.docname,
            refwarn=False,
        )  # fmt: skip
        code.replace_self(link)
        link.append(code)


def share_contents(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object):
    """Beside all pages of code in one folder stand the same contents, made once."""
    folder = posixpath.dirname(page)
    contents = context["toctree"]

    def shared(**options: object) -> str:
        if folder not in contents_beside_code:
            contents_beside_code[folder] = contents(**options)
        return contents_beside_code[folder]

    if page.startswith("_modules/"):
        context["toctree"] = shared


def name_folds(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object):
    """The contents' folds say to a screen reader what they are: the theme gives them an arrow."""
    contents = context["generate_toctree_html"]

    def named(*options: object, **named_options: object) -> str:
        markup = str(contents(*options, **named_options))
        return markup.replace("<summary>", '<summary aria-label="Pages below this one">')

    context["generate_toctree_html"] = named


# ------------------------------------------------------------------------------------- docstrings


def keep_layout(app: Sphinx, what: str, name: str, value: object, options: object, lines: list):
    """Docstrings are plain text: what is laid out in them stays so, stars and bars are no markup.

    What is indented below a blank line is code, a formula or a table. Google's sections, of which
    the next line is indented at once, are napoleon's, which comes after this.
    """
    if what == "data" and "\n".join(lines).strip() == inspect.getdoc(type(value)):
        lines[:] = names_in(value)
        return
    laid_out: list[str] = []
    block: list[str] = []
    for line in [*lines, "end"]:
        indented = line.startswith("    ") or (block and not line)
        after_blank = block or (laid_out and not laid_out[-1].strip())
        if indented and after_blank:
            block.append(line)
            continue
        if block:
            laid_out += code_block(block)
            block = []
        laid_out.append(escaped(line))
    lines[:] = laid_out[:-1]


def names_in(value: object) -> list[str]:
    """What a table such as METHODS holds; its own docstring would be that of every dict."""
    if not isinstance(value, dict) or not all(re.fullmatch(r"[\w-]+", str(key)) for key in value):
        return []
    return [f"By name: {', '.join(f'``{key}``' for key in value)}."]


def escaped(line: str) -> str:
    """Stars and bars outside of backticks, but for *emphasis* and a list's stars."""
    if line.lstrip().startswith(">>>"):
        return line
    parts = re.split(r"(``.*?``|`[^`]*`|(?<!\w)\*\w+\*(?!\w)|^\s*\* )", line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*|])", r"\\\1", parts[i])
    return "".join(parts)


def code_block(block: list[str]) -> list[str]:
    language = "python" if is_python("\n".join(block)) else "text"
    return [f".. code-block:: {language}", "", *block, ""]


def is_python(text: str) -> bool:
    try:
        tree = ast.parse(re.sub(r"(?m)^    ", "", text))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call) for node in ast.walk(tree))
