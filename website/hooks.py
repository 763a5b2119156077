"""What MkDocs is told while it builds the site: pages beyond ``docs``, their links, the decisions, our own scripts."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from website import beyond  # noqa: E402  # the folder of the repository is no place that Python looks at by itself

SCRIPTS = ROOT / "build" / "scripts"
DIAGRAMS, SHIM = "mermaid.min.js", "iframe-worker.js"
DECISIONS = re.compile(r"<!-- decisions: .*? -->")
NO_TABLE = re.compile(r"\|---.{,40}|^(?:\* |- |1\. )[A-Za-z`].{,40}", re.MULTILINE)
PLACES: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Scripts that other sites take from other hosts are files of this one; without them a diagram is its text."""
    config.extra["polyfills"] = []
    if (SCRIPTS / SHIM).is_file():
        config.extra["polyfills"] = [f"scripts/{SHIM}"]
    if (SCRIPTS / DIAGRAMS).is_file():
        config.extra_javascript.append(f"scripts/{DIAGRAMS}")
    else:
        fences = config.mdx_configs["pymdownx.superfences"]["custom_fences"]
        fences[:] = [fence for fence in fences if fence["name"] != "mermaid"]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages of the repository that do not lie in ``docs``."""
    PLACES.clear()
    PLACES.update({file.src_uri: f"{beyond.DOCS}/{file.src_uri}" for file in files.documentation_pages()})
    for place, text in beyond.everything().items():
        page = beyond.page_of(place)
        PLACES[page] = place
        files.append(File.generated(config, page, content=text))
    for name in (DIAGRAMS, SHIM):
        if (SCRIPTS / name).is_file():
            files.append(File.generated(config, f"scripts/{name}", abs_src_path=str(SCRIPTS / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links as they are between pages of the site."""
    if page.file.src_uri == "decisions/index.md":
        markdown = DECISIONS.sub(lambda _: decisions(), markdown)
    return beyond.relink(PLACES[page.file.src_uri], markdown)


def decisions() -> str:
    """A line for each decision, by its number."""
    found = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    titles = {path: path.read_text(encoding="utf-8").partition("\n")[0] for path in found}
    named = {path.name: f"{path.name[:4]} {re.sub(r'^# *[0-9]+[.]? *', '', title)}" for path, title in titles.items()}
    return "\n".join(f"- [{title}]({name})" for name, title in named.items())


def on_post_build(config: Any) -> None:
    """The search can be used from files, without a server; and nothing of another host is asked for by any page."""
    site = Path(config.site_dir)
    index = site / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")
    asking = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:)?//(?!localhost)[^\">\s]*")
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if found := asking.search(text):
            raise PluginError(f"{path.relative_to(site)} asks another host: {found[0]}")
        if found := NO_TABLE.search(re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)):
            raise PluginError(f"{path.relative_to(site)} has a table or a list that is none: an empty line before it? {found[0]}")
    shutil.rmtree(site / "assets" / "javascripts" / "lunr" / "min", ignore_errors=True)  # other languages than English
