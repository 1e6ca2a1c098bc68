"""A real issuer on loopback: it serves its key set over HTTP, and signs tokens, good ones and others."""

import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from runstore.gateway.jwt_config import JwtConfig

AUDIENCE = "https://runstore.example"
PROJECTS = "https://runstore.example/projects"
PRIVATE = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def an_rsa_key(name: str = "", bits: int = 2048) -> rsa.RSAPrivateKey:
    """Make an RSA key; the same for the same name, since making one takes its time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def an_ec_key(name: str = "", curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    """Make an elliptic key; the same for the same name."""
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "secp256k1": ec.SECP256K1()}
    return ec.generate_private_key(curves[curve])


def jwk_of(key: PRIVATE, key_id: str, **more: Any) -> dict[str, Any]:
    """Write the public half of a key as a JWK."""
    algorithm: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    written: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {**{name: said for name, said in written.items() if name != "key_ops"}, "kid": key_id, **more}


def segment(said: Any) -> str:
    """Write one part of a JWT."""
    raw = said if isinstance(said, bytes) else msgspec.json.encode(said)
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


class Issuer:
    """Whose tokens a gateway takes. `answer` stands in for the key set where a test wants another answer."""

    def __init__(self) -> None:
        self.keys: dict[str, PRIVATE] = {"first": an_rsa_key("first")}
        self.asked: list[str] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def issuer(self) -> str:
        return self.url + "/"

    async def start(self) -> None:
        """Answer, at the same address as before."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Be away."""
        if self._runner is not None:
            await self._runner.cleanup()

    def config(self, **changes: Any) -> JwtConfig:
        """Write the settings by which a gateway takes this issuer's tokens."""
        said = {"issuer": self.issuer, "audience": (AUDIENCE,), "projects_claim": PROJECTS, **changes}
        return JwtConfig(**said)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Write good claims, changed."""
        said = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "someone",
            "exp": int(time.time()) + 600,
            "scope": "runs:read",
            PROJECTS: ["forecasts"],
        }
        return {name: value for name, value in {**said, **changes}.items() if value is not None}

    def token(
        self,
        *scopes: str,
        key: PRIVATE | None = None,
        kid: str | None = "first",
        header: dict[str, Any] | None = None,
        projects: Any = ("forecasts",),
        **claims: Any,
    ) -> str:
        """Sign a token."""
        signed_with = key or self.keys[kid or "first"]
        algorithm = "RS256" if isinstance(signed_with, rsa.RSAPrivateKey) else "ES256"
        changes = {PROJECTS: list(projects) if isinstance(projects, tuple) else projects, **claims}
        if scopes:
            changes["scope"] = " ".join(scopes)
        headers = {"kid": kid} if kid is not None else {}
        return jwt.encode(self.claims(**changes), signed_with, algorithm, headers={**headers, **(header or {})})

    def written(self, header: dict[str, Any], **claims: Any) -> str:
        """Write a token whose signature is right and whose header is any."""
        signing_input = f"{segment(header)}.{segment(self.claims(**claims))}"
        key = self.keys["first"]
        assert isinstance(key, rsa.RSAPrivateKey)
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(signing_input.encode(), key)
        return f"{signing_input}.{segment(signature)}"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response({"keys": [jwk_of(key, key_id) for key_id, key in self.keys.items()]})


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """Hold an issuer."""
    issuer = Issuer()
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()
