"""Test that each worker of pytest-xdist has a device of its own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from lab_for_plugin import Run, lab

USES = "def test_it(device): device.power.call('on')"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with lab(tmp_path_factory.mktemp("a")) as one, lab(tmp_path_factory.mktemp("b")) as two:
        yield [one.address, two.address]


def test_each_worker_has_its_own_device_and_its_own_files(
    run_pytest: Run, addresses: list[str], pytester: pytest.Pytester
) -> None:
    options = ("-n2", "--dist=each", "--jumpstarter", ",".join(addresses))
    outputs = ("--jumpstarter-log", "logs", "--junit-xml", "x.xml")
    run_pytest(USES, *options, *outputs).assert_outcomes(passed=2)
    tests = ET.parse(pytester.path / "x.xml").getroot().iter("testcase")  # noqa: S314 - our own
    found = [
        {each.attrib["name"]: each.attrib["value"] for each in test.iter("property")}
        for test in tests
    ]
    assert sorted(each["jumpstarter.address"] for each in found) == sorted(addresses)
    files = sorted((pytester.path / "logs").iterdir())
    assert [each.name.rpartition("-")[2] for each in files] == [
        "test_it.gw0.log",
        "test_it.gw1.log",
    ]
    assert sorted(each["jumpstarter.log"] for each in found) == [str(each) for each in files]
    for file in files:
        assert file.read_text().count("the relay clicks") == 1


def test_a_failure_in_a_worker_shows_the_console(run_pytest: Run, addresses: list[str]) -> None:
    source = """
    def test_it(device):
        with device.serial.console.stream() as stream:
            stream.receive()
            assert False
    """
    text = run_pytest(source, "-n1", "--jumpstarter", addresses[0]).stdout.str()
    assert "< bad \\xff\\xfe bytes" in text


def test_an_ini_file_that_contradicts_itself_is_refused(
    run_pytest: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeini("[pytest]\njumpstarter = unix:/x\njumpstarter_config = x.yaml\n")
    result = run_pytest(USES, "-n1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "both jumpstarter and jumpstarter_config" in result.stderr.str()


def test_more_workers_than_devices_are_refused(run_pytest: Run, addresses: list[str]) -> None:
    result = run_pytest(
        USES, "-n3", f"--jumpstarter={addresses[0]}", f"--jumpstarter={addresses[1]}"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "--jumpstarter names 2 devices, and pytest-xdist starts 3 workers, which need one each"
    assert f"{text}: use -n 2 at most, or name more devices" in result.stderr.str()


def test_devices_of_the_environment_disturb_only_the_tests_that_need_them(
    run_pytest: Run, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", addresses[0])
    source = f"{USES}\ndef test_other(): pass"
    result = run_pytest(source, "-n2", "--dist=each")
    result.assert_outcomes(passed=3, errors=1)
    text = "JUMPSTARTER_HOST names 1 device, and pytest-xdist starts 2 workers, which need one each"
    assert f"{text}: use -n 1 at most" in result.stdout.str()


def test_a_worker_that_replaces_a_crashed_one_gets_its_device(
    run_pytest: Run, addresses: list[str]
) -> None:
    source = """
    import os
    def test_crash(device): os._exit(1)
    def test_it(device): device.power.call("on")
    """
    result = run_pytest(source, "-n1", "--jumpstarter", addresses[0])
    result.assert_outcomes(passed=1, failed=1)
    assert re.search(r"worker 'gw0' crashed", result.stdout.str())


def test_without_a_device_the_tests_that_need_none_pass(run_pytest: Run) -> None:
    run_pytest("def test_other(): pass", "-n1").assert_outcomes(passed=1)
