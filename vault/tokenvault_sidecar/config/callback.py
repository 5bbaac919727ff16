"""`[callback]` and `[brands.ID.page]`: where consumers come back to, and what they see there."""

import base64
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, model_validator

from tokenvault_sidecar.config.files import File, PrivateFilePath, readable
from tokenvault_sidecar.config.problems import reject
from tokenvault_sidecar.config.tables import Table
from tokenvault_sidecar.config.values import TcpAddress

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_PATH = re.compile(r"(?:/(?:\{brand\}|[A-Za-z0-9._~-]+))+")
_LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3
_LARGEST_LOGO = 64 * 1024
_LOGO_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".webp": "image/webp", ".jpg": "image/jpeg"}


def _callback_path(value: str) -> str:
    if not _PATH.fullmatch(value) or value.count("{brand}") != 1:
        raise reject("is no path with one {brand} in it", 'write it as in "/callback/{brand}"')
    return value


def _color(value: str) -> str:
    if not _COLOR.fullmatch(value):
        raise reject("is no colour", 'write it as "#rrggbb"')
    return value.lower()


def _logo(value: object, info: ValidationInfo) -> str:
    path = readable(value, info)
    kind = _LOGO_TYPES.get(path.suffix.lower())
    if kind is None:
        raise reject("names no image", f"name a file that ends in {', '.join(_LOGO_TYPES)}")
    if path.stat().st_size > _LARGEST_LOGO:
        raise reject("is a large image", f"make it smaller: {_LARGEST_LOGO // 1024} KiB at most")
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


Color = Annotated[str, AfterValidator(_color)]
Logo = Annotated[str, PlainValidator(_logo)]


class CallbackTable(Table):
    """A port for consumers' browsers: it takes the redirect itself, and shows how it ended.

    Give each brand a redirect URI that leads here. Without this table whoever
    hosts the redirect URI calls CompleteDelegation.
    """

    listen: TcpAddress = Field(
        default="127.0.0.1:7481",
        description='Address: "host:port" (port 0: any free one).',
        examples=["127.0.0.1:7481"],
    )
    path: Annotated[str, AfterValidator(_callback_path)] = Field(
        default="/callback/{brand}",
        description="Its path; `{brand}` is the brand's id.",
        examples=["/callback/{brand}/redirectCode"],
    )
    certificate_file: File | None = Field(
        default=None,
        description="PEM file of the certificate chain browsers are shown. Unset: plain HTTP, for an ingress "
        "that ends TLS. Read anew when it changes.",
        examples=["callback.pem"],
    )
    private_key_file: PrivateFilePath | None = Field(
        default=None,
        description="PEM file of that certificate's private key, without passphrase.",
        examples=["callback.key.pem"],
    )

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """Certificate chain and key, where it is HTTPS by itself."""
        if self.certificate_file is None or self.private_key_file is None:
            return None
        return self.certificate_file, self.private_key_file.path


class PageTable(Table):
    """What consumers of this brand see when they come back to the callback port."""

    name: str | None = Field(
        default=None,
        description="The brand's name in the consumer's words. Unset: its id.",
        min_length=1,
        max_length=80,
        examples=["Acme Stores"],
    )
    logo_file: Logo | None = Field(
        default=None,
        description="An image for the top of the page: PNG, SVG, WebP or JPEG, 64 KiB at most.",
        examples=["acme.svg"],
        repr=False,
    )
    text_color: Color = Field(default="#1b1b1f", description="The text's colour.", examples=["#1b1b1f"])
    background_color: Color = Field(default="#ffffff", description="The page's colour.", examples=["#ffffff"])
    accent_color: Color = Field(
        default="#1b1b1f",
        description="The colour of the brand's name and of the line above.",
        examples=["#0b5cad"],
    )
    scopes: dict[str, str] = Field(
        default={},
        description='What a scope allows, in the consumer\'s words: "" hides it. Unset: the scope itself.',
        examples=[{"orders:read": "See your orders"}],
    )

    @model_validator(mode="after")
    def _readable(self) -> "PageTable":
        for key in ("text_color", "accent_color"):
            if _contrast(getattr(self, key), self.background_color) < _LEAST_CONTRAST:
                what = f"has a {key} that many cannot read on its background_color"
                raise reject(what, f"choose two with a contrast of {_LEAST_CONTRAST}:1 or more (WCAG AA)")
        return self


def _contrast(one: str, other: str) -> float:
    """From 1 to 21, as WCAG 2.2 defines it."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
