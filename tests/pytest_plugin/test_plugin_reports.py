"""Test what the report of a failed test contains, and the files of `--jumpstarter-log`."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lab_for_plugin import CONFIG, Run

# Each of these fails in the line with the comment, by code of this library or below it.
FAILURES = """
import socket
import pytest

def test_driver_error(device):
    device.power.call("burn")  # here

def test_timeout(device):
    with device.timeout(0.2):
        device.power.call("hang")  # here

def test_timeout_of_a_stream(device):
    with device.serial.console.stream() as stream, device.timeout(0.5):
        while True:
            stream.receive()  # here

def test_pexpect(device):
    with device.serial.console.pexpect(timeout=0.5) as console:
        console.expect("login: ")
        console.expect("never")  # here

def test_eof(device):
    with device.serial.console.stream() as stream:
        stream.send_eof()
        while True:
            stream.receive()  # here

def test_no_such_stream(device):
    device.power.open_stream("on")  # here

@pytest.mark.trio
async def test_async(device_async):
    await device_async.power.call_async("burn")  # here

def test_lost(device):
    device.power.call("die")  # here
"""


def section(text: str, title: str) -> list[str]:
    """Return the lines of a section of a report."""
    found = re.findall(rf"^-+ {title} -+\n((?:(?![-_=]{{4,}}).*\n)*)", text, re.MULTILINE)
    assert len(found) == 1, text
    return str(found[0]).splitlines()


def failures_of(result: pytest.RunResult) -> dict[str, str]:
    """Return the text of each failure, by the name of the test."""
    text = result.stdout.str().partition("= short test summary")[0]
    parts = re.split(r"^_{3,} (\w+) _{3,}$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# ----------------------------------------------------------------------------------- the frames


@pytest.mark.parametrize("style", ["auto", "long", "short", "native"])
def test_a_failure_shows_the_lines_of_the_test_only(
    run_pytest: Run, lab_process: str, style: str
) -> None:
    result = run_pytest(FAILURES, f"--tb={style}", "--jumpstarter", lab_process)
    failures = failures_of(result)
    assert sorted(failures) == sorted(re.findall(r"def (test_\w+)", FAILURES))
    for name, report in failures.items():
        text = re.split(r"^-{4,} ", report, flags=re.MULTILINE)[0]  # without the sections
        assert "# here" in text, text
        places = re.findall(r'^(?:[ |]*File "(\S+)", line|(\S+\.py):\d+: )', text, re.MULTILINE)
        files = {native or other for native, other in places}
        # With --tb=native, pytest's own frames stay.
        shown = {each for each in files if not re.search("/(_pytest|pluggy|pytest_trio)/", each)}
        (only,) = {Path(each).name for each in shown}
        assert only == "test_a_failure_shows_the_lines_of_the_test_only.py", f"{name}: {text}"


def test_full_trace_shows_all_frames(run_pytest: Run, lab_address: str) -> None:
    result = run_pytest(FAILURES, "--full-trace", "-k", "pexpect", "--jumpstarter", lab_address)
    assert "pexpect/expect.py" in result.stdout.str()


def test_the_causes_and_members_of_an_error_show_no_frames_of_libraries(
    run_pytest: Run, lab_address: str
) -> None:
    source = """
    def test_it(device):
        try:
            device.power.call("burn")
        except ValueError as exc:
            raise ExceptionGroup("two", [RuntimeError("one"), exc]) from exc
    """
    text = run_pytest(source, "--tb=native", "--jumpstarter", lab_address).stdout.str()
    assert "RuntimeError: one" in text
    assert "/src/jumpstarter/" not in text


def test_a_test_without_the_device_keeps_its_frames(run_pytest: Run, lab_address: str) -> None:
    source = """
    from pathlib import Path
    import trio
    def test_other(device): pass
    def test_it(): trio.run(trio.Path("/no/such/file").read_text)
    """
    text = run_pytest(source, "--tb=native", "--jumpstarter", lab_address).stdout.str()
    assert "/trio/_core/_run.py" in text


# -------------------------------------------------------------------- the console and the log


def test_a_failure_shows_the_console_and_the_exporters_log(
    run_pytest: Run, lab_address: str
) -> None:
    source = """
    def test_before(device):
        device.power.on()
    def test_it(device):
        with device.serial.console.pexpect(timeout=30) as console:
            console.expect("login: ")
            console.sendline("root")
            console.expect("root")
            device.power.on()
            assert False
    """
    options = ("--jumpstarter", lab_address, "--jumpstarter-allow", "*")
    text = run_pytest(source, *options).stdout.str()
    assert section(text, "console serial.console") == [
        r"< \x1b[31mred\x1b[0m alert",
        r"< bad \xff\xfe bytes",
        "< login: ",
        "> root",
        "< root",
    ]
    assert section(text, "exporter log") == ["WARNING driver.Power: the relay clicks"]


def test_the_log_of_an_exporter_in_the_process_is_that_of_its_drivers(
    run_pytest: Run, pytester: pytest.Pytester
) -> None:
    pytester.path.joinpath("bench.yaml").write_text(CONFIG)
    source = """
    import logging
    def test_it(device):
        logging.getLogger("mine").warning("the test's own")
        device.power.on()
        assert False
    """
    text = run_pytest(source, "--jumpstarter-config", "bench.yaml").stdout.str()
    assert section(text, "exporter log") == ["WARNING driver.Power: the relay clicks"]


def test_a_passed_test_shows_neither(run_pytest: Run, lab_address: str) -> None:
    source = """
    def test_it(device):
        device.power.call("on")
        with device.serial.console.stream() as stream:
            stream.receive()
    """
    text = run_pytest(source, "-rA", "--jumpstarter", lab_address).stdout.str()
    assert "1 passed" in text
    assert "console serial.console" not in text
    assert "the relay clicks" not in text


def test_each_test_has_its_own(run_pytest: Run, lab_address: str) -> None:
    source = """
    import pytest
    @pytest.mark.parametrize("number", range(5))
    def test_it(device, number):
        device.power.call("say", f"this is test {number}")
        with device.serial.console.stream() as stream:
            stream.send(b"input of %d\\n" % number)
        assert False
    """
    result = run_pytest(source, "--jumpstarter", lab_address)
    failures = re.split(r"^_{3,} test_it\[", result.stdout.str(), flags=re.MULTILINE)[1:]
    assert len(failures) == 5
    for number, text in enumerate(failures):
        assert re.findall(r"driver.Power: this is test (\d)", text) == [str(number)]
        assert re.findall(r"> input of (\d)", text) == [str(number)]


def test_setup_and_teardown_have_sections_too(run_pytest: Run, lab_address: str) -> None:
    source = """
    import pytest
    @pytest.fixture
    def before(device):
        device.power.call("say", "in the setup")
        raise RuntimeError
    @pytest.fixture
    def after(device):
        yield
        device.power.call("say", "in the teardown")
        raise RuntimeError
    def test_one(before): pass
    def test_two(after): assert False
    """
    result = run_pytest(source, "--jumpstarter", lab_address)
    result.assert_outcomes(failed=1, errors=2)
    text = result.stdout.str()
    assert text.count("driver.Power: in the setup") == 1
    assert text.count("driver.Power: in the teardown") == 1


def test_only_the_last_lines_are_shown(run_pytest: Run, lab_address: str) -> None:
    source = """
    def test_it(device):
        with device.serial.console.stream() as stream:
            stream.send(b"".join(b"%d\\n" % n for n in range(1000)))
            text = b""
            while not text.endswith(b"\\n999\\r\\n"):
                text += stream.receive()
            assert False, "to see the report"
    """
    text = run_pytest(source, "--jumpstarter", lab_address).stdout.str()
    first, *lines = section(text, "console serial.console")
    assert re.fullmatch(r"\(the last 50 of \d+ lines\)", first)
    assert lines[-1] == "< 999"
    assert len(lines) == 50


def test_a_forwarded_port_is_no_console(run_pytest: Run, lab_address: str) -> None:
    source = """
    import socket
    def test_it(device):
        with device.serial.console.portforward() as (host, port):
            with socket.create_connection((host, port), timeout=30) as program:
                assert program.recv(1)
        with device.serial.console.stream() as stream:
            stream.receive()
        assert False, "to see the report"
    """
    text = run_pytest(source, "--jumpstarter", lab_address).stdout.str()
    assert text.count("< bad ") == 1


# ------------------------------------------------------------------------------------ the files


def test_each_test_that_uses_the_device_has_a_file(
    run_pytest: Run, lab_address: str, pytester: pytest.Pytester
) -> None:
    source = """
    import pytest
    class TestIt:
        @pytest.mark.parametrize("text", ["a", "b/../../c"])
        def test_it(self, device, text):
            device.power.call("say", text)
            with device.serial.console.stream() as stream:
                stream.receive()
    def test_other(): pass
    """
    options = ("--jumpstarter", lab_address, "--jumpstarter-log", "logs", "--junit-xml", "x.xml")
    run_pytest(source, *options).assert_outcomes(passed=3)
    module = "test_each_test_that_uses_the_device_has_a_file.py"
    first, second = sorted((pytester.path / "logs").iterdir())
    assert first.name == f"{module}-TestIt-test_it[a].log"
    assert second.name == f"{module}-TestIt-test_it[b-..-..-c].log"
    title, *lines = first.read_text().splitlines()
    assert title == f"# {module}::TestIt::test_it[a]"
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} \[", line) for line in lines)
    texts = [line.partition(" ")[2] for line in lines]
    assert "[exporter] WARNING driver.Power: a" in texts  # it may arrive after the console's
    assert r"[serial.console] < \x1b[31mred\x1b[0m alert" in texts
    tests = ET.parse(pytester.path / "x.xml").getroot().iter("testcase")  # noqa: S314 - our own
    found = [each.attrib for test in tests for each in test.iter("property")]
    logs = [each["value"] for each in found if each["name"] == "jumpstarter.log"]
    assert logs == [str(first), str(second)]


def test_names_that_are_long_or_alike_get_different_files(
    run_pytest: Run, lab_address: str, pytester: pytest.Pytester
) -> None:
    source = """
    import pytest
    @pytest.mark.parametrize("text", ["/", "//", "x" * 300 + "1", "x" * 300 + "2"])
    def test_it(device, text): pass
    """
    directory = pytester.path / "some" / "logs"
    run_pytest(source, "--jumpstarter", lab_address, "--jumpstarter-log", directory)
    files = list(directory.iterdir())
    assert len(files) == 4
    assert all(len(each.name) < 200 for each in files)


def test_a_directory_that_cannot_be_written_is_one_line(
    run_pytest: Run, lab_address: str, pytester: pytest.Pytester
) -> None:
    pytester.path.joinpath("file").touch()
    source = "def test_it(device): pass"
    options = ("--jumpstarter", lab_address, "--jumpstarter-log", "file/logs")
    result = run_pytest(source, *options)
    result.assert_outcomes(errors=1)
    assert "cannot write the log of this test: " in result.stdout.str()
    assert "src/jumpstarter" not in result.stdout.str()


# -------------------------------------------------------------------------------- the properties


def properties_of(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the properties of the run and those of its first test."""
    (suite,) = ET.parse(path).getroot().iter("testsuite")  # noqa: S314 - our own
    case = next(suite.iter("testcase"))
    both = [suite.findall("properties/property"), case.findall("properties/property")]
    run, test = ({each.attrib["name"]: each.attrib["value"] for each in part} for part in both)
    return run, test


