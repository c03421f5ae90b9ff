"""What `check_loss` found: findings, what was proved, and what could not be checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fallline._core.errors import FalllineError
from fallline.prove.problems import PROBLEMS, Severity

_RANK = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One problem of a loss.

    Attributes:
        name: name of the problem, e.g. `gradient-wrong`.
        severity: `error`, `warning` or `note`.
        measured: the evidence: numbers, and where.
        why: why it matters.
        write: what to write instead.
        check: name of the check that found it.
    """

    name: str
    severity: Severity
    measured: str
    why: str
    write: str
    check: str = ""

    def __str__(self) -> str:
        return f"{self.severity} {self.name}: {self.measured}\n    why: {self.why}\n    write: {self.write}"


def found(name: str, measured: str, *, severity: Severity | None = None, write: str = "") -> Finding:
    """The finding of a problem of the table, with what was measured."""
    problem = PROBLEMS[name]
    return Finding(name, severity or problem.severity, measured, problem.why, write or problem.write)


@dataclass(frozen=True, repr=False)
class LossReport:
    """What `check_loss` found out about a loss.

    Attributes:
        loss: how the loss is called.
        findings: the problems, the worst first.
        passed: name of each check that found nothing -> what it proves.
        skipped: name of each check that could not be made -> why: these are not checked, never passed.
        learned: what was read off the input and the loss: kind of target, reduction, ...
    """

    loss: str
    findings: tuple[Finding, ...] = ()
    passed: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    learned: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that break training."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that break it at inputs that may come."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def __contains__(self, name: object) -> bool:
        """Whether the problem `name` was found."""
        return any(finding.name == name for finding in self.findings)

    def raise_if_bad(self) -> None:
        """Raise a FalllineError that names every error, where there is one."""
        if not self.ok:
            told = "; ".join(f"{finding.name}: {finding.measured}" for finding in self.errors)
            raise FalllineError(f"check_loss found {_count(len(self.errors), 'error')} in {self.loss}: {told}")

    @property
    def text(self) -> str:
        """The report for a terminal: findings with what to write, then what was proved and what was not checked."""
        lines = [self._headline(), ""]
        lines += [f"{finding}\n" for finding in self.findings]
        if self.learned:
            lines.append("read as: " + "; ".join(f"{key} {value}" for key, value in self.learned.items()))
        if self.passed:
            lines.append("passed: " + ", ".join(self.passed))
        lines += [f"not checked: {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)

    def html(self) -> str:
        """The report as a fragment of HTML."""
        from html import escape

        rows = "".join(
            f"<tr><td>{f.severity}</td><td><code>{escape(f.name)}</code></td><td>{escape(f.measured)}</td>"
            f"<td>{escape(f.why)}</td><td>{escape(f.write)}</td></tr>"
            for f in self.findings
        )
        head = "<tr><th></th><th>problem</th><th>measured</th><th>why it matters</th><th>write instead</th></tr>"
        passed = "".join(f"<li><b>{escape(name)}</b>: {escape(proves)}</li>" for name, proves in self.passed.items())
        skipped = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in self.skipped.items())
        table = f"<table>{head}{rows}</table>" if rows else ""
        left = f"<p>not checked</p><ul>{skipped}</ul>" if skipped else ""
        return f"<p><b>{escape(self._headline())}</b></p>{table}<details><summary>passed</summary><ul>{passed}</ul></details>{left}"

    def _headline(self) -> str:
        counts = [_count(number, kind) for kind in _RANK if (number := sum(finding.severity == kind for finding in self.findings))] or [
            "nothing found"
        ]
        return f"{self.loss}: {', '.join(counts)}; {len(self.passed)} checks passed, {len(self.skipped)} not made"

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"LossReport({self._headline()})"

    def _repr_html_(self) -> str:
        return self.html()


def worst_first(findings: list[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes, each in the order found."""
    return tuple(sorted(findings, key=lambda finding: _RANK[finding.severity]))


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}{'s' if number != 1 else ''}"
