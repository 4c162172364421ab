"""A method's name in its parts: `FRAMEWORK[+MASKING][@BRANCH][-CHANGE]`, as the rows of tables are named.

The name identifies a method; rows of results hold nothing else of a user's own method.
"""

import re
from dataclasses import dataclass

MASKINGS = {
    "mscn": "MSCN",
    "adios": "ADIOS",
    "ours-hp": "ours (high-pass)",
    "ours-blur": "ours (strong blur)",
    "ours-mean": "ours (mean fill)",
}
"""What follows the framework in a row's name -> its words; "ours" is always the paper's method."""
_MASKING = re.compile(rf"({'|'.join(map(re.escape, MASKINGS))})(?=$|[@-])")


@dataclass(frozen=True)
class MethodName:
    """The parts of a name.

    Attributes:
        framework: `mocov2`; the whole name if it has another form.
        masking: A key of `MASKINGS`; empty where the name has none of them.
        branch: The branch that is masked, where the name says so: `key`, `both` or `query`.
        change: What an ablation changes: `no-hard-negative`. For a row without one of `MASKINGS`, such as
            `mocov2+queue16k` or a user's own method, all that follows the framework except the branch.
    """

    framework: str
    masking: str = ""
    branch: str = ""
    change: str = ""

    @classmethod
    def parse(cls, name: str) -> "MethodName":
        """Splits a name into its parts; any text is a name.

        Args:
            name: The name, for example `mocov2+ours-hp@key-no-hard-negative`.
        """
        framework, plus, rest = name.partition("+")
        if not plus:
            framework, at, behind = name.partition("@")
            rest = f"{at}{behind}"
        known = _MASKING.match(rest)
        masking, rest = (known[1], rest[known.end() :]) if known else ("", rest)
        before, at, behind = rest.partition("@")
        branch, _, change = behind.partition("-") if at else ("", "", "")
        return cls(framework, masking, branch, "-".join(filter(None, [before.removeprefix("-"), change])))

    @property
    def end(self) -> str:
        """What follows the framework, but for the branch: `ours-hp-no-hard-negative`."""
        return "-".join(filter(None, [self.masking, self.change]))
