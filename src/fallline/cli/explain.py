"""`fallline explain`: formula, source and use of anything that has a name."""

import dataclasses
from typing import Annotated, Any

from cyclopts import Parameter

from fallline.cli import options as o
from fallline.cli.terminal import Voice


def explain(
    name: Annotated[
        str | None, Parameter(help="a loss, optimizer, activation, schedule, penalty or metric; all names unless given")
    ] = None,
    /,
    *,
    plot: Annotated[str | None, o.text("draw it into this file (png, svg, pdf)", o.RUN)] = None,
    json: o.Json = False,
) -> int:
    """Tell what something is: its formula, its source, when to use it and when not."""
    from fallline.api.explain import explain as explain_name

    voice = Voice(as_json=json)
    found: Any = explain_name(name, plot=plot)
    voice.say(str(found))
    voice.json(dataclasses.asdict(found) if dataclasses.is_dataclass(found) and not isinstance(found, type) else found)
    return 0
