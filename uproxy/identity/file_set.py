"""The files of `identity.files`, read as one set.

It reads and checks; it watches nothing and keeps nothing.  Rules: every message begins with
the path; the text of a key's error stays out of it; a certificate and key that can't be used, or
don't fit together, are an error; a bundle or CRL that can't be used ends the trust in whom it
is about, hinders nothing else, and is a problem; what would make peers refuse us is a warning,
because they may know other bundles.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from uproxy.config.settings import FilesIdentity
from uproxy.errors import (
    BundleError,
    IdentityError,
    SpiffeIdError,
    UntrustedError,
    UnusableError,
    in_words,
)
from uproxy.identity.credentials import NO_JWT_BUNDLES, Credentials, Svid
from uproxy.identity.private_key import belongs_to, parse_private_key
from uproxy.identity.source import expired_reason
from uproxy.identity.verifier import Verifier
from uproxy.model import Role
from uproxy.spiffe import encoding
from uproxy.spiffe.authorities import check_issued
from uproxy.spiffe.bundles import Bundle, distrusted, is_jwks, parse_bundle, parse_crls
from uproxy.spiffe.crls import has_issuers_name, issued_by, why_unusable
from uproxy.spiffe.encoding import MAX_BYTES
from uproxy.spiffe.ids import SpiffeId, TrustDomain
from uproxy.spiffe.jwt_bundles import JwtBundle, distrusted_jwt, parse_jwt_bundle
from uproxy.spiffe.svid import check_own_key, claimed_identity


@dataclass(frozen=True, slots=True)
class Trust:
    """What was read from the bundle and CRL files."""

    bundles: Mapping[str, Bundle]
    problems: tuple[str, ...]
    """The bundles and CRLs that can't be used, so that no peer of theirs is trusted; in words."""
    warnings: tuple[str, ...]
    """What will probably not work, or is unsafe, in words."""
    jwt_bundles: Mapping[str, JwtBundle] = field(default_factory=lambda: NO_JWT_BUNDLES)
    """By trust domain; empty where they aren't wanted."""


@dataclass(frozen=True, slots=True)
class FileSet:
    """What was read from all files, and fits together."""

    svid: Svid
    bundles: Mapping[str, Bundle]
    warnings: tuple[str, ...]
    """As of Trust, and of our own certificate and key."""
    problems: tuple[str, ...] = ()
    """As of Trust."""
    jwt_bundles: Mapping[str, JwtBundle] = field(default_factory=lambda: NO_JWT_BUNDLES)
    """As of Trust."""

    @property
    def credentials(self) -> Credentials:
        """The files as a first snapshot of credentials."""
        return Credentials(self.svid, "", self.bundles, 1)


@dataclass(frozen=True, slots=True)
class _Content:
    data: bytes
    mode: int


def read_files(settings: FilesIdentity, now: datetime, *, with_jwt: bool = False) -> FileSet:
    """Read every file and check them together; `with_jwt` also the keys of JWT-SVIDs in bundles.

    Raises:
        UnusableError: the certificate or key is whole, but of a kind that can't be used.
        IdentityError: they can't be read, or don't fit together.  Both begin with the path of the
            file at fault.
    """
    key_file = _open(settings.key)
    svid = _read_svid(settings, key_file.data, now)
    trust = read_trust(settings, with_jwt=with_jwt)
    warnings = [*trust.warnings, *_self_warnings(svid, trust.bundles, now)]
    if key_file.mode & stat.S_IROTH:
        warnings.append(f"{settings.key}: every user here can read the key: chmod 0600")
    return FileSet(svid, trust.bundles, _once(warnings), trust.problems, trust.jwt_bundles)


def read_trust(settings: FilesIdentity, *, with_jwt: bool = False) -> Trust:
    """Read the bundles and CRLs alone; `with_jwt` also the keys of JWT-SVIDs.

    Raises:
        IdentityError: a bundle's name is no trust domain.
    """
    bundles = {
        bundle.trust_domain: bundle
        for bundle in (_read_bundle(*each) for each in settings.bundles.items())
    }
    bundles, warnings, problems = _with_crls(bundles, settings.crls)
    problems = [*(bundle.problem for bundle in bundles.values() if bundle.problem), *problems]
    jwt_bundles = dict(_jwt_bundles(settings)) if with_jwt else NO_JWT_BUNDLES
    problems += [bundle.problem for bundle in jwt_bundles.values() if bundle.problem]
    return Trust(bundles, _once(problems), _once(warnings), jwt_bundles)


