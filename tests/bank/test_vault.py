"""The vault: numbers are sealed, found by a keyed MAC, and verified without keeping a CVV."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codebank.bank.vault import Vault
from codebank.errors import Code, CodebankError

KEY, OTHER_KEY = "5a" * 32, "5b" * 32
NUMBER = "4000001000000010"
CARD = UUID(int=1)
numbers = st.text("0123456789", min_size=12, max_size=19)


@given(numbers)
@settings(max_examples=30, deadline=None)
def test_a_sealed_number_opens_for_its_card(number: str) -> None:
    vault = Vault(KEY)

    sealed = vault.seal(number, CARD)

    assert vault.open(sealed, CARD) == number
    assert number.encode() not in sealed


def test_a_number_sealed_twice_looks_different() -> None:
    assert Vault(KEY).seal(NUMBER, CARD) != Vault(KEY).seal(NUMBER, CARD)


def test_a_sealed_number_opens_for_no_other_card_and_with_no_other_key() -> None:
    sealed = Vault(KEY).seal(NUMBER, CARD)

    for vault, card in ((Vault(KEY), UUID(int=2)), (Vault(OTHER_KEY), CARD)):
        with pytest.raises(CodebankError, match="does not open") as caught:
            vault.open(sealed, card)
        assert caught.value.code is Code.INTERNAL
        assert NUMBER not in str(caught.value)


def test_a_changed_byte_does_not_open() -> None:
    sealed = bytearray(Vault(KEY).seal(NUMBER, CARD))
    sealed[-1] ^= 1

    with pytest.raises(CodebankError, match="does not open"):
        Vault(KEY).open(bytes(sealed), CARD)


def test_a_fingerprint_is_the_numbers_and_the_keys() -> None:
    vault = Vault(KEY)

    assert vault.fingerprint(NUMBER) == Vault(KEY).fingerprint(NUMBER)
    assert len(vault.fingerprint(NUMBER)) == 32
    assert vault.fingerprint(NUMBER) != vault.fingerprint("4000001000000028")
    assert vault.fingerprint(NUMBER) != Vault(OTHER_KEY).fingerprint(NUMBER)
    assert vault.fingerprint(NUMBER) != vault.request_mac(NUMBER)


@given(numbers, st.integers(2000, 2099), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_a_cvv_fits_its_number_and_expiry(number: str, year: int, month: int) -> None:
    vault = Vault(KEY)

    cvv = vault.cvv(number, year, month)

    assert cvv.isdigit()
    assert len(cvv) == (4 if number[:2] in {"34", "37"} else 3)
    assert vault.cvv_fits(cvv, number, year, month)


def test_trap_b05_a_cvv_keeps_its_leading_zero() -> None:
    vault = Vault(KEY)
    number = next(text for text in map(str, range(10**15, 10**15 + 500)) if vault.cvv(text, 2030, 1).startswith("0"))
    cvv = vault.cvv(number, 2030, 1)

    assert vault.cvv_fits(cvv, number, 2030, 1)
    assert not vault.cvv_fits(cvv[1:], number, 2030, 1)
    assert not vault.cvv_fits("0" + cvv, number, 2030, 1)


def test_one_cvv_of_a_thousand_fits() -> None:
    vault = Vault(KEY)

    assert [f"{n:03d}" for n in range(1000) if vault.cvv_fits(f"{n:03d}", NUMBER, 2034, 12)] == [
        vault.cvv(NUMBER, 2034, 12)
    ]


@pytest.mark.parametrize("key", ["", "5a", "5a" * 31, "5a" * 33, "zz" * 32, "não" * 20])
def test_trap_b09_a_missing_or_wrong_key_is_refused_before_the_first_payment(key: str) -> None:
    with pytest.raises(CodebankError, match="64 hexadecimal digits") as caught:
        Vault(key)

    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "CODEBANK_VAULT_KEY" in caught.value.hint
    assert not key or key not in str(caught.value)


def test_a_vault_does_not_show_its_key() -> None:
    assert KEY not in repr(Vault(KEY))