def test_junit_xml_describes_the_exporter(
    run_pytest: Run, lab_address: str, pytester: pytest.Pytester
) -> None:
    source = "def test_it(device): pass\ndef test_other(): pass"
    run_pytest(source, "--jumpstarter", lab_address, "--junit-xml", "x.xml")
    run, test = properties_of(pytester.path / "x.xml")
    assert test == {
        "jumpstarter.exporter": lab_address,
        "jumpstarter.address": lab_address,
        "jumpstarter.description": "the shelf",
        "jumpstarter.label.board": "rpi4",
    }
    assert test.items() <= run.items()
    assert run["jumpstarter.driver.power"] == "lab_for_plugin.PowerClient"
    console = run["jumpstarter.driver.serial.console"]
    assert re.fullmatch(r"jumpstarter\.drivers\.network\.NetworkClient \d\S+", console)


def test_the_shell_names_the_exporter(
    run_pytest: Run, lab_address: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", lab_address)
    monkeypatch.setenv("JMP_EXPORTER", "bench-7")
    monkeypatch.setenv("JMP_EXPORTER_LABELS", "board=rpi5,rack=2")
    run_pytest("def test_it(device): pass", "--junit-xml", "x.xml")
    _, test = properties_of(pytester.path / "x.xml")
    assert test["jumpstarter.exporter"] == "bench-7"
    assert test["jumpstarter.label.board"] == "rpi5"
    assert test["jumpstarter.label.rack"] == "2"
