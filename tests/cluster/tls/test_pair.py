from __future__ import annotations

import ssl

import pytest

from cluster.errors import ConfigError
from cluster.tls.pair import CERTFILE, KEYFILE, KeyPair


def refused(pair: KeyPair, code: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        pair.check()
    assert caught.value.code == code
    return caught.value


def test_a_good_pair_tells_its_names_and_dates(authority):
    leaf = authority.issue("good", days=20).check()
    assert leaf.names == ("localhost", "127.0.0.1")
    assert leaf.begins < leaf.expires


def test_both_files_become_one_text_that_openssl_takes(authority, tmp_path):
    pair = authority.issue("good")
    pair.certfile.write_bytes(b"Bag Attributes: caf\xc3\xa9\n" + pair.certfile.read_bytes())
    combined = tmp_path / "combined.pem"
    combined.write_bytes(pair.read())
    assert combined.read_bytes().count(b"-----BEGIN CERTIFICATE-----") == 2
    assert b"\n\n" not in combined.read_bytes()
    assert b"Bag" not in combined.read_bytes()
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(combined)


def test_a_file_that_is_not_there_is_named(authority):
    pair = authority.issue("good")
    pair.keyfile.unlink()
    assert f"`{pair.keyfile}` cannot be read: No such file" in refused(pair, "tls.unreadable").message


def test_a_directory_in_the_place_of_a_file_is_named(authority, tmp_path):
    pair = KeyPair(tmp_path, authority.issue("good").keyfile)
    assert "directory" in refused(pair, "tls.unreadable").message


def test_the_key_of_another_certificate_is_refused(authority):
    one, other = authority.issue("one"), authority.issue("other")
    error = refused(KeyPair(one.certfile, other.keyfile), "tls.mismatch")
    assert str(other.keyfile) in error.message
    assert str(one.certfile) in error.message


def test_files_named_the_other_way_round_are_refused(authority):
    pair = authority.issue("good")
    assert str(pair.keyfile) in refused(KeyPair(pair.keyfile, pair.certfile), "tls.not_pem").message
    assert "private key" in refused(KeyPair(pair.certfile, pair.certfile), "tls.not_pem").message


def test_a_key_that_needs_a_passphrase_is_refused(authority):
    error = refused(authority.issue("hidden", passphrase=b"secret"), "tls.encrypted_key")
    assert "openssl pkey" in error.hint


def test_what_only_looks_like_a_certificate_is_refused(authority):
    pair = authority.issue("good")
    pair.certfile.write_text("-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n")
    refused(pair, "tls.unusable")


def test_a_certificate_that_has_expired_is_refused_with_its_dates(authority):
    assert "holds from" in refused(authority.issue("old", days=-1), "tls.expired").message


@pytest.mark.parametrize("given", [("a", None), (None, "a")])
def test_one_file_alone_is_refused(given):
    with pytest.raises(ConfigError) as caught:
        KeyPair.given(*given)
    assert caught.value.code == "tls.half"


def test_the_environment_names_both_or_neither():
    assert KeyPair.of({}) is None
    assert KeyPair.of({CERTFILE: "", KEYFILE: ""}) is None
    pair = KeyPair.given("c.pem", "k.pem")
    assert pair.certfile.is_absolute()
    assert KeyPair.of(pair.environment) == pair
