"""The modules that decide, and the tests that are to notice a fault in each."""

from __future__ import annotations

from collections.abc import Mapping

HUNTED: Mapping[str, tuple[str, ...]] = {
    "uproxy.addresses": ("test_addresses", "test_destinations"),
    "uproxy.capture.policy": ("test_capture_policy",),
    "uproxy.capture.record": ("test_capture_record",),
    "uproxy.connections.recheck": (
        "test_connections_recheck",
        "test_proxy_captured_callers",
        "property/test_connections",
    ),
    "uproxy.connections.expectation": ("test_connections_expectation",),
    "uproxy.connections.serving": ("test_connections_serving", "test_proxy_naming"),
    "uproxy.destinations": ("test_destinations", "property/test_destinations"),
    "uproxy.hbone.control": (
        "test_hbone_control",
        "test_hbone_session",
        "test_hbone_attacks",
        "test_hbone_windows",
    ),
    "uproxy.hbone.frames": ("test_hbone_frames",),
    "uproxy.hbone.headers": ("test_hbone_headers",),
    "uproxy.hbone.output": ("test_hbone_output",),
    "uproxy.hbone.sending": (
        "test_hbone_sending",
        "test_hbone_session",
        "test_hbone_control",
        "test_hbone_attacks",
        "test_hbone_windows",
    ),
    "uproxy.hbone.session": (
        "test_hbone_session",
        "test_hbone_control",
        "test_hbone_attacks",
        "test_hbone_windows",
    ),
    "uproxy.hbone.statuses": ("test_hbone_statuses",),
    "uproxy.hbone.windows": ("test_hbone_windows",),
    "uproxy.identity.anchors": ("test_identity_anchors", "test_identity_verifier"),
    "uproxy.identity.credentials": ("test_identity_source", "test_identity_files"),
    "uproxy.identity.diagnosis": ("test_identity_diagnosis", "test_identity_verifier"),
    "uproxy.identity.source": ("test_identity_source",),
    "uproxy.identity.verifier": ("test_identity_verifier",),
    "uproxy.identity.vouching": (
        "test_identity_vouching",
        "test_identity_verifier",
        "test_identity_diagnosis",
    ),
    "uproxy.l7": ("test_l7",),
    "uproxy.lifecycle": ("test_lifecycle", "property/test_lifecycle"),
    "uproxy.metrics.history": ("test_metrics_history",),
    "uproxy.matching": ("test_matching", "property/test_matching"),
    "uproxy.policy.parties": ("test_policy", "test_speaking"),
    "uproxy.policy.rules": ("test_policy", "property/test_policy"),
    "uproxy.proxy.admin.trouble": ("test_proxy_admin_trouble",),
    "uproxy.proxy.caller_proofs": ("test_proxy_caller_proofs",),
    "uproxy.proxy.callers": ("test_proxy_callers",),
    "uproxy.proxy.inbound": (
        "test_proxy_captured_callers",
        "test_proxy_inbound",
        "test_proxy_callers",
    ),
    "uproxy.proxy.originally": ("test_proxy_originally",),
    "uproxy.proxy.naming": ("test_proxy_naming", "test_proxy_inbound"),
    "uproxy.proxy.outbound": ("test_proxy_outbound", "test_proxy_via"),
    "uproxy.proxy.ways": ("test_proxy_inbound", "test_proxy_captured_callers", "test_proxy_naming"),
    "uproxy.proxy.via": ("test_proxy_via",),
    "uproxy.snapshot.handshakes": ("test_snapshot_handshakes", "test_snapshot_snapshot"),
    "uproxy.snapshot.l7": ("test_snapshot_l7",),
    "uproxy.snapshot.plans": ("test_snapshot_plans", "test_snapshot_snapshot"),
    "uproxy.snapshot.snapshot": (
        "test_snapshot_snapshot",
        "test_snapshot_plans",
        "test_snapshot_handshakes",
        "test_snapshot_l7",
    ),
    "uproxy.speaking": ("test_speaking", "property/test_speaking"),
    "uproxy.spiffe.authorities": ("test_spiffe_authorities", "test_identity_verifier"),
    "uproxy.spiffe.bundles": ("test_spiffe_bundles",),
    "uproxy.spiffe.crls": ("test_spiffe_crls", "test_identity_verifier"),
    "uproxy.spiffe.encoding": ("test_spiffe_encoding", "test_spiffe_bundles", "test_spiffe_crls"),
    "uproxy.spiffe.ids": ("test_spiffe_ids", "property/test_spiffe_ids"),
    "uproxy.spiffe.jwt_bundles": ("test_spiffe_jwt_bundles",),
    "uproxy.spiffe.jwt_svids": ("test_spiffe_jwt_svids",),
    "uproxy.spiffe.presented": ("test_spiffe_presented", "property/test_presented"),
    "uproxy.spiffe.strict_json": ("test_spiffe_strict_json",),
    "uproxy.spiffe.svid": ("test_spiffe_svid", "test_identity_verifier"),
    "uproxy.spiffe.workload_update": ("test_spiffe_workload_update",),
    "uproxy.transport.l7_failures": ("test_transport_l7_failures",),
    "uproxy.transport.succession": ("test_transport_succession",),
}
"""By module, the test files below `tests/`."""


def files_of(module: str) -> list[str]:
    """The paths of the test files of a module."""
    return [f"tests/{name}.py" for name in HUNTED[module]]
