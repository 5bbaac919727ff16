"""Keys and algorithms of signed JWTs (RFC 7515, RFC 7517, RFC 7518), public-key ones only.

Reading and using them is joserfc's, whose keys Authlib takes too (its own are
deprecated); ours is which of them are good enough.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from joserfc.errors import JoseError, SecurityWarning, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

_RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
_CURVES = {"ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448"}

ALGORITHMS = frozenset(_RSA | _CURVES)
"""The signatures that may be configured: never "none", never by a shared secret (RFC 8725 section 3.1)."""

Keys = tuple[Key, ...]

_KEY_TYPES: Sequence[tuple[tuple[type, ...], type[Key]]] = (
    ((rsa.RSAPublicKey, rsa.RSAPrivateKey), RSAKey),
    ((ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey), ECKey),
    (
        (
            ed25519.Ed25519PublicKey,
            ed25519.Ed25519PrivateKey,
            ed448.Ed448PublicKey,
            ed448.Ed448PrivateKey,
        ),
        OKPKey,
    ),
)
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


class SignatureRegistry(JWSRegistry):
    """Only these algorithms. Unknown header parameters are ignored, as RFC 7515 section 4 asks."""

    max_header_length = 8192  # some servers put a certificate chain there

    def __init__(self, algorithms: frozenset[str]) -> None:
        super().__init__(algorithms=algorithms & ALGORITHMS, strict_check_header=False)

    def get_alg(self, name: str) -> JWSAlgModel:
        # The library's own would allow its defaults where the set is empty, and warn on each
        # use of "EdDSA", which RFC 9864 renamed and servers still send.
        if not self.allowed or name not in self.allowed:
            raise UnsupportedAlgorithmError("not an allowed algorithm")
        return self.algorithms[name]


def read_key_set(document: Mapping[str, object]) -> Keys:
    """The usable public keys of a JWK set (RFC 7517 section 5): the others are ignored. Raises ValueError."""
    members = document.get("keys")
    if not isinstance(members, list):
        raise ValueError('not a JWK set: it has no list "keys"')
    keys = tuple(key for member in members if (key := _usable(member)) is not None)
    if not keys:
        raise ValueError("the JWK set holds no usable public key")
    return keys


def read_static_keys(text: str) -> Keys:
    """The public keys of a file: a JWK set, a JWK, or PEM public keys. Raises ValueError."""
    if text.lstrip().startswith("{"):
        document = json.loads(text)
        return read_key_set(document if "keys" in document else {"keys": [document]})
    keys = []
    for block in _PEM.finditer(text):
        if block[1] != "PUBLIC KEY":
            raise ValueError(f"holds a {block[1]}, not only PEM blocks named PUBLIC KEY")
        try:
            native = serialization.load_pem_public_key(block[0].encode())
        except UnsupportedAlgorithm:
            raise ValueError("holds a key of an unsupported type") from None
        keys.append(_from_pem(native, block[0]))
    if not keys:
        raise ValueError("holds neither a JWK set nor a PEM public key")
    return tuple(keys)


def read_private_key(pem: str) -> Key:
    """A client's private key, PEM and not encrypted. Raises ValueError, which holds nothing of it."""
    try:
        return _from_pem(serialization.load_pem_private_key(pem.encode(), password=None), pem)
    except Exception:  # whatever it is, its text may quote what was read
        problem = "not an unencrypted PEM private key: RSA of 2048 bits or more, EC, Ed25519 or Ed448"
    raise ValueError(problem)


def _from_pem(native: object, pem: str) -> Key:
    for natives, kind in _KEY_TYPES:
        if isinstance(native, natives):
            return _strict(kind, pem)
    raise ValueError("holds a key of an unsupported type")


def _usable(member: object) -> Key | None:
    if not isinstance(member, dict) or member.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if member.get("use", "sig") != "sig":
        return None
    try:
        return _strict(JWKRegistry.key_types[member["kty"]], member)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _strict(kind: type[Key], data: dict[str, str | list[str]] | str) -> Key:
    """What the library warns of, such as RSA keys under 2048 bits, is no key."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", SecurityWarning)
        try:
            return kind.import_key(data)
        except SecurityWarning:
            raise ValueError("too short a key") from None
