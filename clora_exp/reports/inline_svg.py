"""Matplotlib's SVG inside a page: no addresses, names of its own, and black that follows the page's text colour."""

import html
import re

OF_THE_PAGE = {"#000000": "currentColor", "#dddddd": "var(--grid)", "#999999": "var(--faint)"}


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """Return the `<svg>` element of a file that matplotlib wrote.

    Its ids get `prefix`, so that several can stand in one page; black, greys and background are taken from the page,
    so that it reads on dark and on light. What has no colour of its own needs `fill: currentColor` on the element.
    """
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)[0]
    size = f'viewBox="0 0 {width} {height}" width="{float(width) * 4 / 3:.0f}"'  # points, pixels
    start = f'<svg {size} role="img" aria-label="{html.escape(label)}">'
    body = re.sub(r"<svg[^>]*>", start, body, count=1).replace("xlink:href", "href")
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", body)
    body = body.replace('style="fill: #ffffff"', 'style="fill: none"')
    for color, of_the_page in OF_THE_PAGE.items():
        body = body.replace(color, of_the_page)
    return body.strip()


def texts_of(svg: str) -> list[str]:
    """Return every text of an SVG, in order: what its numbers are, whatever draws them."""
    texts = re.findall(r"<text.*?</text>", svg, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", text)).strip() for text in texts]
