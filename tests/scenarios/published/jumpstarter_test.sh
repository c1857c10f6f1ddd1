# A test of the published base class, in a shell.
. "$SCENARIOS/common.sh"

cat >exporter.yaml <<YAML
metadata:
  name: published
export:
  power: {type: jumpstarter_driver_power.driver.MockPower}
YAML
cat >test_board.py <<PYTHON
from jumpstarter_testing.pytest import JumpstarterTest


class TestBoard(JumpstarterTest):
    selector = "board=mock"

    def test_power(self, client):
        client.power.on()
        assert [reading.voltage for reading in client.power.read()] == VOLTAGES


VOLTAGES = [0.0, 5.0]
PYTHON
expect 0 jmp shell --exporter-config exporter.yaml -- python -m pytest -q test_board.py
echo 'VOLTAGES = []' >>test_board.py
expect 1 jmp shell --exporter-config exporter.yaml -- python -m pytest -q test_board.py
