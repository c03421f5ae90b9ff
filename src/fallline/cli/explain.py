"""`fallline explain`: formula, source and use of anything that has a name."""

import dataclasses
from typing import Annotated, Any

from cyclopts import Parameter

from fallline._core.errors import FalllineError
from fallline.cli import options as o
from fallline.cli.terminal import Voice


def explain(
    name: Annotated[
        str | None, Parameter(help="a loss, mining, optimizer, wrapper, activation, schedule, penalty or metric; all names unless given")
    ] = None,
    /,
    *,
    plot: Annotated[
        str | bool | None,
        o.text("draw it into this file (png, svg, pdf); NAME.png unless a file is named", o.RUN, negative="", metavar="[FILE]"),
    ] = None,
    html: Annotated[str | None, o.text("write it as a page into this file", o.RUN)] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Tell what something is: its formula, its source, when to use it and when not."""
    from fallline.api.explain import explain as explain_name

    voice = Voice(quiet=quiet, as_json=json)
    found: Any = explain_name(name, plot=plot)
    if html and not hasattr(found, "to_html"):
        raise FalllineError("name what is to be drawn, as in `fallline explain huber --html huber.html`.")
    if html:
        found.to_html(html)
    voice.say(str(found))
    voice.json(dataclasses.asdict(found))
    return 0
