"""A trace as one self-contained page."""

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fallline.teach.backprop import Trace


def render(trace: "Trace") -> str:
    """The page: nothing is loaded from elsewhere."""
    from fallline.teach.text import render as text

    return f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Back-propagation</title><pre>{escape(text(trace))}</pre></html>"
