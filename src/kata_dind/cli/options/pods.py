"""The options that the commands about pods share."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli.options.declare import option

PolicyFile = Annotated[
    str,
    option(
        "--policy",
        variable="POLICY",
        metavar="FILE",
        help_text="The administrator's policy, a YAML file: which RuntimeClasses are Kata's, and what a repair may do. "
        "`kata-dind policy show` prints one to begin with.",
        show_default="classes named kata and kata-*, size 20Gi",
    ),
]
