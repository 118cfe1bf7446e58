"""`kata-dind backends`: what can run sandboxes on this host, and which lines would let it do more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from kata_dind.cli.options import Json, option, takes_session
from kata_dind.cli.output import print_json, print_table, printable
from kata_dind.cli.session import Session

if TYPE_CHECKING:
    from pathlib import Path

Address = Annotated[
    str,
    option(
        "--containerd-address",
        variable="CONTAINERD_ADDRESS",
        metavar="PATH",
        help_text="containerd's socket.",
    ),
]

_HEADER = ("HANDLER", "KATA", "RUNS", "START", "MEMORY", "LOOP", "BLOCK", "VIRTIOFS", "KERNEL")


@takes_session
def backends(
    session: Session, *, containerd_address: Address = "/run/containerd/containerd.sock", json: Json = False
) -> None:
    """Show what can run sandboxes on this host.

    For each of containerd's handlers, the table tells which kinds of data root it can give, and whether a sandbox may
    bring a kernel of its own. Below it stands why not, and which line of which file would change that.
    """
    from pathlib import Path

    from kata_dind.errors import SpecError
    from kata_dind.spec import parse_address

    try:
        address = Path(str(parse_address(containerd_address)))
    except ValueError as error:
        raise SpecError(f"--containerd-address: {error}", id="spec.wrong-value") from error
    found = _containerd(address)
    if json:
        print_json({"vm": {"works": True}, "containerd": found})
        return
    if session.quiet:
        print("".join(f"{handler['name']}\n" for handler in found.get("handlers", ())), end="")
        return
    print("vm: `kata-dind accel` tells whether KVM works")
    if "error" in found:
        print(printable(f"containerd: {found['error']['summary']}"))
        if hint := found["error"]["hint"]:
            print(printable(f"  {hint}"))
        return
    print(printable(f"containerd {found['version']} at {found['address']}"))
    print()
    print_table(_HEADER, [_row(handler) for handler in found["handlers"]])
    for handler in found["handlers"]:
        _print_reasons(handler)


def _containerd(address: Path) -> dict[str, Any]:
    from kata_dind.backend.containerd.client import connected
    from kata_dind.backend.containerd.report import handler_fields
    from kata_dind.backend.containerd.survey import survey
    from kata_dind.errors import KataDindError

    try:
        with connected(address) as containerd:
            found = survey(containerd)
    except KataDindError as error:
        return {"address": str(address), "error": error.as_fields()}
    return {
        "address": str(address),
        "version": found.version,
        "handlers": [handler_fields(handler) for handler in found.handlers],
    }


def _row(handler: dict[str, Any]) -> tuple[str, ...]:
    kata = handler["kata"] or {}
    version = (kata.get("version") or "yes") if handler["is_kata"] else "no"
    return (
        handler["name"],
        version,
        str(kata.get("vmm") or "-"),
        *("yes" if verdict["can"] else "no" for verdict in handler["abilities"].values()),
    )


def _print_reasons(handler: dict[str, Any]) -> None:
    said = {(name, verdict["why"], verdict["change"]) for name, verdict in handler["abilities"].items()}
    reasons = sorted((name, why, change) for name, why, change in said if why)
    if not reasons and not handler["holes"]:
        return
    print(printable(f"\n{handler['name']}"))
    for name, why, change in reasons:
        print(printable(f"  no {name}: {why}"))
        if change:
            print(printable(f"    {change}"))
    for hole in handler["holes"]:
        print(printable(f"  {'refused' if hole['is_sure'] else 'warned of'}: {hole['fault']}; {hole['because']}"))
        if hole["change"]:
            print(printable(f"    {hole['change']}"))
