"""Every setting: its key, its kind of value, its meaning, its default.

This is the only list of keys.  Reading, hints, the JSON Schema and the reference are all derived
from it, so they always agree.
"""

from __future__ import annotations

from uproxy.config import later
from uproxy.config.capture_checks import captured_transport
from uproxy.config.kinds import Choice, EitherOf, ListOf, MapOf, Nullable, WordOr
from uproxy.config.l7_fields import INBOUND_TRUST, L7_PROXY
from uproxy.config.leaves import (
    ALPN,
    APPLICATION,
    BOOLEAN,
    CAPTURED_TRANSPORT,
    DURATION,
    ENDPOINT,
    FILE,
    KEEP_OR_CLOSE,
    LABEL,
    LISTENER,
    MODE,
    OWN_IP,
    OWNER,
    PATTERN,
    PLAIN_NETWORK,
    PORT,
    SERVER_NAME,
    SPIFFE_ID,
    TARGET,
    TCP_TARGET,
    TRANSPORT,
    TRUST_DOMAIN,
    count,
)
from uproxy.config.records import Field, Record
from uproxy.config.rule_fields import RULE
from uproxy.config.settings import (
    ALL_PORTS,
    HBONE_PORT,
    AdminSettings,
    DestinationSettings,
    FilesIdentity,
    IdentitySettings,
    InboundSettings,
    LogSettings,
    MatchSettings,
    OutboundSettings,
    Settings,
)
from uproxy.config.term_fields import HBONE, LIMITS, TIMEOUTS, TLS

_ALPN = Field("alpn", ListOf(ALPN), "ALPN protocols, where the application's peers require one.")
_MODE = Field("mode", MODE, 'Permission bits of a unix socket, such as "0600".')
_OWNER = Field("owner", OWNER, "Who owns a unix socket: user, user:group or numbers.")

FILES = Record(
    FilesIdentity,
    (
        Field("svid", FILE, "Certificate chain, leaf first, PEM or DER.", required=True),
        Field("key", FILE, "Private key, PKCS#8 or SEC1.", required=True),
        Field(
            "bundles",
            MapOf(TRUST_DOMAIN, FILE, minimum=1),
            "Trust domain to its bundle, PEM or SPIFFE JWKS.",
            required=True,
        ),
        Field("crls", ListOf(FILE, minimum=0), "Certificate revocation lists."),
    ),
    "a mapping of svid, key and bundles",
)
IDENTITY = Record(
    IdentitySettings,
    (
        Field("workload_api", ENDPOINT, "The SPIFFE Workload API; else $SPIFFE_ENDPOINT_SOCKET."),
        Field("files", FILES, "Identity from files, instead of the Workload API."),
        Field("spiffe_id", SPIFFE_ID, "Which identity, where the agent offers several."),
        Field("hint", LABEL, "Which identity, by the agent's hint."),
        Field("on_expiry", KEEP_OR_CLOSE, "Open connections when a certificate expires.", "keep"),
        Field("on_distrust", KEEP_OR_CLOSE, "Open connections when trust is withdrawn.", "close"),
        Field(
            "revocation_grace",
            DURATION,
            "How long a reconnected agent may say 'no identity' before ours is withdrawn.",
            "30s",
        ),
    ),
)
INBOUND = Record(
    InboundSettings,
    (
        Field("name", LABEL, "What rules call this door; the listen address by default."),
        Field("listen", LISTENER, "Where other workloads connect.", required=True),
        Field("transport", TRANSPORT, "What they speak; required but with `captured`."),
        Field(
            "captured",
            BOOLEAN,
            "Capture brings connections here. Listens for IPv4 and IPv6 at all addresses, whatever "
            "is written, and refuses what wasn't made to one of `ports` of this host.",
            False,
        ),
        Field(
            "to",
            APPLICATION,
            "The application; required but with hbone or `captured`. There it is a host without a "
            "port, dialled instead of the one that a tunnel names or a connection was made to.",
        ),
        Field(
            "ports",
            EitherOf(
                MapOf(PORT, CAPTURED_TRANSPORT, minimum=1, parsed=True),
                WordOr(ALL_PORTS, ALL_PORTS, ListOf(PORT)),
            ),
            "With hbone, and required there: the application's ports that tunnels may name. With "
            "`captured`: what is spoken, by the port that the connection was made to.",
        ),
        Field(
            "addresses",
            ListOf(OWN_IP),
            "With hbone: addresses of this workload that tunnels may name besides the one at which "
            "they arrive. Loopback must be listed.",
        ),
        Field(
            "migrate",
            ListOf(PORT),
            "With `captured`: ports with mtls at which plaintext is admitted beside it; the first "
            "byte tells. Not for protocols in which the server speaks first.",
        ),
        Field(
            "preserve_source",
            BOOLEAN,
            "With `captured`: the application sees its callers' own addresses. Takes CAP_NET_ADMIN "
            "and the routes of `uproxy capture`.",
            False,
        ),
        _ALPN,
        Field(
            "proxy_protocol",
            Choice(("v2",)),
            "Tell the application who called: address, and SPIFFE ID in TLV 0xD0.",
        ),
        _MODE,
        _OWNER,
    ),
    computed=lambda draft, _key: {
        "name": str(draft.values["listen"]),
        "transport": captured_transport(draft),
    },
)
OUTBOUND = Record(
    OutboundSettings,
    (
        Field("listen", LISTENER, "Where this workload connects.", required=True),
        Field("to", LABEL, "A key of `destinations`; required unless `captured: true`."),
        Field("expose", BOOLEAN, "Lets other hosts connect, and so use our identity.", False),
        Field(
            "captured",
            BOOLEAN,
            "Capture brings connections here, and their original destination picks the one of "
            "`destinations` (`match`). Listens for IPv4 and IPv6 at all addresses, whatever is "
            "written, and refuses who connects here directly.",
            False,
        ),
        _MODE,
        _OWNER,
    ),
)
MATCH = Record(
    MatchSettings,
    (
        Field("addresses", ListOf(PLAIN_NETWORK), "Networks; all by default."),
        Field("ports", ListOf(PORT), "Ports; all by default."),
    ),
    "a mapping with addresses, ports or both",
)
DESTINATION = Record(
    DestinationSettings,
    (
        Field(
            "match",
            MATCH,
            "The captured connections that go here, by the address they were made to; the longest "
            "prefix wins, then a port over none.",
        ),
        Field(
            "addresses",
            ListOf(TARGET),
            "The application's addresses; required without `match`. There by default the address "
            "that the connection was made to.",
        ),
        Field("transport", TRANSPORT, "What they speak.", required=True),
        Field("identities", ListOf(PATTERN), "Who may answer; required for mtls and hbone."),
        _ALPN,
        Field("idle", DURATION, "Instead of `timeouts.idle`."),
        Field(
            "server_name",
            SERVER_NAME,
            "SNI, for what routes by it; the name in the address by default, none for literal "
            "addresses or with hbone. Never part of verification.",
        ),
        Field(
            "hbone_address",
            TCP_TARGET,
            "With hbone: where tunnels end, if not at the addresses' own hosts (NAT, gateway).",
        ),
        Field(
            "hbone_port",
            PORT,
            f"With hbone: the port of the addresses' hosts where tunnels end; {HBONE_PORT} by "
            "default.",
        ),
        Field(
            "via",
            LABEL,
            "With hbone: a key of `l7_proxies`, through which connections go; straight there by "
            "default.",
        ),
    ),
    computed=lambda _draft, key: {"name": key, "addresses": ()},
)


