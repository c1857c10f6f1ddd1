"""Test that the marker skips tests whose drivers the device lacks."""

from __future__ import annotations

import pytest

from lab_for_plugin import Run


def test_a_test_is_skipped_if_a_driver_is_missing(run_pytest: Run, lab_address: str) -> None:
    source = """
    import pytest
    @pytest.mark.jumpstarter(requires=["power", "gpio", "serial.console", "serial.usb"])
    def test_it(): raise AssertionError
    """
    result = run_pytest(source, "-rs", "--strict-markers", "--jumpstarter", lab_address)
    result.assert_outcomes(skipped=1)
    text = f"the exporter {lab_address} has no driver gpio and no driver serial.usb"
    result.stdout.fnmatch_lines([f"SKIPPED * test_a_test_is_skipped_*.py:2: {text}"])


def test_a_test_runs_if_all_drivers_are_there(run_pytest: Run, lab_address: str) -> None:
    source = """
    import pytest
    @pytest.mark.jumpstarter(requires=["power", "serial.console"])
    def test_it(device): device.power.call("on")
    @pytest.mark.jumpstarter(requires="power")
    def test_one(): pass
    """
    run_pytest(source, "--jumpstarter", lab_address).assert_outcomes(passed=2)


def test_the_markers_of_the_module_the_class_and_the_function_add_up(
    run_pytest: Run, lab_address: str
) -> None:
    source = """
    import pytest
    pytestmark = pytest.mark.jumpstarter(requires=["module"])
    @pytest.mark.jumpstarter(requires=["of_class"])
    class TestIt:
        @pytest.fixture(scope="class", autouse=True)
        def needs_it(self, device):
            device.of_class.call("on")  # raises if the check comes later
        @pytest.mark.jumpstarter(requires=["function"])
        def test_it(self): raise AssertionError
    """
    result = run_pytest(source, "-rs", "--jumpstarter", lab_address)
    result.assert_outcomes(skipped=1)
    for name in ("module", "of_class", "function"):
        assert f"no driver {name}" in result.stdout.str()


@pytest.mark.parametrize("arguments", ["'power'", "requires=[1]", "require=['power']", ""])
def test_a_wrong_marker_is_an_error_that_says_what_to_write(
    run_pytest: Run, lab_address: str, arguments: str
) -> None:
    source = f"""
    import pytest
    @pytest.mark.jumpstarter({arguments})
    def test_it(): pass
    """
    result = run_pytest(source, "--jumpstarter", lab_address)
    result.assert_outcomes(errors=1)
    assert "takes requires=[...], a list of drivers' names" in result.stdout.str()


def test_a_project_with_a_fixture_of_the_same_name_keeps_it(
    run_pytest: Run, lab_address: str
) -> None:
    source = """
    import pytest
    @pytest.fixture
    def device(device): return device.power
    @pytest.mark.jumpstarter(requires=["power"])
    def test_it(device): assert device.call("on") == "on"
    """
    run_pytest(source, "--jumpstarter", lab_address).assert_outcomes(passed=1)
