"""uproxy.lean.imports: what `uproxy run` keeps out of its process, and gives back to others; what
a running one has loaded is looked at in e2e/test_a_uproxy_stays_small.py."""

from __future__ import annotations

import dis
import subprocess
import sys
from pathlib import Path

from uproxy.lab.tokens import TokenAuthority
from uproxy.lean.imports import COMPILER_FLAGS

ROOT = Path(__file__).parents[1]


def run(program: str, *arguments: str) -> str:
    """What a fresh interpreter prints: this one has everything imported already."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_run_brings_no_second_openssl_into_its_process() -> None:
    loaded = run(
        "import sys, uproxy.cli.run\n"
        "print(*(name for name in ('ssl', '_ssl', '_hashlib') if name in sys.modules))\n"
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'libcrypto' in line})\n"
    )
    assert loaded == ""


def test_the_event_loop_works_without_ssl() -> None:
    program = (
        "import uproxy.cli.run, asyncio, uvloop\n"
        "async def echo(reader, writer):\n"
        "    writer.write(await reader.readline())\n"
        "    writer.close()\n"
        "async def main():\n"
        "    server = await asyncio.start_server(echo, '127.0.0.1', 0)\n"
        "    port = server.sockets[0].getsockname()[1]\n"
        "    reader, writer = await asyncio.open_connection('127.0.0.1', port)\n"
        "    writer.write(b'through\\n')\n"
        "    print((await reader.read()).decode())\n"
        "    writer.close()\n"
        "    server.close()\n"
        "uvloop.run(main())\n"
    )
    assert run(program) == "through"


def test_asyncio_has_no_event_loop_of_its_own_until_it_is_asked_for() -> None:
    program = (
        "import sys, uproxy.cli.run, asyncio\n"
        "own = 'asyncio.unix_events'\n"
        "print(own in sys.modules, hasattr(asyncio, 'SelectorEventLoop'))\n"
        "from asyncio.unix_events import SelectorEventLoop\n"
        "loop = SelectorEventLoop()\n"
        "print(loop.run_until_complete(asyncio.sleep(0, 'slept')))\n"
        "loop.close()\n"
    )
    assert run(program).splitlines() == ["False False", "slept"]


def test_annotations_are_the_real_ones() -> None:
    program = (
        "import inspect as real, sys\n"
        "from uproxy.lean.imports import stand_ins\n"
        "inspect = dict(stand_ins())['inspect']\n"
        "class A:\n"
        "    x: int\n"
        "class B(A): ...\n"
        "def f(a: 'int') -> None: ...\n"
        "for each in (A, B, f, sys):\n"
        "    print(inspect.get_annotations(each) == real.get_annotations(each))\n"
        "print(inspect.get_annotations(f, eval_str=True)['a'] is int)\n"
    )
    assert run(program).split() == ["True"] * 5


def test_every_kind_of_key_is_what_it_is() -> None:
    program = (
        "import sys, uproxy.cli.run\n"
        "from uproxy.lean.imports import lean_imports\n"
        "print(*(name for name in sys.modules if name.endswith(('mldsa', 'ed448', 'types'))\n"
        "    and name.startswith('cryptography')))\n"
        "with lean_imports():\n"
        "    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa\n"
        "    from cryptography.hazmat.primitives import serialization as as_\n"
        "    made = ed448.Ed448PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate(), \\\n"
        "        rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())\n"
        "    for key in made:\n"
        "        der = key.private_bytes(\n"
        "            as_.Encoding.DER, as_.PrivateFormat.PKCS8, as_.NoEncryption())\n"
        "        read = as_.load_der_private_key(der, None)\n"
        "        print(*(isinstance(read, each) for each in (\n"
        "            ed448.Ed448PrivateKey, ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey,\n"
        "            ec.EllipticCurvePrivateKey, dsa.DSAPrivateKey)))\n"
    )
    assert run(program).splitlines() == [
        "True False False False False",
        "False True False False False",
        "False False True False False",
        "False False False True False",
    ]


def test_nobody_gets_tls_from_the_stand_in() -> None:
    program = (
        "from uproxy.lean.imports import lean_imports\n"
        "with lean_imports():\n"
        "    import ssl\n"
        "print(ssl.SSL_ERROR_WANT_READ, issubclass(ssl.SSLError, Exception))\n"
        "try:\n"
        "    ssl.create_default_context()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    assert run(program).splitlines() == [
        "0 True",
        "the standard ssl isn't in this process: TLS is uproxy.libssl's",
    ]


def test_hashes_are_right_without_openssl() -> None:
    program = (
        "from uproxy.lean.imports import lean_imports\n"
        "with lean_imports():\n"
        "    import hashlib\n"
        "print(hashlib.sha256(b'abc').hexdigest())\n"
    )
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert run(program) == expected


def test_an_email_address_in_a_certificate_is_still_read() -> None:
    program = (
        "import sys, uproxy.cli.run\n"
        "from cryptography import x509\n"
        "print('email.utils' in sys.modules)\n"
        "print(x509.RFC822Name('a@example.org').value)\n"
        "try:\n"
        "    x509.RFC822Name('A <a@example.org>')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "print('email.utils' in sys.modules)\n"
    )
    before, *read, after = run(program).splitlines()
    assert (before, after) == ("False", "True")
    assert read == ["a@example.org", "Invalid rfc822name value"]


def test_afterwards_the_real_ones_can_be_had() -> None:
    program = (
        "import uproxy.cli.run, ssl, _hashlib\n"
        "print(ssl.create_default_context().verify_mode.name, _hashlib.__name__)\n"
    )
    assert run(program) == "CERT_REQUIRED _hashlib"


def test_what_was_imported_before_stays() -> None:
    program = (
        "import ssl\n"
        "from uproxy.lean.imports import lean_imports\n"
        "with lean_imports():\n"
        "    import ssl as inside\n"
        "print(inside is ssl)\n"
    )
    assert run(program) == "True"


def test_a_stand_in_brings_the_real_one_when_it_is_asked_for_more() -> None:
    program = (
        "from uproxy.lean.imports import lean_imports\n"
        "import sys\n"
        "with lean_imports():\n"
        "    import random, subprocess\n"
        "print('_posixsubprocess' in sys.modules, subprocess.PIPE)\n"
        "print(0 <= random.random() < 1, random.Random.__name__)\n"
        "print(subprocess.run([sys.executable, '-c', 'print(1)'], stdout=subprocess.PIPE).stdout)\n"
        "import random as real\n"
        "print(real is sys.modules['random'], type(real).__name__, real is random)\n"
    )
    assert run(program).splitlines() == [
        "False -1",
        "True Random",
        r"b'1\n'",
        "True module False",
    ]


def test_a_stand_in_knows_what_the_real_one_knows() -> None:
    assert COMPILER_FLAGS.items() <= dis.COMPILER_FLAG_NAMES.items()
    program = (
        "import sys\n"
        "from uproxy.lean.imports import _Postponed, stand_ins\n"
        "import importlib\n"
        "for _, stand_in in stand_ins():\n"
        "    if isinstance(stand_in, _Postponed):\n"
        "        real = importlib.import_module(stand_in.__name__)\n"
        "        for name, value in vars(stand_in).items():\n"
        "            if not name.startswith('__') and value is not stand_in:\n"
        "                assert hasattr(real, name), (real, name)\n"
        "                if isinstance(value, int):\n"
        "                    assert value == getattr(real, name), (real, name)\n"
    )
    assert run(program) == ""


def test_a_traceback_shows_its_source() -> None:
    program = (
        "import uproxy.cli.run, traceback\n"
        "from uproxy.lean import imports as lean\n"
        "with lean.lean_imports():\n"
        "    try:\n"
        "        lean.AbsentError()\n"
        "    except RuntimeError:\n"
        "        print(traceback.format_exc())\n"
    )
    assert "raise RuntimeError(" in run(program)


def test_ecdsa_signs_and_verifies() -> None:
    program = (
        "import sys, uproxy.cli.run\n"
        "from uproxy.lean.imports import lean_imports\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "from cryptography.hazmat.primitives.hashes import SHA256\n"
        "with lean_imports():\n"
        "    key = ec.generate_private_key(ec.SECP256R1())\n"
        "    algorithm = ec.ECDSA(SHA256())\n"
        "    key.public_key().verify(key.sign(b'text', algorithm), b'text', algorithm)\n"
        "    print('cryptography.hazmat.primitives.ciphers' in sys.modules)\n"
        "    ec.ECDSA(SHA256(), deterministic_signing=True)\n"
        "    print('cryptography.hazmat.primitives.ciphers' in sys.modules)\n"
    )
    assert run(program).split() == ["False", "True"]


def test_the_real_inspect_comes_when_more_of_it_is_wanted() -> None:
    program = (
        "from uproxy.lean.imports import lean_imports\n"
        "with lean_imports():\n"
        "    import inspect\n"
        "    def inner(a): ...\n"
        "    def outer(*args): ...\n"
        "    print(inspect.unwrap(inner) is inner)\n"
        "    outer.__wrapped__ = inner\n"
        "    print(inspect.unwrap(outer) is inner, inspect.signature(inner))\n"
    )
    assert run(program).splitlines() == ["True", "True (a)"]


def test_a_type_given_as_a_string_is_not_compiled_and_stays_usable() -> None:
    program = (
        "import typing\n"
        "from uproxy.lean.imports import lean_imports\n"
        "with lean_imports():\n"
        "    class Row(typing.NamedTuple):\n"
        "        size: 'int'\n"
        "    print(Row(3).size, Row.__annotations__['size'].__forward_code__)\n"
        "class Later(typing.NamedTuple):\n"
        "    size: 'int'\n"
        "print(typing.get_type_hints(Later))\n"
    )
    assert run(program).splitlines() == ["3 None", "{'size': <class 'int'>}"]


def test_tokens_are_checked_without_a_client_of_web_servers() -> None:
    program = (
        "import sys, uproxy.cli.run\n"
        "from uproxy.lean.imports import lean_imports\n"
        "from uproxy.errors import UntrustedError\n"
        "from uproxy.spiffe.jwt_bundles import parse_jwt_bundle\n"
        "from uproxy.spiffe.jwt_svids import verify_jwt_svid\n"
        "from datetime import UTC, datetime\n"
        "print('jwt' in sys.modules)\n"
        "with lean_imports():\n"
        "    bundle = parse_jwt_bundle('example.org', sys.argv[1].encode())\n"
        "    bundles = {'example.org': bundle}\n"
        "    made = verify_jwt_svid(sys.argv[2], bundles, 'me', datetime.now(UTC))\n"
        "print(made.spiffe_id)\n"
        "unwanted = ('ssl', '_ssl', '_hashlib', 'http.client', 'urllib.request', 'email.message')\n"
        "print([name for name in unwanted if name in sys.modules])\n"
    )
    signer = TokenAuthority("example.org", "RS256")
    loaded = run(program, signer.jwks.decode(), signer.token("/a", "me"))
    assert loaded.splitlines() == ["False", "spiffe://example.org/a", "[]"]
