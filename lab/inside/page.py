"""Puts a page's parts into one HTML file: its scripts, the style, and the data."""

from pathlib import Path

HERE = Path(__file__).parent
COMMON = HERE.parents[1] / "tools" / "web" / "common.html"


def fill(name, **parts):
    """The page name.html, as bytes. Each <!-- part --> is replaced; a part is text, or a file of this folder."""
    page = (HERE / f"{name}.html").read_text(encoding="utf-8")
    style = COMMON.read_text(encoding="utf-8").partition("<script>")[0]
    style += f"<style>\n{(HERE / 'style.css').read_text(encoding='utf-8')}</style>"
    parts = {"style": style} | {path.name: path.read_text(encoding="utf-8") for path in HERE.glob("*.js")} | parts
    for part, text in parts.items():
        text = text.replace("</", "<\\/") if part == "data" else text  # no </script> within a script
        page = page.replace(f"<!-- {part} -->", text)
    return page.encode()
