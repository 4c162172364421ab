"""A method's name in its parts: `FRAMEWORK[+MASKING][@BRANCH][-CHANGE]`, as the rows of tables are named.

The name is what a method is known by, and all that a row of results has of a method of somebody's own.
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
"""What follows the framework in a row's name -> its words; "ours" is the paper's method, and nothing else."""
_MASKING = re.compile(rf"({'|'.join(map(re.escape, MASKINGS))})(?=$|[@-])")


@dataclass(frozen=True)
class MethodName:
    """The parts of a name.

    Attributes:
        framework: `mocov2`; of a name of another form, all of it.
        masking: A key of `MASKINGS`; empty where the name has none of them.
        branch: The branch that is masked, where the name says so: `key`, `both` or `query`.
        change: What an ablation changes: `no-hard-negative`; of a row without one of `MASKINGS`, as `mocov2+queue16k`
            or a method of somebody's own, all that follows the framework but the branch.
    """

    framework: str
    masking: str = ""
    branch: str = ""
    change: str = ""

    @classmethod
    def parse(cls, name: str) -> "MethodName":
        """Takes a name apart; every text is one.

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
