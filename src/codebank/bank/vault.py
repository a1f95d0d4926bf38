"""The vault: the only place where a card number is kept, and the only one that can read it.

A number is sealed with AES-256-GCM, bound to its card's id; it is found by a keyed MAC; its CVV is computed, never
kept. The three keys are derived from the vault's one key (HKDF, RFC 5869).
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from codebank.card import brand_of
from codebank.errors import Code, CodebankError

#: Written in front of every sealed number, so that a later key can tell which ones are still under the first.
_KEY_ID: Final = b"\x01"
_NONCE_BYTES: Final = 12


@dataclass
class Vault:
    """Seals, finds and verifies cards with one key of 64 hexadecimal digits."""

    key_text: str
    _aead: AESGCM = field(init=False, repr=False)
    #: Keyed already: making one for each message would cost more than the rest of it.
    _fingerprint_mac: hmac.HMAC = field(init=False, repr=False)
    _cvv_mac: hmac.HMAC = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            key = bytes.fromhex(self.key_text)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise CodebankError(
                Code.FAILED_PRECONDITION,
                "the vault's key must be 64 hexadecimal digits",
                hint="set CODEBANK_VAULT_KEY to the key that this bank's cards were sealed with",
            )
        self._aead = AESGCM(_derive(key, b"seal"))
        self._fingerprint_mac = hmac.new(_derive(key, b"fingerprint"), digestmod="sha256")
        self._cvv_mac = hmac.new(_derive(key, b"cvv"), digestmod="sha256")

    def __repr__(self) -> str:
        return "Vault(…)"

    def seal(self, number: str, card_id: UUID) -> bytes:
        """Encrypt a number for one card; only with the same card's id can it be opened."""
        nonce = os.urandom(_NONCE_BYTES)
        return _KEY_ID + nonce + self._aead.encrypt(nonce, number.encode(), card_id.bytes)

    def open(self, sealed: bytes, card_id: UUID) -> str:
        """Decrypt a number. Raises CodebankError when it was sealed for another card or with another key."""
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._aead.decrypt(nonce, body, card_id.bytes).decode()
        except InvalidTag:
            raise CodebankError(Code.INTERNAL, "a sealed number does not open with this vault's key") from None

    def fingerprint(self, number: str) -> bytes:
        """Give the keyed MAC by which a number is found (HMAC-SHA-256)."""
        return _digest(self._fingerprint_mac, number.encode())

    def cvv(self, number: str, expiry_year: int, expiry_month: int) -> str:
        """Compute the CVV of a number and expiry: the decimal digits of a keyed MAC."""
        mac = _digest(self._cvv_mac, f"{number}|{expiry_year:04d}{expiry_month:02d}".encode())
        digits = 4 if brand_of(number) == "amex" else 3
        return f"{int.from_bytes(mac[:8]) % 10**digits:0{digits}d}"

    def cvv_fits(self, cvv: str, number: str, expiry_year: int, expiry_month: int) -> bool:
        """Tell whether a CVV is the number's, in constant time."""
        return hmac.compare_digest(cvv.encode(), self.cvv(number, expiry_year, expiry_month).encode())

    def request_mac(self, text: str) -> bytes:
        """Give a keyed MAC of a request, so that its hash tells nothing of the card in it."""
        return _digest(self._fingerprint_mac, b"request|" + text.encode())


def _digest(keyed: hmac.HMAC, message: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(message)
    return mac.digest()


def _derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"codebank vault " + purpose).derive(key)
