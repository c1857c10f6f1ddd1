"""Test which device the fixtures connect to, and that the connection ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from lab_for_plugin import CONFIG, Run, lab

USES = "def test_it(device): assert device.power.call('on') == 'on'"


def lines_of(result: pytest.RunResult, text: str) -> list[str]:
    return [line for line in result.outlines if text in line]


def test_the_device_is_at_the_address_of_the_option(run_pytest: Run, lab_address: str) -> None:
    result = run_pytest(USES, "--jumpstarter", lab_address)
    result.assert_outcomes(passed=1)
    assert lines_of(result, "jumpstarter: unix:") == [f"jumpstarter: {lab_address}"]


def test_all_tests_of_a_run_share_one_connection(run_pytest: Run, lab_address: str) -> None:
    source = """
    seen = []
    def test_one(device): seen.append(device)
    def test_two(device): assert seen == [device]
    """
    run_pytest(source, f"--jumpstarter={lab_address}").assert_outcomes(passed=2)


def test_without_workers_the_first_of_several_addresses_counts(
    run_pytest: Run, lab_address: str
) -> None:
    run_pytest(USES, "--jumpstarter", f"{lab_address},unix:/nowhere").assert_outcomes(passed=1)


def test_the_device_is_at_the_address_of_the_environment(
    run_pytest: Run, lab_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", lab_address.removeprefix("unix:"))
    result = run_pytest(USES)
    result.assert_outcomes(passed=1)
    assert lines_of(result, "jumpstarter:") == []


def test_the_option_counts_more_than_the_environment_and_that_more_than_the_ini_file(
    run_pytest: Run, lab_address: str, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    pytester.makeini("[pytest]\njumpstarter = unix:/of-the-ini-file")
    monkeypatch.setenv("JUMPSTARTER_HOST", "unix:/of-the-environment")
    run_pytest(USES, "--jumpstarter", lab_address).assert_outcomes(passed=1)
    (line,) = lines_of(run_pytest(USES), "no connection")
    assert "unix:/of-the-environment" in line
    monkeypatch.delenv("JUMPSTARTER_HOST")
    (line,) = lines_of(run_pytest(USES), "no connection")
    assert "unix:/of-the-ini-file" in line


def test_the_device_is_at_the_address_of_the_ini_file(
    run_pytest: Run, lab_address: str, pytester: pytest.Pytester
) -> None:
    pytester.makeini(
        f"[pytest]\njumpstarter = {lab_address}\njumpstarter_allow = lab_for_plugin.*\n"
    )
    source = "def test_it(device): assert type(device.power).__name__ == 'PowerClient'"
    run_pytest(source).assert_outcomes(passed=1)


def test_a_configuration_is_served_in_the_process(
    run_pytest: Run, pytester: pytest.Pytester
) -> None:
    pytester.path.joinpath("bench.yaml").write_text(CONFIG)
    source = """
    def test_it(device):
        assert device.power.on() == "on"
        assert device.channel.channel.name.startswith("unix:")
    """
    run_pytest(source, "--jumpstarter-config", "bench.yaml").assert_outcomes(passed=1)


def test_a_configuration_of_the_ini_file_is_found_beside_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.path.joinpath("bench.yaml").write_text(CONFIG)
    pytester.makeini("[pytest]\njumpstarter_config = bench.yaml\n")
    below = pytester.mkdir("below")
    path = pytester.makepyfile(USES)
    path.rename(below / "test_below.py")
    monkeypatch.chdir(below)
    options = ("-p", "no:cacheprovider", "-p", "no:asyncio")
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=1)


def test_tls_with_a_token(run_pytest: Run, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, both, token = tmp_path / "ca.pem", tmp_path / "both.pem", tmp_path / "token"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(both)
    token.write_text("0123456789abcdef0123456789abcdef\n")
    token.chmod(0o600)
    server = ("--address", "tls://localhost:0", "--tls-cert", both, "--token-file", token)
    with lab(tmp_path, *map(str, server)) as process:
        options = ["--jumpstarter", process.address, "--jumpstarter-tls-ca", ca]
        run_pytest(USES, *options, "--jumpstarter-token-file", token).assert_outcomes(passed=1)
        line = only_line(run_pytest(USES, *options))
    assert line.startswith("no connection to the device: ")
    assert "Does it ask for a token" in line


def test_an_exporter_that_asks_for_a_certificate_gets_one(
    run_pytest: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    ca, both, own = tmp_path / "ca.pem", tmp_path / "both.pem", tmp_path / "own.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(both)
    authority.issue_cert("test@lab").private_key_and_cert_chain_pem.write_to_path(own)
    server = ("--address", "tls://localhost:0", "--tls-cert", both, "--tls-client-ca", ca)
    with lab(tmp_path, *map(str, server)) as process:
        options = ["--jumpstarter", process.address, "--jumpstarter-tls-ca", ca]
        run_pytest(USES, *options, "--jumpstarter-tls-cert", own).assert_outcomes(passed=1)
        # As `jumpstarter shell` hands it to the programs in it.
        monkeypatch.setenv("JUMPSTARTER_HOST", process.address)
        monkeypatch.setenv("JMP_TLS_CA", str(ca))
        monkeypatch.setenv("JMP_TLS_CERT", str(own))
        run_pytest(USES).assert_outcomes(passed=1)


def test_client_classes_are_imported_if_a_pattern_allows_it(
    run_pytest: Run, lab_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def test_it(device): assert type(device.power).__name__ == 'PowerClient'"
    options = ("--jumpstarter", lab_address)
    run_pytest(source, *options).assert_outcomes(failed=1)
    run_pytest(source, *options, "--jumpstarter-allow=other.*,lab_for_plugin.*").assert_outcomes(
        passed=1
    )
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "UNSAFE")
    run_pytest(source, *options).assert_outcomes(passed=1)


# ------------------------------------------------------------------------------------- mistakes


def only_line(result: pytest.RunResult) -> str:
    """Return the error of a run with one test, and check that it is one line without frames."""
    result.assert_outcomes(errors=1)
    lines = result.outlines
    begin = next(n for n, line in enumerate(lines) if "ERROR at setup of test_it" in line)
    end = next(n for n, line in enumerate(lines) if "short test summary" in line)
    body = [line for line in lines[begin + 1 : end] if line]
    assert len(body) == 1, body
    return body[0]


def test_a_test_without_a_device_says_how_to_give_one(run_pytest: Run) -> None:
    line = only_line(run_pytest(USES))
    assert line.startswith("the test needs a device: give --jumpstarter ADDRESS or")


def test_an_exporter_that_is_not_there_is_one_line(run_pytest: Run) -> None:
    line = only_line(run_pytest(USES, "--jumpstarter", "unix:/no/such/socket"))
    assert line.startswith("no connection to the device: ")
    assert "unix:/no/such/socket" in line


@pytest.mark.parametrize("option", ["token-file", "tls-ca", "tls-cert"])
def test_a_file_that_is_not_there_is_one_line(run_pytest: Run, option: str) -> None:
    options = ("--jumpstarter=tls://localhost:1", f"--jumpstarter-{option}=/no/such/file")
    line = only_line(run_pytest(USES, *options))
    assert line.startswith("tls://localhost:1, which --jumpstarter names: ")
    assert "No such file" in line


def test_a_configuration_with_a_fault_is_one_line(
    run_pytest: Run, pytester: pytest.Pytester
) -> None:
    path = pytester.path / "bench.yaml"
    path.write_text(CONFIG.replace("lab_for_plugin.Power", "no_such_package.Power"))
    line = only_line(run_pytest(USES, "--jumpstarter-config", path))
    assert line.startswith(f"{path}, which --jumpstarter-config names: ")
    assert "no_such_package" in line


def test_an_address_and_a_configuration_exclude_each_other(
    run_pytest: Run, pytester: pytest.Pytester
) -> None:
    result = run_pytest(USES, "--jumpstarter=unix:/x", "--jumpstarter-config=x.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "give either --jumpstarter or --jumpstarter-config" in result.stderr.str()
    pytester.makeini("[pytest]\njumpstarter = unix:/x\njumpstarter_config = x.yaml\n")
    assert "both jumpstarter and jumpstarter_config" in only_line(run_pytest(USES))


# ----------------------------------------------------------------------------------- the end


def test_the_connection_ends_after_ctrl_c(run_pytest: Run, lab_address: str) -> None:
    """The fixture of all our tests finds the connection if it is left open."""
    source = """
    import os, signal
    def test_it(device):
        device.power.call("on")
        os.kill(os.getpid(), signal.SIGINT)
    """
    result = run_pytest(source, "--jumpstarter", lab_address)
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_the_connection_ends_if_the_run_stops_at_a_failure(
    run_pytest: Run, lab_address: str
) -> None:
    source = "def test_it(device): assert False\ndef test_other(device): ..."
    run_pytest(source, "-x", "--jumpstarter", lab_address).assert_outcomes(failed=1)


def test_tests_fail_fast_once_the_exporter_has_died(run_pytest: Run, tmp_path: Path) -> None:
    source = """
    def test_before(device): device.power.call("on")
    def test_it(device): device.power.call("die")
    def test_other(device): device.power.call("on")
    def test_without(): pass
    """
    with lab(tmp_path) as process:
        result = run_pytest(source, "--jumpstarter", process.address)
    result.assert_outcomes(passed=2, failed=1, errors=1)
    (line,) = lines_of(result, "the connection to the device was lost")
    assert "::test_it: " in line
    assert line.endswith("; start the exporter again, and repeat the run")


# --------------------------------------------------------------------------------- for trio code


def test_a_trio_test_has_a_connection_in_its_own_loop(run_pytest: Run, lab_address: str) -> None:
    source = """
    import pytest, trio
    @pytest.mark.trio
    async def test_it(device_async):
        with trio.fail_after(30):
            assert await device_async.power.call_async("on") == "on"
            async with device_async.serial.console.stream_async() as stream:
                await stream.receive_some()
        assert False, "to see the report"
    @pytest.mark.trio
    async def test_both(device, device_async):
        assert await device_async.power.call_async("on") == "on"
        assert False, "to see the report"
    """
    result = run_pytest(source, "--jumpstarter", lab_address)
    result.assert_outcomes(failed=2)
    assert lines_of(result, "< login: ") == ["< login: "]
    assert len(lines_of(result, "WARNING driver.Power: the relay clicks")) == 2


def test_a_trio_test_without_an_exporter_fails_in_one_line(run_pytest: Run) -> None:
    source = """
    import pytest
    @pytest.mark.trio
    async def test_it(device_async): pass
    """
    result = run_pytest(source, "--jumpstarter", "unix:/no/such/socket")
    assert len(lines_of(result, "no connection to the device: ")) >= 1
    assert lines_of(result, "src/jumpstarter") == []
