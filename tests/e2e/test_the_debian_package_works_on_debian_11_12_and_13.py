"""The Debian package in real virtual machines, from its installation to its removal.

`tests/helpers/debian_package.sh` is what each machine runs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers import virtual_machine
from tests.helpers.standalone import package, standalone
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority

pytestmark = [pytest.mark.slow, pytest.mark.privileged, pytest.mark.timeout(3000)]

CONFIG = """\
identity:
  files: {svid: /etc/uproxy/svid.pem, key: /etc/uproxy/svid.key,
          bundles: {example.org: /etc/uproxy/bundle.pem}}
inbound:
  - {name: api, listen: LISTEN, transport: mtls, to: 127.0.0.1:8080}
authorization:
  - {name: web, action: allow, from: {namespaces: [web]}}
timeouts: {drain_delay: 0s}
"""

HELPERS = Path(virtual_machine.__file__).parent
SCRIPT = HELPERS / "debian_package.sh"


@pytest.fixture(scope="module")
def stuff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two versions of the package, the file, an identity and a configuration."""
    folder = tmp_path_factory.mktemp("stuff")
    built = standalone()
    shutil.copy(built / "uproxy", folder)
    shutil.copy(HELPERS / "captures.sh", folder)
    for version in ("0.1.0", "0.1.1"):
        package(built, folder, version)
    ca = Authority("example.org")
    files = write_identity(folder / "identity", ca.issue("/ns/shop/sa/orders"), ca.pem)
    shutil.copy(files.svid, folder / "svid.pem")
    shutil.copy(files.key, folder / "svid.key")
    shutil.copy(files.bundle, folder / "bundle.pem")
    (folder / "orders.yaml").write_text(CONFIG.replace("LISTEN", "127.0.0.1:8443"))
    return folder


@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie"])
def test_it_does_from_its_installation_to_its_removal(stuff: Path, suite: str) -> None:
    said, code = virtual_machine.run(suite, stuff, SCRIPT.read_text())
    assert code == 0, said
    assert "all is well" in said
