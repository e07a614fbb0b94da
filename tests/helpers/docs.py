"""Reads the documentation: its pages, code blocks, links and tables; and generates the parts
that are derived from the program.

`python -m tests.helpers.docs` prints those parts, to be pasted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from uproxy.contract import TlsFacts
from uproxy.lifecycle import DEADLINES, ENDINGS, MOVES, State
from uproxy.metrics import FlowLabels, Metrics
from uproxy.metrics.text import TEXT_CONTENT_TYPE
from uproxy.model import Direction, Outcome

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(
        (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md"),
         ROOT / "certs" / "README.md")
    )
)  # fmt: skip

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block."""

    page: Path
    line: int
    """The line of the opening fence."""
    info: str
    """The text after the opening fence: `yaml part`."""
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[1].strip(), found[2])


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def table(page: Path, header: str) -> list[tuple[str, ...]]:
    """Return the rows of the table whose first head cell is `header`, as tuples of cells.

    Raises:
        AssertionError: there is no such table.
    """
    found = next(tables(page, header), None)
    assert found is not None, f"{page} has no table of {header!r}"
    return found


def tables(page: Path, header: str) -> Iterator[list[tuple[str, ...]]]:
    """Yield the rows of each table whose first head cell is `header`."""
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {header} |"):
            next(lines)
            yield list(_rows(lines))


def _rows(lines: Iterator[str]) -> Iterator[tuple[str, ...]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])


def outcome_cells() -> tuple[tuple[str, str, str], ...]:
    """Return (outcome, response flag, states in which it can end) of each outcome."""
    return tuple((f"`{each}`", f"`{each.flag}`", _states(each)) for each in Outcome)


def _states(outcome: Outcome) -> str:
    states = [state for state in State if outcome in ENDINGS.get(state, ())]
    return "any" if len(states) == len(ENDINGS) else ", ".join(f"`{state}`" for state in states)


def lifecycle_picture() -> str:
    """Return the states and moves of a connection as Mermaid text."""
    lines = ["stateDiagram-v2"]
    lines += [
        f"    {state} : {state} ({DEADLINES[state]})" for state in State if state in DEADLINES
    ]
    lines.append(f"    [*] --> {next(iter(State))}")
    for state in State:
        lines += [f"    {state} --> {then}" for then in State if then in MOVES[state]]
    lines += [f"    {state} --> [*]" for state in State if not MOVES[state]]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric as a scraper sees it."""

    kind: str
    labels: tuple[str, ...]


def metric_families() -> Mapping[str, Family]:
    """Return every metric of a `Metrics` in which each has been counted once."""
    content_type, text = _eventful().render()
    assert content_type == TEXT_CONTENT_TYPE
    lines = text.decode().splitlines()
    kinds = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    samples = [re.match(r"(\w+)(?:\{(.*)\})? ", line) for line in lines if line[:1] != "#"]
    labels: dict[str, tuple[str, ...]] = {}
    for sample in filter(None, samples):
        name = re.sub(r"_(bucket|sum|count)$", "", sample[1])
        found = tuple(re.findall(r'(\w+)="', sample[2] or ""))
        labels.setdefault(name, tuple(each for each in found if each != "le"))
    return {name: Family(kind, labels[name]) for name, kind in kinds.items()}


def _eventful() -> Metrics:
    """Return a `Metrics` in which everything has happened once."""
    metrics, way = Metrics(), Direction.INBOUND
    flow_labels = FlowLabels(way, "spiffe://a.test/ours", "spiffe://a.test/theirs", 80, True)
    flow = metrics.flow(flow_labels)
    flow.opened()
    flow.moved(1, 1)
    flow.closed(Outcome.CLOSED)
    metrics.failed(flow_labels, Outcome.DENIED)
    metrics.handshake(way, TlsFacts("TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519", 0.01))
    metrics.handshake_failed(way, Outcome.PEER_UNTRUSTED, "X5-17")
    metrics.probed(way)
    metrics.tunnel_ended(way, Outcome.CLOSED)
    metrics.tunnel_broken(way, "pings")
    metrics.l7_used("l7", "10.0.0.9:15008")
    metrics.l7_failed("l7", Outcome.L7_UNAVAILABLE)
    metrics.l7_bypassed("l7", "reviews")
    metrics.l7_refused("missing")
    metrics.l7_headers_ignored()
    metrics.decided("rule", allowed=True)
    metrics.reloaded(applied=True)
    metrics.build_info({"uproxy": "0", "python": "3", "openssl": "4"})
    metrics.watch_readiness(lambda: True)
    metrics.watch_connections(lambda: {way: 1})
    metrics.watch_tunnels(lambda: {way: 1})
    metrics.watch_streams(lambda: {way: 1})
    metrics.watch_l7(lambda: [(("l7", "10.0.0.9:15008"), 1)])
    metrics.watch_limits(lambda: {"connections": 1})
    metrics.watch_log(lambda: 1)
    metrics.watch_tokens(lambda: {"reviews": None})
    metrics.watch_identity(
        lambda: {
            "spiffe_id": "spiffe://a.test/ours",
            "expires": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
            "stream": "streaming",
            "rotations": 1,
            "revocations": 1,
            "reconnects": 1,
            "discarded_messages": 1,
        }
    )
    return metrics


def _print_all() -> None:
    for cells in outcome_cells():
        print("|", " | ".join(cells), "|")  # noqa: T201  this is its purpose
    print(lifecycle_picture())  # noqa: T201
    for name, family in metric_families().items():
        labels = ", ".join(f"`{each}`" for each in family.labels)
        print(f"| `{name}` | {family.kind} | {labels or '-'} |")  # noqa: T201


if __name__ == "__main__":
    _print_all()
