"""Real proxies before several gateways, with the files of `deploy/proxy` and a certificate of their own."""

import datetime
import ipaddress
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.deploy.secured import DEPLOY
from tests.topology.servers import free_ports
from tests.waiting import holds_soon

_NGINX_MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 2;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/runstore.conf;
}}
"""


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


class Front:
    """A proxy that answers."""

    def __init__(self, port: int, authority: Path) -> None:
        self.url = f"https://localhost:{port}"
        self.authority = authority
        self.trust = ssl.create_default_context(cafile=str(authority))


@contextmanager
def front(kind: str, folder: Path, gateways: tuple[int, int]) -> Iterator[Front]:
    """Hold a proxy of a kind before two gateways."""
    folder.mkdir()
    folder.chmod(0o755)
    cert, key = certificate(folder)
    http, https = free_ports(2)
    name = "nginx.conf" if kind == "nginx" else "Caddyfile"
    text = (DEPLOY / "proxy" / name).read_text()
    for place, port in zip(("127.0.0.1:8080", "127.0.0.1:8081"), gateways, strict=True):
        text = text.replace(place, f"127.0.0.1:{port}")
    if kind == "nginx":
        for old, new in (
            ("listen 80;", f"listen 127.0.0.1:{http};"),
            ("listen 443 ssl http2;", f"listen 127.0.0.1:{https} ssl http2;"),
            ("/etc/runstore/tls/fullchain.pem", str(cert)),
            ("/etc/runstore/tls/privkey.pem", str(key)),
            ("runstore.example", "localhost"),
        ):
            assert old in text
            text = text.replace(old, new)
        (folder / "runstore.conf").write_text(text)
        (folder / "nginx.conf").write_text(_NGINX_MAIN.format(folder=folder))
        words = [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    else:
        text = text.replace("runstore.example {", f"https://localhost:{https} {{\n\ttls {cert} {key}")
        (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{text}")
        words = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env)
    try:
        made = Front(https, cert)
        holds_soon(lambda: process.poll() is not None or accepts(https))
        assert process.poll() is None, (folder / "log").read_text() + text
        yield made
    finally:
        process.terminate()
        process.wait(20)


def accepts(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin") or ""