_OFF = Nullable(LISTENER)
ADMIN = Record(
    AdminSettings,
    (
        Field("listen", _OFF, "Status page, dumps and commands.", "127.0.0.1:15000"),
        Field("metrics", _OFF, "Prometheus metrics.", "127.0.0.1:15020"),
        Field("ready", _OFF, "Readiness and liveness.", "[::]:15021"),
        Field("mode", MODE, 'Permission bits of the unix sockets among them, such as "0660".'),
        Field("owner", OWNER, "Who owns these unix sockets: user, user:group or numbers."),
    ),
)
ADMIN_OR_OFF = Nullable(ADMIN, AdminSettings(None, None, None))
LOG = Record(
    LogSettings,
    (
        Field(
            "level",
            Choice(("debug", "info", "warning", "error")),
            "Lines of this level and above.",
            "info",
        ),
        Field("format", Choice(("json", "text")), "How a line looks.", "json"),
        Field("access", Choice(("all", "denied", "none")), "Which connections get a line.", "all"),
    ),
)
SETTINGS = Record(
    Settings,
    (
        Field("name", LABEL, "Tells several uProxies on one machine apart.", "uproxy"),
        Field("identity", IDENTITY, "Who this workload is: exactly one source."),
        Field(
            "inbound",
            ListOf(INBOUND, minimum=0, unique=False),
            "Doors: listeners at which other workloads connect.",
        ),
        Field(
            "outbound",
            ListOf(OUTBOUND, minimum=0, unique=False),
            "Doors at which this workload connects.",
        ),
        Field("destinations", MapOf(LABEL, DESTINATION), "Where outbound connections go."),
        Field(
            "l7_proxies",
            MapOf(LABEL, L7_PROXY),
            "Shared L7 proxies that destinations are reached through (`via`).",
        ),
        Field(
            "inbound_trust",
            MapOf(LABEL, INBOUND_TRUST),
            "Shared L7 proxies that may say for whom they connect to us; rules name them in `via`.",
        ),
        Field(
            "authorization",
            ListOf(RULE, minimum=0, unique=False),
            "Who may come in; nobody by default.",
        ),
        Field(
            "on_policy_change",
            KEEP_OR_CLOSE,
            "Open connections that would no longer be allowed.",
            "close",
        ),
        Field("tls", TLS, "What may be negotiated."),
        Field("hbone", HBONE, "How tunnels are used (`transport: hbone`)."),
        Field("limits", LIMITS, "Refused beyond these."),
        Field("timeouts", TIMEOUTS, "Deadlines; 0 is off."),
        Field(
            "engine",
            Choice(("native", "python"), later.ENGINES),
            "What relays: compiled threads, or plain Python on a single thread.",
            "native",
        ),
        Field(
            "workers",
            Nullable(count(1)),
            "Threads of `engine: native`; by default one per CPU allowed to this process (a "
            "cgroup's quota counts), 4 at most.",
        ),
        Field(
            "admin",
            ADMIN_OR_OFF,
            "The listeners for operators; null is off.",
        ),
        Field(
            "log",
            Nullable(LOG, LogSettings(level="error", access="none")),
            "Standard output; null leaves errors only.",
        ),
    ),
    later=later.KEYS[""],
)
