"""This hook of MkDocs takes what the pages link to outside of `docs/` into the site, so that one link serves there and
where the repository is shown: `../CONTRIBUTING.md` is the site's page `CONTRIBUTING.md`."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds each file that a page links to outside of the folder of pages."""
    root = Path(config.docs_dir).parent
    texts = [file.content_string for file in files.documentation_pages()]
    for name in sorted({name for text in texts for name in OUTSIDE.findall(text)}):
        if (root / name).is_file():  # a link to none is told by MkDocs
            files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns a page whose links to such files are links within the site."""
    inside = page.file.src_uri.count("/") == 0
    return OUTSIDE.sub(r"](\1", markdown) if inside else markdown
