"""Makes pages that read well in the repository read well as a site; mkdocs.yml names this file.

Links to files outside of ``docs`` (recipes, code, tests) have no page on the site: their paths are shown instead.
"""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links that leave ``docs`` by their text and the path from the root of the repository."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def written(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[2]))
        if path.startswith("docs/"):
            return link[0]
        text = link[1].strip("`")
        return f"`{path}`" if text in path else f"{link[1]} (`{path}`)"

    return _LINK.sub(written, markdown)
