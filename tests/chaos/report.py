"""What a check comes to: what was found to be wrong, by rule, and how much was looked at."""

from collections import Counter
from typing import Final

import msgspec

_SHOWN: Final = 5


class Violation(msgspec.Struct, frozen=True):
    """One promise that was broken."""

    rule: str
    what: str


class Report(msgspec.Struct, kw_only=True):
    """Violations, and counts of what was checked."""

    violations: list[Violation] = msgspec.field(default_factory=list)
    counts: Counter[str] = msgspec.field(default_factory=Counter)

    def broken(self, rule: str, what: str) -> None:
        """Take note of a violation."""
        self.violations.append(Violation(rule, what))

    def excuse(self, *rules: str) -> None:
        """Count violations of rules that were not promised this time, and blame nobody."""
        self.counts.update(f"not promised: {v.rule}" for v in self.violations if v.rule in rules)
        self.violations = [violation for violation in self.violations if violation.rule not in rules]

    @property
    def rules_broken(self) -> set[str]:
        """The rules that were broken at least once."""
        return {violation.rule for violation in self.violations}

    def lines(self) -> list[str]:
        """Write it for people."""
        shown = [f"  {name:.<44} {number:>10,}" for name, number in sorted(self.counts.items())]
        by_rule = Counter(violation.rule for violation in self.violations)
        for rule, number in by_rule.items():
            shown.append(f"  BROKEN {rule}: {number}")
            shown += [f"    {v.what}" for v in [v for v in self.violations if v.rule == rule][:_SHOWN]]
        return shown or ["  nothing was checked"]
