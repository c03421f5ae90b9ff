"""Classes: a label's own column of the scores is the one that its cost is about, and classes are compared within an example."""

from collections.abc import Iterator

from fallline.prove._check import Case, shown
from fallline.prove.columns import own_columns
from fallline.prove.report import Finding, found
from fallline.prove.subject import NotChecked


def classes(case: Case) -> Iterator[Finding]:
    """Label k is about column k of the scores, and softmax runs over the classes."""
    s = case.subject
    case.needs_target()
    if case.kind != "index" or not s.batched:
        raise NotChecked("the target is no class index")
    axis = _axis(case)
    if axis:
        yield found("wrong-axis", axis)
        return
    columns = own_columns(s)
    shifted = {label: column for label, column in columns.items() if label != column}
    if shifted:
        case.mark("wrong-class")
        told = ", ".join(f"label {label} is about column {column}" for label, column in list(shifted.items())[:4])
        yield found("wrong-class", told)
    elif not columns:
        raise NotChecked("no column of the scores was found for every label, as where classes are not alike")


def _axis(case: Case) -> str:
    """In pictures and sequences: an axis other than 1 along which a constant changes nothing, while along axis 1 it does."""
    s = case.subject
    if s.x.ndim < 3 or s.x.shape[1] < 2:
        return ""
    told = ""
    for axis in (1, *range(2, s.x.ndim)):
        if s.x.shape[axis] < 2:
            continue
        constant = s.like(s.x.narrow(axis, 0, 1))
        value = s.number(s.x + constant, s.y)
        if axis == 1:
            if not case.moved(value, case.base):
                return ""
            told = f"one along axis 1, the classes, does ({shown(case.base)} to {shown(value)})"
        elif not case.moved(value, case.base):
            return f"a constant added along axis {axis} changes nothing; {told}"
    return ""