def _once(words: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _read_svid(settings: FilesIdentity, key_data: bytes, now: datetime) -> Svid:
    path = settings.svid
    try:
        chain = _without_root(encoding.certificates(_read(path)))
        spiffe_id = claimed_identity(chain[0])
        check_own_key(chain[0])
    except BundleError as error:
        raise IdentityError(f"{path}: not a certificate chain in PEM or DER: {error}") from error
    except UntrustedError as error:
        reason = f"{path}: the first certificate is not an SVID: {error}"
        raise UnusableError(reason) from error
    except UnusableError as error:
        raise UnusableError(f"{path}: {error}") from error
    _check_order(path, chain)
    try:
        key = parse_private_key(key_data)
    except IdentityError as error:
        raise type(error)(f"{settings.key}: {error}") from error
    if not belongs_to(key, chain[0]):
        raise IdentityError(
            f"{settings.key}: this key is not the one of the certificate in {path}: "
            "both must come from the same issuance"
        )
    svid = Svid(str(spiffe_id), chain, key)
    if now > svid.not_after:
        raise IdentityError(f"{path}: {expired_reason(svid)}: have it renewed")
    return svid


def _without_root(chain: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """Return the chain without its trust anchor, which isn't sent to peers: they have their own
    copy or don't trust it."""
    last = chain[-1]
    return chain[:-1] if len(chain) > 1 and last.subject == last.issuer else chain


def _check_order(path: str, chain: tuple[x509.Certificate, ...]) -> None:
    for number, (certificate, issuer) in enumerate(itertools.pairwise(chain), start=1):
        try:
            check_issued(certificate, issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise IdentityError(
                f"{path}: certificate {number} is not signed by certificate {number + 1}: "
                "the leaf comes first, then each one's issuer"
            ) from error


def _read_bundle(domain: str, path: str) -> Bundle:
    try:
        name = TrustDomain.parse(domain).name
    except SpiffeIdError as error:
        raise IdentityError(f"{path}: not a bundle of {domain}: {error}") from error
    try:
        return parse_bundle(name, _read(path))
    except BundleError as error:
        return distrusted(name, f"{path}: not a bundle of {name}: {error}")
    except IdentityError as error:
        return distrusted(name, str(error))


def _jwt_bundles(settings: FilesIdentity) -> Iterable[tuple[str, JwtBundle]]:
    """Yield the keys of JWT-SVIDs of each trust domain whose bundle is a JWKS."""
    for domain, path in settings.bundles.items():
        name = TrustDomain.parse(domain).name
        try:
            data = _read(path)
            if is_jwks(data):
                yield name, parse_jwt_bundle(name, data)
        except BundleError as error:
            yield name, distrusted_jwt(name, f"{path}: not a bundle of {name}: {error}")
        except IdentityError as error:
            yield name, distrusted_jwt(name, str(error))


def _with_crls(
    bundles: dict[str, Bundle], paths: Iterable[str]
) -> tuple[dict[str, Bundle], list[str], list[str]]:
    """Return the bundles, each with the CRLs that its roots issued, warnings about CRLs that no
    root issued, and problems.

    Those of no root go with every bundle: an intermediate may have issued them, and a CRL applies
    only where its issuer is in a chain validated against that very bundle.
    """
    warnings: list[str] = []
    problems: list[str] = []
    for path in paths:
        try:
            crls = parse_crls(_read(path))
        except IdentityError as error:
            where = f"{path}: not usable CRLs: " if isinstance(error, BundleError) else ""
            # it can't be known whose certificates it was about
            bundles = {name: distrusted(name, f"{where}{error}") for name in bundles}
            continue
        for crl in crls:
            name = crl.issuer.rfc4514_string()
            if problem := why_unusable(crl):
                problems.append(f"{path}: no certificate issued by {name!r} is trusted: {problem}")
            domains = _domains_of(crl, bundles, path)
            if not domains:
                warnings.append(f"{path}: no bundle's root issued this CRL of {name!r}")
            for domain in domains or tuple(bundles):
                bundles[domain] = replace(bundles[domain], crls=(*bundles[domain].crls, crl))
    return bundles, warnings, problems


def _domains_of(
    crl: x509.CertificateRevocationList, bundles: dict[str, Bundle], path: str
) -> tuple[str, ...]:
    """Return the domains of which a root issued `crl`; a domain whose root has only the issuer's
    name is distrusted."""
    namesakes = {
        domain: [root for root in bundle.roots if has_issuers_name(crl, root)]
        for domain, bundle in bundles.items()
    }
    domains = tuple(
        domain for domain, roots in namesakes.items() if any(issued_by(crl, root) for root in roots)
    )
    affected = [domain for domain, roots in namesakes.items() if roots]
    if domains:
        return domains
    for domain in affected:
        name = crl.issuer.rfc4514_string()
        reason = f"{path}: the signature is not that of {name!r}: forged or outdated"
        bundles[domain] = distrusted(domain, reason)
    return tuple(affected)


def _self_warnings(svid: Svid, bundles: Mapping[str, Bundle], now: datetime) -> Iterable[str]:
    """Return warnings for which a peer with our own bundles would refuse us."""
    own = bundles.get(SpiffeId.parse(svid.spiffe_id).trust_domain.name)
    if own is not None and own.problem:
        return
    verifier = Verifier(Credentials(svid, "", bundles, 1))
    chain = tuple(encoding.der(certificate) for certificate in svid.chain)
    for role in Role:
        try:
            verifier.verify(chain, role, now)
        except UntrustedError as error:
            yield f"peers with these bundles would refuse us: {error}"


def _read(path: str) -> bytes:
    return _open(path).data


def _open(path: str) -> _Content:
    try:
        content = _content(path)
    except FileNotFoundError as error:
        raise IdentityError(f"{path}: no such file") from error
    except PermissionError as error:
        raise IdentityError(
            f"{path}: not readable by user {os.geteuid()}: give it read permission on the file "
            "and search permission (x) on its folders"
        ) from error
    except OSError as error:
        raise IdentityError(f"{path}: {in_words(error)}") from error
    if not content.data:
        raise IdentityError(f"{path}: the file is empty")
    return content


def _content(path: str) -> _Content:
    # without O_NONBLOCK, opening a pipe would wait for its writer
    file_descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(file_descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise IdentityError(f"{path}: not a regular file")
        with open(file_descriptor, "rb", closefd=False) as file:
            return _Content(file.read(MAX_BYTES + 1), mode)
    finally:
        os.close(file_descriptor)
