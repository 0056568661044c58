"""Settings: what wins over what, and what a wrong one is answered with."""

from pathlib import Path

import pytest

from config.errors import ConfigError
from config.settings import SHAPES, Settings, load, variables

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("T2M_CONFIG", *variables()):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a settings file and put it in force."""

    def write(text: str) -> Path:
        path = tmp_path / "t2m.toml"
        path.write_text(text)
        monkeypatch.setenv("T2M_CONFIG", str(path))
        return path

    return write


def refusal(**overrides: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_option_that_was_not_given_overrides_nothing(toml, tmp_path):
    toml(f'data_dir = "{tmp_path}"')
    assert load(data_dir=None).data_dir == tmp_path


def test_the_shipped_shapes_load(monkeypatch):
    assert load().embedded
    monkeypatch.setenv("T2M_CONFIG", "production")
    production = load()
    assert not production.embedded
    assert (production.store.kind, production.store.endpoint) == ("s3", "s3:8333")
    assert production.database_url.startswith("postgresql+asyncpg://")
    assert production.redis.url.get_secret_value().startswith("redis://")


def test_the_embedded_file_is_the_default():
    assert load().log.format == "console"


def test_overrides_win_over_the_environment_which_wins_over_the_file(toml, monkeypatch):
    toml("[worker]\nmetrics_port = 1\ngrace_s = 1\nhang_s = 1")
    monkeypatch.setenv("T2M_WORKER__GRACE_S", "2")
    monkeypatch.setenv("T2M_WORKER__HANG_S", "2")
    worker = load(worker={"hang_s": 3}).worker
    assert (worker.metrics_port, worker.grace_s, worker.hang_s) == (1, 2, 3)
    assert worker.heartbeat_s == Settings.model_fields["worker"].default.heartbeat_s


def test_variables_lists_every_nested_key():
    assert {"T2M_DATA_DIR", "T2M_BROKER", "T2M_BROKER__URL", "T2M_GATEWAY__TRUSTED_PROXIES"} <= set(variables())


@pytest.mark.parametrize(
    ("text", "named", "accepted"),
    [
        ("datadir = 'x'", "datadir", "data_dir"),
        ("[broker]\nuri = 'x'", "broker.uri", "url, queue_type"),
        ("[brokr]\nurl = 'x'", "brokr", "broker"),
        ("[broker]\nqueue_type = 'odd'", "broker.queue_type", "'classic' or 'quorum'"),
        ("[worker]\ngrace_s = 0", "worker.grace_s", "greater than 0"),
        ("[gateway]\nport = 70000", "gateway.port", "65535"),
        ("[gateway]\npublic_url = 'video.example.com'", "gateway.public_url", "valid URL"),
        ("[gateway]\ntrusted_proxies = ['10.0.0.0/99']", "gateway.trusted_proxies.0", "network"),
        ("[gateway]\nroles = ['api', 'cook']", "gateway.roles.1", "'projector'"),
        ("[store]\nkind = 's3'", "store", "`endpoint`"),
        ("[store]\nkind = 's3'\nendpoint = 'https://s3:8333'", "store.endpoint", "host:port"),
        ("[store]\naccess_key = 'only'", "store", "`secret_key`"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name_with_what_is_accepted(toml, text, named, accepted):
    path = toml(text)
    message = refusal()
    assert f"{named}:" in message
    assert accepted in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("section", "accepted"),
    [("broker", "amqp://"), ("database", "postgresql+asyncpg://"), ("redis", "redis://")],
)
def test_a_wrong_secret_is_never_repeated(monkeypatch, section, accepted):
    monkeypatch.setenv(f"T2M_{section.upper()}__URL", f"http://user:{SECRET}@host/")
    message = refusal()
    assert f"{section}.url: a URL must start with" in message
    assert accepted in message
    assert SECRET not in message


def test_secrets_are_not_shown(monkeypatch):
    monkeypatch.setenv("T2M_BROKER__URL", f"amqp://user:{SECRET}@host/")
    settings = load(store={"access_key": SECRET, "secret_key": SECRET})
    assert settings.broker.url.get_secret_value().endswith("@host/")
    assert SECRET not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("T2M_BROKER__ULR", "T2M_BROKER__URL"),
        ("T2M_BROKR__URL", "T2M_BROKER__URL"),
        ("T2M_DATADIR", "T2M_DATA_DIR"),
        ("t2m_worker__grace", "T2M_WORKER__GRACE_S"),
        ("T2M_BROKER__URL__X", "T2M_BROKER__URL"),
        ("T2M_QQQ", "config show"),
    ],
)
def test_an_unknown_environment_variable_is_refused_by_name(monkeypatch, name, hint):
    monkeypatch.setenv(name, SECRET)
    message = refusal()
    assert name.upper() in message
    assert hint in message
    assert SECRET not in message


def test_a_list_that_is_no_json_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("T2M_GATEWAY__ROLES", f"api,{SECRET}")
    message = refusal()
    assert "T2M_GATEWAY__ROLES" in message
    assert "JSON" in message
    assert SECRET not in message


def test_a_list_and_a_network_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("T2M_GATEWAY__ROLES", '["api"]')
    monkeypatch.setenv("T2M_GATEWAY__TRUSTED_PROXIES", '["10.0.0.0/8", "::1/128"]')
    monkeypatch.setenv("T2M_GATEWAY__PUBLIC_URL", "https://video.example.com/t2m")
    gateway = load().gateway
    assert gateway.roles == ("api",)
    assert [str(network) for network in gateway.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert str(gateway.public_url) == "https://video.example.com/t2m"


def test_broken_toml_is_one_line_with_the_place(toml):
    path = toml("[broker\nurl = 1")
    message = refusal()
    assert "line 1" in message
    assert str(path) in message


def test_a_missing_file_is_refused_and_the_shapes_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("T2M_CONFIG", str(tmp_path / "none.toml"))
    message = refusal()
    assert "none.toml" in message
    assert all(shape in message for shape in SHAPES)


def test_a_wrong_override_is_refused_by_name():
    assert "there is no such setting; there are data_dir, broker" in refusal(qeues=["x"])
