"""What the documentation names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qtx import __version__
from qtx.attention import VARIANTS
from qtx.quantization import RECIPES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def heading_anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}"
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in map(heading_anchor, headings), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    names = re.findall(r"\b((?:configs|experiments|qtx|tests)/[\w/.]+\.(?:py|ipynb))", page.read_text(encoding="utf-8"))
    made_by_the_reader = {
        "qtx/attention/normalizers/temperature.py",
        "qtx/attention/gates/diagonal.py",
        "qtx/training/penalties/kurtosis.py",
        "qtx/data/objectives/pairs.py",
        "qtx/quantization/methods/shifting.py",
        "qtx/families/checkpoints/packed.py",
    }
    assert [name for name in names if name not in made_by_the_reader and not (ROOT / name).exists()] == []


def test_readme_names_every_variant_and_every_config():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in VARIANTS if f"`{name}`" not in readme] == []
    assert [file.name for file in (ROOT / "configs").glob("*.py") if file.name not in readme] == []


def test_quantization_page_names_every_recipe():
    page = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    assert [name for name in RECIPES if f"`{name}`" not in page] == []


def test_the_citation_is_of_this_version_and_has_what_its_format_requires():
    # https://github.com/citation-file-format/citation-file-format, schema 1.2.0
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys() and cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"]) == (__version__, "Apache-2.0")
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= paper.keys() and "2306.12929" in paper["doi"]
    for author in (*cited["authors"], *paper["authors"]):
        assert author.keys() in ({"name"}, {"family-names", "given-names"})


def test_the_changelog_has_this_version():
    assert f"\n## {__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
