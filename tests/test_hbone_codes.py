"""The vocabulary of HTTP/2."""

from __future__ import annotations

import h2.errors
import h2.settings

from uproxy.hbone.codes import ErrorCode, Setting


def test_error_codes_are_those_of_h2() -> None:
    known = {code.name: int(code) for code in h2.errors.ErrorCodes}
    assert {code.name: code.value for code in ErrorCode} == known


def test_settings_are_those_of_h2() -> None:
    known = {code.name: int(code) for code in h2.settings.SettingCodes}
    assert {code.name: code.value for code in Setting} == known


def test_a_code_that_nobody_knows_is_an_internal_error() -> None:
    assert ErrorCode.of(8) is ErrorCode.CANCEL
    assert ErrorCode.of(0xFFFF) is ErrorCode.INTERNAL_ERROR
