"""This hook of MkDocs takes what the pages link to outside of `docs/` into the site, so that one link serves there and
where the repository is shown (`../CONTRIBUTING.md` is the site's page `CONTRIBUTING.md`), and refuses a page that would
load anything from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")
INSIDE = re.compile(r"\]\(docs/")
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds each file that a page links to outside of the folder of pages."""
    root = Path(config.docs_dir).parent
    texts = [file.content_string for file in files.documentation_pages()]
    for name in sorted({name for text in texts for name in OUTSIDE.findall(text)}):
        if (root / name).is_file():  # a link to none is told by MkDocs
            files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns a page whose links to such files, and theirs to pages, are links within the site."""
    return INSIDE.sub("](", OUTSIDE.sub(r"](\1", markdown))


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Returns a page as it is written, if it loads nothing from elsewhere."""
    if loaded := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {loaded[0]}: expected a file of docs/")
    return output
