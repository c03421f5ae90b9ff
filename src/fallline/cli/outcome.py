"""The end of a run in words and as JSON: metrics on each split, the folder, and what to type next."""

from typing import Any

from fallline.cli.failure import tell
from fallline.cli.terminal import Voice, number


def exit_code(run: Any) -> int:
    """0 for a finished run, 1 for one that diverged, 130 for one that was interrupted."""
    return {"diverged": 1, "interrupted": 130}.get(run.status, 0)


def finish(run: Any, voice: Voice) -> None:
    """Say how the run ended, or print it as JSON."""
    from fallline.record import KEYS

    splits = [split for split in ("train", "validation", "test") if run.metrics.get(split)]
    names = list(dict.fromkeys(name for split in splits for name in run.metrics[split]))
    if names:
        voice.say()
        rows = [[KEYS[n].label if n in KEYS else n, *(number(run.metrics[s].get(n)) for s in splits)] for n in names]
        voice.table(["metric", *splits], rows)
    for finding in run.findings:
        voice.say(f"finding: {finding}")
    folder = run.folder
    voice.say()
    if run.status == "interrupted":
        tell(f"interrupted: everything is saved, go on with `fallline train --resume {folder}`.")
    elif run.status == "diverged":
        voice.say(f"the training diverged: {run.message}")
    elif run.message:
        voice.say(run.message)
    voice.say(f"run folder: {folder}")
    voice.say(f"  fallline report {folder}")
    voice.say(f"  fallline predict {folder} DATA")
    if run.status == "finished":
        voice.say(f"  fallline train --resume {folder} --epochs {2 * run.settings.epochs}")
    voice.json(
        {"status": run.status, "message": run.message, "folder": str(folder), "metrics": run.metrics, "settings": run.settings.to_json()}
    )
